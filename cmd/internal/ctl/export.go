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

func (t *tool) exportList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the exports, with their storage",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				exports, err := client.Exports(ctx)
				if err != nil {
					return err
				}
				return t.show(exports, func(w io.Writer) {
					printExports(w, exports)
					fmt.Fprintln(w)
					printStorage(w, exports)
				})
			})
		},
	}
}

func (t *tool) exportSet() *cobra.Command {
	return &cobra.Command{
		Use:   "set NAME writethrough=off|async|sync",
		Short: "Change an export while it is in use, until the daemon ends",
		Long: "Change an export while it is in use, until the daemon ends.\n\n" +
			"writethrough: whether pages that a backend takes go to storage as well. async copies\n" +
			"them soon after, sync before the write is answered. Turning it on copies older pages too.",
		Example: "  tmemctl export set swap writethrough=async",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < 2 {
				return cli.Misuse(c.CommandPath()+" --help shows how", "%s takes the name of an export and what to set", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			var settings admin.ExportSettings
			for _, arg := range args[1:] {
				key, value, _ := strings.Cut(arg, "=")
				if key != "writethrough" || value == "" {
					return cli.Misuse("write writethrough=off, writethrough=async or writethrough=sync", "%q is nothing to set", arg)
				}
				settings.Writethrough = value
			}
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				e, err := client.SetExport(ctx, args[0], settings)
				if err != nil {
					return err
				}
				return t.show(e, func(w io.Writer) { fmt.Fprintf(w, "export %s: writethrough is %s\n", e.Name, e.Writethrough) })
			})
		},
		ValidArgsFunction: t.completeExports(),
	}
}

func (t *tool) completeExports() cobra.CompletionFunc {
	return t.complete(func(s admin.Status) []string {
		var names []string
		for _, e := range s.Exports {
			names = append(names, e.Name)
		}
		return names
	})
}

// writethrough is the mode, and how much there is to do.
func writethrough(e admin.Export) string {
	if e.PendingBlocks > 0 {
		return fmt.Sprintf("%s (%s to check)", e.Writethrough, cli.Bytes(uint64(e.PendingBlocks)<<20))
	}
	return e.Writethrough
}

func printStorage(w io.Writer, exports []admin.Export) {
	rows := [][]string{{"STORAGE", "EXPORT", "TAKEN", "O_DIRECT", "READ", "WRITTEN", "GIVEN BACK", "ERRORS", "WRITETHROUGH", "RESCUED"}}
	for _, e := range exports {
		direct := "no"
		if e.Storage.Direct {
			direct = "yes"
		}
		s := e.Storage
		rows = append(rows, []string{
			s.Path, e.Name, cli.Bytes(uint64(s.AllocatedBytes)), direct, pages(int64(s.PagesRead)), pages(int64(s.PagesWritten)),
			pages(int64(s.PagesPunched)), fmt.Sprint(s.ReadErrors + s.WriteErrors + s.PunchErrors),
			writethrough(e), fmt.Sprint(e.RescuedPages),
		})
	}
	table(w, rows)
}
