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
	var request admin.LoadRequest
	var set []string
	command := &cobra.Command{
		Use:   "load KIND",
		Short: "Load a backend: pages that are swapped out from now on are offered to it",
		Long: "Load a backend: pages that are swapped out from now on are offered to it.\n\n" +
			"The settings of a zcache, for --set, with an example each:\n\n" + config.SettingsHelp("zcache") +
			"\nThe settings of a ramster:\n\n" + config.SettingsHelp("ramster"),
		Example: "  tmemctl backend load zcache --size 2GiB\n" +
			"  tmemctl backend load ramster --set donors=east=tcp://10.0.0.2:10810,west=tcp://10.0.0.3:10810",
		Args: oneArgument("KIND"),
		RunE: func(c *cobra.Command, args []string) (err error) {
			request.Kind = args[0]
			if request.Settings, err = parseSettings(c, set); err != nil {
				return err
			}
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				b, err := client.Load(ctx, request)
				if err != nil {
					return err
				}
				return t.show(b, func(w io.Writer) { printLoaded(w, b) })
			})
		},
		ValidArgsFunction: t.complete(func(s admin.Status) []string { return s.Kinds }),
	}
	command.Flags().StringVar(&request.Name, "name", "", "`name` of the backend (default: its kind)")
	command.Flags().StringVar(&request.Size, "size", "", sizeUsage)
	command.Flags().StringArrayVar(&set, "set", nil, setUsage)
	return command
}

func printLoaded(w io.Writer, b admin.Backend) {
	for _, s := range b.Settings {
		if b.Kind == "ramster" && s.Key == "size" {
			fmt.Fprintf(w, "loaded %s: other hosts get new pages, up to %s of them (tmemctl donor list)\n", b.Name, s.Value)
			return
		}
	}
	fmt.Fprintf(w, "loaded %s: it takes new pages, in up to %s of memory\n", b.Name, cli.Bytes(b.LimitBytes))
}

const (
	sizeUsage = "memory that it may take, or page data that other hosts may have of a ramster, as a `size` such as 1GiB or 20% of RAM\n" +
		"(default " + config.DefaultBackendSize + ", of a ramster " + config.DefaultRamsterSize + ")"
	setUsage = "a setting, as `KEY=VALUE`; may be repeated"
)

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
