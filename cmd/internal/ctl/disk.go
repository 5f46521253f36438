package ctl

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

func (t *tool) diskList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the disks, with what their cache did",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				disks, err := client.Disks(ctx)
				if err != nil {
					return err
				}
				return t.show(disks, func(w io.Writer) {
					if len(disks) == 0 {
						fmt.Fprintln(w, "no disk is served: [[disk]] in the configuration names them, or tmemctl disk create makes one")
						return
					}
					printDisks(w, disks)
					fmt.Fprintln(w)
					printDiskStorage(w, disks)
				})
			})
		},
	}
}

func (t *tool) diskSet() *cobra.Command {
	return &cobra.Command{
		Use:   "set NAME mode=inclusive|exclusive",
		Short: "Change a disk while it is in use, until the daemon ends",
		Long: "Change a disk while it is in use, until the daemon ends.\n\n" +
			"mode: whether a page that was read from the cache stays there (inclusive), or leaves it,\n" +
			"as the client has it in its own memory now (exclusive).",
		Example: "  tmemctl disk set root mode=exclusive",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 2 {
				return cli.Misuse(c.CommandPath()+" --help shows how", "%s takes the name of a disk and what to set", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			mode, ok := strings.CutPrefix(args[1], "mode=")
			if !ok || mode == "" {
				return cli.Misuse("write mode=inclusive or mode=exclusive", "%q is nothing to set", args[1])
			}
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				d, err := client.SetDisk(ctx, args[0], admin.DiskSettings{Mode: mode})
				if err != nil {
					return err
				}
				return t.show(d, func(w io.Writer) { fmt.Fprintf(w, "disk %s: mode is %s\n", d.Name, d.Mode) })
			})
		},
		ValidArgsFunction: t.completeDisks(),
	}
}

func (t *tool) completeDisks() cobra.CompletionFunc {
	return t.complete(func(s admin.Status) []string {
		var names []string
		for _, d := range s.Disks {
			names = append(names, d.Name)
		}
		return names
	})
}

func printDisks(w io.Writer, disks []admin.Disk) {
	rows := [][]string{{"DISK", "SIZE", "CLIENTS", "MODE", "CACHED", "HITS", "MISSES", "HIT RATE", "PUTS", "INVALIDATES", "ERRORS"}}
	for _, d := range disks {
		cached, failed := int64(0), uint64(0)
		for _, n := range d.Backends {
			cached += n
		}
		for _, n := range d.Errors {
			failed += n
		}
		mode := d.Mode
		if d.ReadOnly {
			mode += ", read only"
		}
		rate := "-"
		if gets := d.SuccGets + d.FailedGets; gets > 0 {
			rate = fmt.Sprintf("%.1f %%", 100*float64(d.SuccGets)/float64(gets))
		}
		rows = append(rows, []string{
			d.Name, cli.Bytes(uint64(d.SizeBytes)), fmt.Sprint(d.Clients), mode, pages(cached), fmt.Sprint(d.SuccGets), fmt.Sprint(d.FailedGets),
			rate, fmt.Sprint(d.Puts), fmt.Sprint(d.Invalidates), fmt.Sprint(failed),
		})
	}
	table(w, rows)
}

func printDiskStorage(w io.Writer, disks []admin.Disk) {
	rows := [][]string{{"STORAGE", "DISK", "O_DIRECT", "READ", "WRITTEN", "GIVEN BACK", "ERRORS"}}
	for _, d := range disks {
		direct := "no"
		if d.Storage.Direct {
			direct = "yes"
		}
		s := d.Storage
		rows = append(rows, []string{
			s.Path, d.Name, direct, pages(int64(s.PagesRead)), pages(int64(s.PagesWritten)), pages(int64(s.PagesPunched)),
			fmt.Sprint(s.ReadErrors + s.WriteErrors + s.PunchErrors),
		})
	}
	table(w, rows)
}
