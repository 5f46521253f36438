package ctl

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

func (t *tool) faultList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List what can be made to fail, and the rules by which it does",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				list, err := client.Faults(ctx)
				if err != nil {
					return err
				}
				return t.show(list, func(w io.Writer) { printFaults(w, list) })
			})
		},
	}
}

func (t *tool) faultSet() *cobra.Command {
	return &cobra.Command{
		Use:   "set TARGET RULE...",
		Short: "Make a backend, or the storage of an export, fail by rules; the earlier ones are dropped",
		Long: "Make a backend, or the storage of an export, fail by rules; the earlier ones are dropped.\n\n" +
			"A rule is one argument: OPERATION [pages=FIRST-LAST] [every=N] [times=N] ACTION\n" +
			"  operations of a backend: store, load, any; of storage: read, write, punch, sync, any\n" +
			"  actions: refuse (store), error, transient, full (write), corrupt (load, read),\n" +
			"  gone (load: the cached page of a disk was forgotten; those of swap never are), delay=TIME\n" +
			"TARGET is the name of a backend, an export or a disk; backend:NAME or storage:NAME if it is both.",
		Example: "  tmemctl fault set zcache \"load every=100 corrupt\"\n  tmemctl fault set swap \"write times=3 full\"",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < 2 {
				return cli.Misuse(c.CommandPath()+" --help shows how", "%s takes a target and rules", c.CommandPath())
			}
			return nil
		},
		RunE:              func(c *cobra.Command, args []string) error { return t.setFaults(c, args[0], args[1:]) },
		ValidArgsFunction: t.completeTargets(),
	}
}

func (t *tool) faultClear() *cobra.Command {
	return &cobra.Command{
		Use:               "clear TARGET",
		Short:             "Drop the rules of a backend or of an export's storage",
		Args:              oneArgument("TARGET"),
		RunE:              func(c *cobra.Command, args []string) error { return t.setFaults(c, args[0], []string{}) },
		ValidArgsFunction: t.completeTargets(),
	}
}

func (t *tool) setFaults(c *cobra.Command, target string, rules []string) error {
	return t.ask(c, func(ctx context.Context, client *admin.Client) error {
		f, err := client.SetFaults(ctx, target, rules)
		if err != nil {
			return err
		}
		return t.show(f, func(w io.Writer) { printFaults(w, []admin.Fault{f}) })
	})
}

func (t *tool) completeTargets() cobra.CompletionFunc {
	return t.complete(func(s admin.Status) []string {
		var names []string
		for _, b := range s.Backends {
			names = append(names, b.Name)
		}
		for _, e := range s.Exports {
			names = append(names, e.Name)
		}
		for _, d := range s.Disks {
			names = append(names, d.Name)
		}
		return names
	})
}

func printFaults(w io.Writer, list []admin.Fault) {
	for _, f := range list {
		if len(f.Rules) == 0 {
			fmt.Fprintf(w, "%s %s: no rules\n", f.Part, f.Target)
		}
		for _, r := range f.Rules {
			fmt.Fprintf(w, "%s %s: %s (%d times so far)\n", f.Part, f.Target, r.Rule, r.Fired)
		}
	}
}
