package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/tmemd/tmemd/deploy/corpus"
)

// options of the command.
type options struct {
	pages  int // of the export
	unique int // of the corpus; the export has them over and over
	rounds int
	seed   uint64
	tmpfs  string // folder in memory
	disk   string // folder on a disk
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2) // said by the flag package
	}
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	}
}

func parseOptions(arguments []string) (options, error) {
	var o options
	set := flag.NewFlagSet("drainbench", flag.ContinueOnError)
	set.IntVar(&o.pages, "pages", 64<<10, "pages of the export")
	set.IntVar(&o.unique, "unique", 16<<10, "pages of the corpus, of which the export has copies")
	set.IntVar(&o.rounds, "rounds", 5, "rounds")
	set.Uint64Var(&o.seed, "seed", 1, "seed of the corpus' order and of the reads")
	set.StringVar(&o.tmpfs, "tmpfs", "/dev/shm", "`folder` in memory")
	set.StringVar(&o.disk, "disk", os.TempDir(), "`folder` on a disk")
	if err := set.Parse(arguments); err != nil {
		return o, err
	}
	if o.pages < 1024 || o.unique < 256 || o.rounds < 1 {
		err := errors.New("at least 1024 pages, 256 of them unique, and 1 round are needed")
		fmt.Fprintln(set.Output(), err)
		return o, err
	}
	return o, nil
}

// round is what one round found out.
type round struct {
	tmpfs, disk drainResult
	foreground  foregroundResult
}

// run does it all and prints the report.
func run(ctx context.Context, o options, out io.Writer) error {
	content, err := corpus.Sample(ctx, corpus.Options{Bytes: int64(o.unique) * corpus.PageSize, Seed: o.seed})
	if err != nil {
		return err
	}
	total := content.Total()
	fmt.Fprintf(out, "%d pages of real memory (lz4 ratio %.2f), an export of %d; %d processors, load average %s\n\n",
		content.Pages(), total.Ratio(), o.pages, runtime.NumCPU(), loadAverage())
	var rounds []round
	for n := range o.rounds {
		var r round
		var err error
		if r.tmpfs, err = measureTmpfs(ctx, content, o); err != nil {
			return fmt.Errorf("drain to tmpfs: %w", err)
		}
		if r.disk, err = measureDisk(ctx, content, o); err != nil {
			return fmt.Errorf("drain to a disk: %w", err)
		}
		if r.foreground, err = measureForeground(ctx, content, o, uint64(n)); err != nil {
			return fmt.Errorf("read during a drain: %w", err)
		}
		rounds = append(rounds, r)
	}
	report(out, rounds)
	return nil
}

func report(out io.Writer, rounds []round) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name, format string, value func(r *round) float64) {
		fmt.Fprintf(table, "%s\t", name)
		var all []float64
		for i := range rounds {
			v := value(&rounds[i])
			all = append(all, v)
			fmt.Fprintf(table, format+"\t", v)
		}
		fmt.Fprintf(table, format+"\t\n", median(all))
	}
	fmt.Fprint(table, "\t")
	for n := range rounds {
		fmt.Fprintf(table, "round %d\t", n+1)
	}
	fmt.Fprint(table, "median\t\n")
	row("tmpfs, one processor: drain, MB/s", "%.0f", func(r *round) float64 { return r.tmpfs.rate })
	row("MB for a second of processor time", "%.0f", func(r *round) float64 { return r.tmpfs.processor })
	row("plain writes, MB/s", "%.0f", func(r *round) float64 { return r.tmpfs.peers[0] })
	row("ratio", "%.2f", func(r *round) float64 { return r.tmpfs.rate / r.tmpfs.peers[0] })
	row("disk: drain, MB/s", "%.0f", func(r *round) float64 { return r.disk.rate })
	row("MB for a second of processor time", "%.0f", func(r *round) float64 { return r.disk.processor })
	row("mean write of the drain, KiB", "%.0f", func(r *round) float64 { return float64(r.disk.meanWrite) / 1024 })
	row("fio, 1 MiB, MB/s", "%.0f", func(r *round) float64 { return r.disk.peers[0] })
	row("ratio", "%.2f", func(r *round) float64 { return r.disk.rate / r.disk.peers[0] })
	row("fio, mean write of the drain, MB/s", "%.0f", func(r *round) float64 { return r.disk.peers[1] })
	row("ratio", "%.2f", func(r *round) float64 { return r.disk.rate / r.disk.peers[1] })
	row("reads alone, thousand/s", "%.0f", func(r *round) float64 { return r.foreground.alone.rate / 1000 })
	row("reads during a drain, thousand/s", "%.0f", func(r *round) float64 { return r.foreground.during.rate / 1000 })
	row("ratio", "%.2f", func(r *round) float64 { return r.foreground.during.rate / r.foreground.alone.rate })
	row("p99.9 alone, µs", "%.0f", func(r *round) float64 { return r.foreground.alone.p999 })
	row("p99.9 during a drain, µs", "%.0f", func(r *round) float64 { return r.foreground.during.p999 })
	row("that drain, MB/s", "%.0f", func(r *round) float64 { return r.foreground.drain })
	table.Flush()
	fmt.Fprintf(out, "\nload average at the end: %s\n", loadAverage())
}

// median sorts the values, at least one.
func median(values []float64) float64 {
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	fields := strings.Fields(string(text))
	return fields[0]
}
