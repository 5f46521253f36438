package ctl

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/view"
)

// rateTime is how far apart the samples are that rates are made of.
const rateTime = time.Second

func (t *tool) status() *cobra.Command {
	var all bool
	var interval time.Duration
	command := &cobra.Command{
		Use:   "status",
		Short: "Show everything at a glance: what is wrong, what is where, and how fast pages move",
		Long: "Show everything at a glance: what is wrong, with the cure; what is where; how fast pages move.\n\n" +
			"Rates are taken from two samples, a second apart on a terminal; elsewhere there are none unless\n" +
			"--interval asks for them. With --json it is all that the daemon says, and no rates: those are\n" +
			"differences of its counters.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			screen := view.ScreenOf(t.out, os.Getenv)
			if screen.Width == 0 && !c.Flags().Changed("interval") {
				interval = 0
			}
			if interval < 0 {
				return cli.Misuse("write a time such as 2s, or 0 for no rates", "--interval: %s is less than nothing", interval)
			}
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				s, err := client.Status(ctx)
				if err != nil {
					return err
				}
				now := view.Sample{At: time.Now(), Status: s}
				if t.json {
					return t.show(s, nil)
				}
				var before *view.Sample
				if interval > 0 {
					earlier := now
					before = &earlier
					select {
					case <-ctx.Done():
						return context.Cause(ctx)
					case <-time.After(interval):
					}
					if s, err = client.Status(ctx); err != nil {
						return err
					}
					now = view.Sample{At: time.Now(), Status: s}
				}
				view.Status(t.out, screen, before, now, all)
				return nil
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	command.Flags().BoolVar(&all, "all", false, "cut no list")
	command.Flags().DurationVar(&interval, "interval", rateTime, "`time` between the samples that rates are made of; 0 for no rates")
	return command
}

// table prints rows of cells below a head: the first column is aligned left, the
// others right. On a terminal that is too narrow the last columns are left out.
func table(w io.Writer, rows [][]string) {
	columns := make([]view.Column, len(rows[0]))
	for i, title := range rows[0] {
		columns[i] = view.Column{Title: title, Left: i == 0, Rank: i}
	}
	screen := view.ScreenOf(w, os.Getenv)
	if left := view.Table(w, screen, columns, rows[1:]); len(left) > 0 {
		fmt.Fprintf(w, "no room for %s: a wider terminal or --json has them\n", strings.ToLower(strings.Join(left, ", ")))
	}
}

func pages(n int64) string { return cli.Bytes(uint64(max(n, 0)) * backends.PageSize) }

func printExports(w io.Writer, exports []admin.Export) {
	rows := [][]string{{"EXPORT", "SIZE", "CLIENTS", "BACKENDS", "STORAGE", "HOLES", "UNTOUCHED", "LOADS", "STORES", "REFUSED", "ERRORS"}}
	for _, e := range exports {
		if e.MovedTo != "" {
			continue
		}
		held := int64(0)
		for _, n := range e.Pages.Backends {
			held += n
		}
		failed := uint64(0)
		for _, n := range e.Errors {
			failed += n
		}
		rows = append(rows, []string{
			e.Name, cli.Bytes(uint64(e.SizeBytes)), fmt.Sprint(e.Clients), pages(held), pages(e.Pages.Storage), pages(e.Pages.Hole),
			pages(e.Pages.None), fmt.Sprint(e.Loads), fmt.Sprint(e.SuccStores), fmt.Sprint(e.FailedStores), fmt.Sprint(failed),
		})
	}
	table(w, rows)
	for _, e := range exports {
		if e.MovedTo != "" {
			fmt.Fprintf(w, "%s moved to %s (tmemctl export delete %s forgets that)\n", e.Name, e.MovedTo, e.Name)
		}
	}
	for _, e := range exports {
		if e.Writethrough != "" && e.Writethrough != "off" {
			fmt.Fprintf(w, "%s copies pages to storage: %s\n", e.Name, view.Writethrough(e))
		}
	}
}

func printBackends(w io.Writer, list []admin.Backend) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no backend is loaded: pages go to storage")
		return
	}
	rows := [][]string{{"BACKEND", "KIND", "STATE", "DATA", "MEMORY", "LIMIT", "RATIO", "SAME-FILLED", "REFUSED", "ERRORS"}}
	for _, b := range list {
		refused := uint64(0)
		for _, n := range b.Refused {
			refused += n
		}
		rows = append(rows, []string{
			b.Name, b.Kind, b.State, pages(int64(b.Pages + b.EphemeralPages)), cli.Bytes(b.HeldBytes), cli.Bytes(b.LimitBytes), view.Ratio(b),
			fmt.Sprint(b.SameFilledPages), fmt.Sprint(refused), fmt.Sprint(b.LoadErrors),
		})
	}
	table(w, rows)
	for _, b := range list {
		if b.Reason != "" {
			fmt.Fprintf(w, "%s is %s: %s\n", b.Name, b.State, b.Reason)
		}
		if b.LimitBytes < b.MaxBytes {
			fmt.Fprintf(w, "%s may take %s of %s: the host is or was short of memory\n", b.Name, cli.Bytes(b.LimitBytes), cli.Bytes(b.MaxBytes))
		}
		if b.Drain != nil && b.Drain.Running {
			event := admin.MoveEvent{Backend: b.Name, Progress: *b.Drain}
			if b.State == "draining" {
				event.Operation = admin.OperationUnload
			}
			fmt.Fprintln(w, progressLine(event))
		}
	}
}
