package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

func (t *tool) backendList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the loaded backends, in the order in which pages are offered to them",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				list, err := client.Backends(ctx)
				if err != nil {
					return err
				}
				return t.show(list, func(w io.Writer) { printBackends(w, list) })
			})
		},
	}
}

func (t *tool) backendLoad() *cobra.Command {
	var name, size string
	command := &cobra.Command{
		Use:     "load KIND",
		Short:   "Load a backend: pages that are swapped out from now on are offered to it",
		Example: "  tmemctl backend load zcache --size 2GiB",
		Args:    oneArgument("KIND"),
		RunE: func(c *cobra.Command, args []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				b, err := client.Load(ctx, admin.LoadRequest{Kind: args[0], Name: name, Size: size})
				if err != nil {
					return err
				}
				return t.show(b, func(w io.Writer) {
					fmt.Fprintf(w, "loaded %s: it takes new pages, in up to %s of memory\n", b.Name, cli.Bytes(b.LimitBytes))
				})
			})
		},
		ValidArgsFunction: t.complete(func(s admin.Status) []string { return s.Kinds }),
	}
	command.Flags().StringVar(&name, "name", "", "`name` of the backend (default: its kind)")
	command.Flags().StringVar(&size, "size", "", "memory that it may take, as a `size` such as 1GiB or 20% of RAM (default "+config.DefaultBackendSize+")")
	return command
}

func (t *tool) backendUnload() *cobra.Command {
	return &cobra.Command{
		Use:   "unload NAME",
		Short: "Move a backend's pages on while swap is in use, then let it go",
		Long: "Move a backend's pages to the backends after it and to storage while swap is in use,\n" +
			"then let it go.\n\n" +
			"The daemon goes on with it if tmemctl is interrupted. If storage fails, the backend\n" +
			"stays, with every page that was not moved, and can be unloaded again.",
		Args: oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return t.follow(c, args[0], func(ctx context.Context, client *admin.Client, report func(admin.MoveEvent)) error {
				return client.Unload(ctx, args[0], report)
			})
		},
		ValidArgsFunction: t.completeBackends(),
	}
}

// follow shows the progress of a move that begins with do.
func (t *tool) follow(c *cobra.Command, name string, do func(context.Context, *admin.Client, func(admin.MoveEvent)) error) error {
	return t.ask(c, func(ctx context.Context, client *admin.Client) error {
		p := newProgress(t.out, t.json, time.Now)
		operation := c.Name()
		err := do(ctx, client, p.report)
		p.end()
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
			return cli.Failure("tmemctl backend list shows how far it is, tmemctl backend cancel "+name+" ends it",
				"interrupted; the daemon goes on %s %s", verbs[operation].doing, name)
		}
		return err
	})
}

func (t *tool) completeBackends() cobra.CompletionFunc {
	return t.complete(func(s admin.Status) []string {
		var names []string
		for _, b := range s.Backends {
			names = append(names, b.Name)
		}
		return names
	})
}
