package ctl

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

func (t *tool) poolCommands() *cobra.Command {
	return t.group("pool", "Look at the pages of exports and disks, and who may share them", t.poolList(), t.poolFreeable(),
		t.group("shared-auth", "Look at and change which UUIDs disks may share pages under", t.sharedAuthList(), t.sharedAuthSet("authorise", true), t.sharedAuthSet("revoke", false)))
}

func (t *tool) poolList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the pools: the pages of each export and disk",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				list, err := client.Pools(ctx)
				if err != nil {
					return err
				}
				return t.show(list, func(w io.Writer) { printPools(w, list) })
			})
		},
	}
}

func printPools(w io.Writer, list []admin.Pool) {
	rows := [][]string{{"POOL", "CLIENT", "SORT", "DATA", "MEMORY", "PUTS", "PUTS FAILED", "GETS", "GETS FAILED", "INVALIDATES", "UUID"}}
	for _, p := range list {
		client, memory, uuid := p.Client, cli.Bytes(p.UsedBytes), p.UUID
		if p.Sort != "persistent" {
			client, memory = "-", "-"
		}
		if uuid == "" {
			uuid = "-"
		}
		rows = append(rows, []string{
			p.Name, client, p.Sort, pages(int64(p.Pages)), memory, fmt.Sprint(p.SuccPuts), fmt.Sprint(p.FailedPuts),
			fmt.Sprint(p.SuccGets), fmt.Sprint(p.FailedGets), fmt.Sprint(p.Invalidates), uuid,
		})
	}
	table(w, rows)
}

func (t *tool) poolFreeable() *cobra.Command {
	return &cobra.Command{
		Use:   "freeable",
		Short: "Show how much memory clients can still get without a page of theirs being moved: MiB free or of ephemeral pages",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				f, err := client.Freeable(ctx)
				if err != nil {
					return err
				}
				return t.show(f, func(w io.Writer) { fmt.Fprintln(w, f.Bytes>>20) })
			})
		},
	}
}

func (t *tool) sharedAuthList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the UUIDs that disks may share pages under",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				list, err := client.SharedAuths(ctx)
				if err != nil {
					return err
				}
				return t.show(list, func(w io.Writer) {
					if len(list) == 0 {
						fmt.Fprintln(w, "nobody may share pages: [[base]] in the configuration authorises a UUID")
						return
					}
					rows := [][]string{{"UUID", "BASE", "USED BY"}}
					for _, a := range list {
						base := a.Base
						if base == "" {
							base = "-"
						}
						rows = append(rows, []string{a.UUID, base, fmt.Sprint(a.Users)})
					}
					table(w, rows)
				})
			})
		},
	}
}

func (t *tool) sharedAuthSet(verb string, authorised bool) *cobra.Command {
	short := "Let disks share pages under a UUID, until tmemd is stopped"
	if !authorised {
		short = "Let nobody share pages under a UUID any more, if nobody does"
	}
	return &cobra.Command{
		Use:   verb + " UUID",
		Short: short,
		Args:  oneArgument("UUID"),
		RunE: func(c *cobra.Command, args []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				a, err := client.SetSharedAuth(ctx, admin.SharedAuth{UUID: args[0], Authorised: authorised})
				if err != nil {
					return err
				}
				return t.show(a, func(w io.Writer) {
					told := "not authorised"
					if a.Authorised {
						told = "authorised"
					}
					fmt.Fprintf(w, "%s is %s\n", a.UUID, told)
				})
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}
