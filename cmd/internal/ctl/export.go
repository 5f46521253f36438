package ctl

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/view"
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
				commitments, err := client.Commitments(ctx)
				if err != nil {
					return err
				}
				return t.show(exports, func(w io.Writer) {
					printExports(w, exports)
					fmt.Fprintln(w)
					printStorage(w, exports)
					printShortage(w, commitments)
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

func (t *tool) exportCreate() *cobra.Command {
	var request admin.CreateRequest
	command := &cobra.Command{
		Use:   "create NAME --size SIZE | --template NAME",
		Short: "Make an export and serve it, now and after the next start",
		Long: "Make an export and serve it, now and after the next start.\n\n" +
			"Its storage is a new file, or a block device.",
		Example: "  tmemctl export create scratch --size 4GiB --writethrough async\n  tmemctl export create vm1-swap --template small --client vm1",
		Args:    oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			if request.Size == "" && request.Template == "" {
				return cli.Misuse("say --size SIZE, such as --size 4GiB, or --template NAME", "how large is export %s to be?", args[0])
			}
			request.Name = args[0]
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				e, err := client.CreateExport(ctx, request)
				if err != nil {
					return err
				}
				return t.show(e, func(w io.Writer) {
					fmt.Fprintf(w, "created export %s, %s, storage %s\n", e.Name, cli.Bytes(uint64(e.SizeBytes)), e.Storage.Path)
				})
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	command.Flags().StringVar(&request.Template, "template", "", "`name` of a [[template]] of the configuration, for what is left out here")
	command.Flags().StringVar(&request.Client, "client", "", "`name` of the client that it belongs to (default: default)")
	command.Flags().StringVar(&request.Size, "size", "", "`size` of the export, such as 8GiB or 100% of RAM")
	command.Flags().StringArrayVar(&request.Allow, "allow", nil, "`rule` about who may open it: cert:NAME, uid:NUMBER or gid:NUMBER; may be repeated")
	command.Flags().StringVar(&request.Storage, "storage", "", "`path` of its storage (default: NAME.img in the daemon's folder)")
	command.Flags().StringVar(&request.Writethrough, "writethrough", "", "`mode`: off, async or sync (default off)")
	return command
}

func (t *tool) exportResize() *cobra.Command {
	var request admin.ResizeRequest
	command := &cobra.Command{
		Use:   "resize NAME SIZE",
		Short: "Give an export another size while it is in use",
		Long: "Give an export another size while it is in use, now and after the next start.\n\n" +
			"What it gains reads as zeros. NBD cannot tell clients that are attached: they keep the\n" +
			"size that they know until they attach anew (and swap its size until mkswap). An export\n" +
			"gets smaller only while no client is attached, and only if there is nothing beyond the\n" +
			"new end, or if that is given up with --discard-pages. Pages may be moved meanwhile.",
		Example: "  tmemctl export resize swap 16GiB",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 2 {
				return cli.Misuse(c.CommandPath()+" --help shows how", "%s takes the name of an export and a size, not %d arguments", c.CommandPath(), len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			request.Size = args[1]
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				e, err := client.ResizeExport(ctx, args[0], request)
				if err != nil {
					return err
				}
				return t.show(e, func(w io.Writer) {
					fmt.Fprintf(w, "export %s has %s now\n", e.Name, cli.Bytes(uint64(e.SizeBytes)))
					if e.Clients > 0 {
						fmt.Fprintf(w, "clients that are attached (%d) do not see it before they attach anew\n", e.Clients)
					}
				})
			})
		},
		ValidArgsFunction: t.completeExports(),
	}
	command.Flags().BoolVar(&request.Discard, "discard-pages", false, "give up what is beyond a new end")
	return command
}

func (t *tool) exportDelete() *cobra.Command {
	var request admin.DeleteRequest
	command := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete an export that no client is attached to, and its pages",
		Long: "Delete an export that no client is attached to, and its pages.\n\n" +
			"One that moved to another tmemd is forgotten, so that there may be another of its name.\n" +
			"Storage that is left is not whole. An export that the configuration names is back,\n" +
			"empty, after the next start.",
		Args: oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				if err := client.DeleteExport(ctx, args[0], request); err != nil {
					return err
				}
				return t.show(request, func(w io.Writer) { fmt.Fprintf(w, "deleted export %s\n", args[0]) })
			})
		},
		ValidArgsFunction: t.completeExports(),
	}
	command.Flags().BoolVar(&request.RemoveStorage, "remove-storage", false, "remove the file that was made for it, too")
	return command
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

func printStorage(w io.Writer, exports []admin.Export) {
	rows := [][]string{{"STORAGE", "EXPORT", "TAKEN", "O_DIRECT", "READ", "WRITTEN", "GIVEN BACK", "ERRORS", "WRITETHROUGH", "RESCUED"}}
	for _, e := range exports {
		if e.MovedTo != "" {
			continue
		}
		direct := "no"
		if e.Storage.Direct {
			direct = "yes"
		}
		s := e.Storage
		rows = append(rows, []string{
			s.Path, e.Name, cli.Bytes(uint64(s.AllocatedBytes)), direct, pages(int64(s.PagesRead)), pages(int64(s.PagesWritten)),
			pages(int64(s.PagesPunched)), fmt.Sprint(s.ReadErrors + s.WriteErrors + s.PunchErrors),
			view.Writethrough(e), fmt.Sprint(e.RescuedPages),
		})
	}
	table(w, rows)
}
