package main

import (
	"context"
	"embed"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

//go:embed programs
var programs embed.FS

type options struct {
	visits      int    // of the site on this host
	guests      int    // of each sort; 0 leaves machines out
	guestVisits int    // of each guest's site in each phase
	series      string // of the guests' kernel
	cache       string // folder of kernels
}

func main() {
	var o options
	flag.IntVar(&o.visits, "visits", 400, "visits of the site on this host; 0 leaves its processes out")
	flag.IntVar(&o.guests, "guests", 3, "guests of each sort; 0 for none")
	flag.IntVar(&o.guestVisits, "guest-visits", 24, "visits of each guest's site in each phase; emulation takes about half a second for each")
	flag.StringVar(&o.series, "kernel", "6.12", "series of the guests' kernel")
	flag.StringVar(&o.cache, "cache", filepath.Join(".cache", "vm"), "folder where kernels are kept")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "dedup:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) error {
	folder, err := os.MkdirTemp("", "dedup-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	scripts, err := copyPrograms(folder)
	if err != nil {
		return err
	}
	printHead(out)
	var here []workload
	if o.visits > 0 {
		here = workloads(o.visits)
	}
	for _, w := range here {
		g, err := measureWorkload(ctx, w, scripts)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		printGain(out, w.name, g)
	}
	if o.guests == 0 {
		return nil
	}
	return measureGuests(ctx, o, folder, scripts, out)
}

// copyPrograms writes the programs to a folder that their interpreters can read.
func copyPrograms(folder string) (string, error) {
	into := filepath.Join(folder, "programs")
	return into, os.CopyFS(folder, programs)
}

func printHead(out io.Writer) {
	fmt.Fprintf(out, "%8s %8s %8s %8s %8s | %8s %8s | %8s %8s\n", "pages", "same", "refused", "stored", "twice", "lz4 KiB", "gain", "cold KiB", "gain")
}

// printGain prints a line of figures. What is there twice is objects that dedup would not keep.
func printGain(out io.Writer, name string, g gain) {
	fmt.Fprintf(out, "%8d %8d %8d %8d %8d | %8.0f %7.1f%% | %8.0f %7.1f%% | %s\n", g.Pages, g.SameFilled, g.Refused, g.Stored, g.Stored-g.Distinct,
		g.LZ4.Held/1024, 100*g.LZ4.Share(), g.Cold.Held/1024, 100*g.Cold.Share(), name)
}
