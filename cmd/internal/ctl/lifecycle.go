package ctl

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

func (t *tool) backendReplace() *cobra.Command {
	var with admin.LoadRequest
	var set []string
	command := &cobra.Command{
		Use:   "replace NAME --with KIND",
		Short: "Load a backend in the place of another, and move the pages over from memory to memory",
		Long: "Load a backend in the place of another, and move the pages over from memory to memory.\n\n" +
			"New pages go to the new one at once. The daemon goes on with it if tmemctl is\n" +
			"interrupted. If it stops, the old one stays, frozen, beside the new one: unload it then.",
		Example: "  tmemctl backend replace zcache --with zcache --name bigger --size 4GiB",
		Args:    oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if with.Kind == "" {
				return cli.Misuse("say --with KIND, such as --with "+config.DefaultBackend, "replace %s with what?", args[0])
			}
			if with.Settings, err = parseSettings(c, set); err != nil {
				return err
			}
			return t.follow(c, args[0], func(ctx context.Context, client *admin.Client, report func(admin.MoveEvent)) error {
				return client.Replace(ctx, args[0], with, report)
			})
		},
		ValidArgsFunction: t.completeBackends(),
	}
	command.Flags().StringVar(&with.Kind, "with", "", "`kind` of the new backend")
	command.Flags().StringVar(&with.Name, "name", "", "`name` of the new backend (default: its kind, with a number if that is taken)")
	command.Flags().StringVar(&with.Size, "size", "", sizeUsage)
	command.Flags().StringArrayVar(&set, "set", nil, setUsage+"; see tmemctl backend load --help")
	return command
}

func (t *tool) backendFreeze() *cobra.Command {
	var reason string
	command := &cobra.Command{
		Use:   "freeze NAME",
		Short: "Let a backend keep its pages and take no more",
		Args:  oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return t.change(c, func(ctx context.Context, client *admin.Client) (admin.Backend, error) {
				return client.Freeze(ctx, args[0], reason)
			}, "froze %s: it keeps its pages and takes no more\n")
		},
		ValidArgsFunction: t.completeBackends(),
	}
	command.Flags().StringVar(&reason, "reason", "", "`text` to show where the state is")
	return command
}

func (t *tool) backendThaw() *cobra.Command {
	return &cobra.Command{
		Use:   "thaw NAME",
		Short: "Let a frozen backend take pages again",
		Args:  oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return t.change(c, func(ctx context.Context, client *admin.Client) (admin.Backend, error) {
				return client.Thaw(ctx, args[0])
			}, "thawed %s: it takes pages again\n")
		},
		ValidArgsFunction: t.completeBackends(),
	}
}

func (t *tool) backendCancel() *cobra.Command {
	return &cobra.Command{
		Use:   "cancel NAME",
		Short: "End the unload, replace, shrink or migrate of a backend that is under way",
		Long: "End the unload, replace, shrink or migrate of a backend that is under way.\n\n" +
			"An unload or replace leaves the backend frozen with the pages that did not move yet:\n" +
			"unload goes on with it, thaw lets it take pages again.",
		Args: oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return t.change(c, func(ctx context.Context, client *admin.Client) (admin.Backend, error) {
				return client.Cancel(ctx, args[0])
			}, "cancelled: no more pages of %s are moved\n")
		},
		ValidArgsFunction: t.completeBackends(),
	}
}

// change does something to a backend and prints it, or the text with its name.
func (t *tool) change(c *cobra.Command, do func(context.Context, *admin.Client) (admin.Backend, error), text string) error {
	return t.ask(c, func(ctx context.Context, client *admin.Client) error {
		b, err := do(ctx, client)
		if err != nil {
			return err
		}
		return t.show(b, func(w io.Writer) { fmt.Fprintf(w, text, b.Name) })
	})
}

func (t *tool) backendOrder() *cobra.Command {
	return &cobra.Command{
		Use:   "order NAME...",
		Short: "Offer pages to backends in another order; those not named come after, as before",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cli.Misuse(c.CommandPath()+" --help shows how", "%s takes the names of backends", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				list, err := client.Order(ctx, args)
				if err != nil {
					return err
				}
				return t.show(list, func(w io.Writer) {
					var names []string
					for _, b := range list {
						names = append(names, b.Name)
					}
					fmt.Fprintf(w, "pages are offered to %s\n", strings.Join(names, ", then "))
				})
			})
		},
		ValidArgsFunction: t.completeBackends(),
	}
}

func (t *tool) backendShrink() *cobra.Command {
	return t.some("shrink", "Move the coldest of a backend's pages to storage, while it goes on", (*admin.Client).Shrink)
}

func (t *tool) backendMigrate() *cobra.Command {
	return t.some("migrate", "Move the coldest of a backend's pages to the backends after it, while it goes on", (*admin.Client).Migrate)
}

// some is a command that moves some of a backend's pages.
func (t *tool) some(verb, short string, do func(*admin.Client, context.Context, string, admin.MoveRequest, func(admin.MoveEvent)) error) *cobra.Command {
	var by admin.MoveRequest
	command := &cobra.Command{
		Use:     verb + " NAME --pages N | --bytes SIZE",
		Short:   short,
		Example: "  tmemctl backend " + verb + " zcache --bytes 512MiB",
		Args:    oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return t.follow(c, args[0], func(ctx context.Context, client *admin.Client, report func(admin.MoveEvent)) error {
				return do(client, ctx, args[0], by, report)
			})
		},
		ValidArgsFunction: t.completeBackends(),
	}
	command.Flags().Uint64Var(&by.Pages, "pages", 0, "how many, as a `number` of pages")
	command.Flags().StringVar(&by.Bytes, "bytes", "", "how many, as a `size` of pages before compression")
	return command
}
