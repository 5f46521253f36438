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

func (t *tool) lendStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the memory that this host lends, and to whom",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.lent(c, (*admin.Client).Lent, printLent)
		},
	}
}

func (t *tool) lendFreeze() *cobra.Command {
	return t.lendSwitch("freeze", "Take no more pages of other hosts, and keep those that are here", true)
}

func (t *tool) lendThaw() *cobra.Command {
	return t.lendSwitch("thaw", "Take pages of other hosts again", false)
}

func (t *tool) lendSwitch(verb, short string, frozen bool) *cobra.Command {
	return &cobra.Command{
		Use:   verb,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.setLent(c, admin.LentSettings{Frozen: &frozen}, func(w io.Writer, _ admin.Lent) {
				if frozen {
					fmt.Fprintln(w, "frozen: pages of other hosts stay, and no more are taken")
					return
				}
				fmt.Fprintln(w, "thawed: pages of other hosts are taken again")
			})
		},
	}
}

func (t *tool) lendSet() *cobra.Command {
	return &cobra.Command{
		Use:   "set size=SIZE",
		Short: "Change how much memory is lent, until tmemd is stopped",
		Long: "Change how much memory is lent, until tmemd is stopped. What is above a smaller size is not\n" +
			"dropped: its owners are asked to take it back, and tmemctl lend status shows how far they are.",
		Example: "  tmemctl lend set size=4GiB",
		Args:    oneArgument("size=SIZE"),
		RunE: func(c *cobra.Command, args []string) error {
			size, found := strings.CutPrefix(args[0], "size=")
			if !found || size == "" {
				return cli.Misuse("write size=4GiB, or size=20%", "%q is nothing to set", args[0])
			}
			return t.setLent(c, admin.LentSettings{Size: size}, func(w io.Writer, l admin.Lent) {
				fmt.Fprintf(w, "up to %s are lent\n", cli.Bytes(uint64(l.MaxBytes)))
				if l.HeldBytes > l.MaxBytes {
					fmt.Fprintf(w, "%s are taken: their owners are asked to take pages back\n", cli.Bytes(uint64(l.HeldBytes)))
				}
			})
		},
	}
}

func (t *tool) setLent(c *cobra.Command, settings admin.LentSettings, text func(io.Writer, admin.Lent)) error {
	return t.lent(c, func(client *admin.Client, ctx context.Context) (admin.Lent, error) {
		return client.SetLent(ctx, settings)
	}, text)
}

// lent asks for, or changes, what is lent, and prints it.
func (t *tool) lent(c *cobra.Command, do func(*admin.Client, context.Context) (admin.Lent, error), text func(io.Writer, admin.Lent)) error {
	return t.ask(c, func(ctx context.Context, client *admin.Client) error {
		l, err := do(client, ctx)
		if err != nil {
			return err
		}
		return t.show(l, func(w io.Writer) { text(w, l) })
	})
}

func printLent(w io.Writer, l admin.Lent) {
	fmt.Fprintf(w, "lends %s of %s on %s, %d sessions\n", cli.Bytes(uint64(l.HeldBytes)), cli.Bytes(uint64(l.LimitBytes)), strings.Join(l.Listen, "  "), l.Sessions)
	if l.Frozen {
		fmt.Fprintln(w, "frozen: no more pages are taken")
	}
	if l.LimitBytes < l.MaxBytes {
		fmt.Fprintf(w, "it may take %s of %s: the host is or was short of memory\n", cli.Bytes(uint64(l.LimitBytes)), cli.Bytes(uint64(l.MaxBytes)))
	}
	fmt.Fprintln(w)
	rows := [][]string{{"CLIENT", "PAGES", "EPHEMERAL", "USED", "QUOTA", "WEIGHT", "WANTED", "SESSIONS"}}
	for _, c := range l.Clients {
		quota := cli.Bytes(uint64(c.QuotaBytes))
		if !c.Granted {
			quota = "gone" // from the configuration
		}
		rows = append(rows, []string{
			view.Word(c.Name), fmt.Sprint(c.Pages), fmt.Sprint(c.EphemeralPages), cli.Bytes(uint64(c.UsedBytes)), quota,
			fmt.Sprint(c.Weight), cli.Bytes(uint64(c.WantedBytes)), fmt.Sprint(c.Sessions),
		})
	}
	table(w, rows)
}
