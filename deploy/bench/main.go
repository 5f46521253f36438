package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tmemd/tmemd/deploy/corpus"
)

// options of the command.
type options struct {
	pages    int
	seed     uint64
	rounds   int
	cell     time.Duration
	adverse  int           // rounds of the adverse conditions; 0 for none
	idle     int           // clients that are attached in one of them
	stuck    time.Duration // that storage keeps a page in another
	servers  []string
	tmemd    string // binary; built if empty
	folder   string // for sockets, storage and state
	profiles string // folder for profiles, or empty
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == serveCommand {
		exit(serve(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2) // said by the flag package
	}
	exit(run(ctx, o, os.Stdout))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parseOptions(arguments []string) (options, error) {
	var o options
	set := flag.NewFlagSet("bench", flag.ContinueOnError)
	set.IntVar(&o.pages, "pages", 16384, "pages of the corpus and of the exports")
	set.Uint64Var(&o.seed, "seed", 1, "seed of the corpus' order and of the workloads")
	set.IntVar(&o.rounds, "rounds", 3, "rounds of all servers in turn")
	set.DurationVar(&o.cell, "cell", time.Second, "time for each cell of the table")
	set.IntVar(&o.adverse, "adverse", 5, "rounds of the adverse conditions, if tmemd is measured; 0 for none")
	servers := set.String("servers", strings.Join(allServers, ","), "servers to measure, of "+strings.Join(allServers, ", ")+", "+serverTier)
	set.StringVar(&o.tmemd, "tmemd", "", "tmemd `binary` to measure (default: built from ./cmd/tmemd)")
	set.StringVar(&o.folder, "folder", os.TempDir(), "`folder` for sockets, storage and state")
	set.StringVar(&o.profiles, "profiles", "", "`folder` for processor profiles of the servers engine and tier")
	if err := set.Parse(arguments); err != nil {
		return o, err
	}
	o.idle, o.stuck = 1000, time.Second
	o.servers = strings.Split(*servers, ",")
	if o.pages < 256 || o.rounds < 1 || o.adverse < 0 || o.cell <= 0 {
		err := errors.New("at least 256 pages, 1 round and some time for each cell are needed")
		fmt.Fprintln(set.Output(), err)
		return o, err
	}
	return o, nil
}

// run does it all and prints the report.
func run(ctx context.Context, o options, out io.Writer) error {
	folder, err := os.MkdirTemp(o.folder, "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	o.folder = folder

	pages, err := corpus.Sample(ctx, corpus.Options{Bytes: int64(o.pages) * corpus.PageSize, Seed: o.seed})
	if err != nil {
		return err
	}
	printCorpus(out, pages, o.seed)
	if err := printDevice(out, pages); err != nil {
		return fmt.Errorf("measure the tier: %w", err)
	}
	servers, err := findServers(ctx, out, o)
	if err != nil {
		return err
	}
	m := new(measured)
	zram := zramHere()
	if zram != nil {
		fmt.Fprintf(out, "zram is left out: %v\n\n", zram)
	}
	if err := m.measureRounds(ctx, servers, zram == nil, pages, o); err != nil {
		return err
	}
	if o.adverse > 0 && slices.Contains(o.servers, serverTmemd) {
		if m.adverse, err = measureAdverse(ctx, pages, o); err != nil {
			return err
		}
	}
	printServers(out, m.servers, o)
	printZram(out, m.zram)
	printAdverse(out, m.adverse, o)
	printVerdict(out, m)
	fmt.Fprintf(out, "\nLoad average at the end: %s.\n", loadAverage())
	return nil
}
