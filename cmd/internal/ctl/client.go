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

func (t *tool) clientCommands() *cobra.Command {
	return t.group("client", "Look at and change who exports belong to, and what they may have of the memory",
		t.clientList(), t.clientCreate(), t.clientSet(), t.clientFreeze(), t.clientThaw(), t.clientDestroy())
}

func (t *tool) clientList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the clients, with what they may have and what they take",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				list, err := client.Clients(ctx)
				if err != nil {
					return err
				}
				commitments, err := client.Commitments(ctx)
				if err != nil {
					return err
				}
				return t.show(list, func(w io.Writer) {
					printPoolClients(w, list)
					printShortage(w, commitments)
				})
			})
		},
	}
}

func printPoolClients(w io.Writer, list []admin.PoolClient) {
	rows := [][]string{{"CLIENT", "WEIGHT", "CAP", "RESERVED", "SHARE", "USED", "DATA", "EXPORTS", "PROMISED", "WORST CASE", "EVICTED", "AT CAP", "ABOVE SHARE", "DEDUP", "FROZEN"}}
	for _, c := range list {
		frozen := "no"
		if c.Frozen {
			frozen = fmt.Sprintf("yes (%d)", c.Refused["frozen"])
		}
		rows = append(rows, []string{
			c.Name, fmt.Sprint(c.Weight), limitOr(c.CapBytes, "none"), limitOr(c.ReservationBytes, "none"), limitOr(c.Share, "all"),
			cli.Bytes(c.UsedBytes), pages(int64(c.Pages)), fmt.Sprint(len(c.Exports)), cli.Bytes(c.PromisedBytes), cli.Bytes(c.WorstBytes),
			fmt.Sprint(c.Evicted), fmt.Sprint(c.Refused["cap"]), fmt.Sprint(c.Refused["share"]), onOff(c.Dedup), frozen,
		})
	}
	table(w, rows)
	for _, c := range list {
		if c.KeptBytes < c.ReservationBytes {
			fmt.Fprintf(w, "%s keeps %s of the %s that it has reserved: backends may take less memory now than clients have reserved\n",
				c.Name, cli.Bytes(c.KeptBytes), cli.Bytes(c.ReservationBytes))
		}
	}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func limitOr(bytes uint64, none string) string {
	if bytes == 0 {
		return none
	}
	return cli.Bytes(bytes)
}

// printShortage warns of file systems that cannot take what exports promise.
func printShortage(w io.Writer, list []admin.Commitment) {
	for _, c := range list {
		if c.WorstBytes > c.FreeBytes {
			fmt.Fprintf(w, "warning: exports with storage in %s promise %s, and may still need %s there in the worst case, but %s are free\n",
				c.Folder, cli.Bytes(c.PromisedBytes), cli.Bytes(c.WorstBytes), cli.Bytes(c.FreeBytes))
		}
	}
}

func (t *tool) clientCreate() *cobra.Command {
	var request admin.ClientRequest
	command := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a client, now and after the next start",
		Long: "Make a client, now and after the next start: exports can belong to it, and share its memory.\n\n" +
			"When memory is short, pages are moved to storage from clients that have most above their\n" +
			"reservation for their weight, the coldest first. Nobody gets a client below its reservation,\n" +
			"and it itself not above its cap.",
		Example: "  tmemctl client create vm1 --weight 2 --cap 4GiB --reservation 512MiB",
		Args:    oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			request.Name = args[0]
			return t.changeClient(c, "created", func(ctx context.Context, client *admin.Client) (admin.PoolClient, error) {
				return client.CreateClient(ctx, request)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	command.Flags().Int64Var(&request.Weight, "weight", 1, "`number` from 1 to 65535: its part of what is not reserved, by comparison with others'")
	command.Flags().StringVar(&request.Cap, "cap", "", "`size` of memory that its pages take at most, such as 4GiB or 10% (default: no limit)")
	command.Flags().BoolVar(&request.Dedup, "dedup", false, "keep identical pages of its exports once, which its exports can find out about each other")
	command.Flags().StringVar(&request.Reservation, "reservation", "", "`size` of memory that nobody else can push it below (default: none)")
	return command
}

// changeClient changes a client and prints what it is then.
func (t *tool) changeClient(c *cobra.Command, what string, do func(context.Context, *admin.Client) (admin.PoolClient, error)) error {
	return t.ask(c, func(ctx context.Context, client *admin.Client) error {
		p, err := do(ctx, client)
		if err != nil {
			return err
		}
		return t.show(p, func(w io.Writer) {
			fmt.Fprintf(w, "%s client %s: weight %d, cap %s, reservation %s, dedup %s\n",
				what, p.Name, p.Weight, limitOr(p.CapBytes, "none"), limitOr(p.ReservationBytes, "none"), onOff(p.Dedup))
			if p.CapBytes > 0 && p.UsedBytes > p.CapBytes {
				fmt.Fprintf(w, "its pages take %s: the excess is moved to storage\n", cli.Bytes(p.UsedBytes))
			}
		})
	})
}

func (t *tool) clientSet() *cobra.Command {
	return &cobra.Command{
		Use:   "set NAME weight=N|cap=SIZE|reservation=SIZE|dedup=on|off...",
		Short: "Change a client while its exports are in use, now and after the next start",
		Long: "Change a client while its exports are in use, now and after the next start. It stands against\n" +
			"what the configuration says. cap=0 and reservation=0 take them away.\n\n" +
			"dedup=on keeps identical pages of the client's exports once, in backends of kind zcache; dedup=off does so no\n" +
			"more. Either is for exports that are opened from then on: when they are created, or at the next start of\n" +
			"tmemd. Pages are shared within one client only, as who shares pages can find out, by how long loads\n" +
			"take and how much memory is used, whether somebody else has the same: trust all of a client's exports alike.",
		Example: "  tmemctl client set vm1 weight=3 cap=6GiB",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < 2 {
				return cli.Misuse(c.CommandPath()+" --help shows how", "%s takes the name of a client and what to set", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			var settings admin.ClientSettings
			for _, arg := range args[1:] {
				key, value, _ := strings.Cut(arg, "=")
				switch {
				case key == "weight" && value != "":
					var weight int64
					if _, err := fmt.Sscanf(value+"\n", "%d\n", &weight); err != nil {
						return cli.Misuse("write weight=2", "%q is nothing to set", arg)
					}
					settings.Weight = &weight
				case key == "cap" && value != "":
					settings.Cap = &value
				case key == "reservation" && value != "":
					settings.Reservation = &value
				case key == "dedup" && (value == "on" || value == "off"):
					on := value == "on"
					settings.Dedup = &on
				default:
					return cli.Misuse("write weight=2, cap=4GiB, reservation=512MiB or dedup=on", "%q is nothing to set", arg)
				}
			}
			return t.changeClient(c, "changed", func(ctx context.Context, client *admin.Client) (admin.PoolClient, error) {
				return client.SetClient(ctx, args[0], settings)
			})
		},
		ValidArgsFunction: t.completeClients,
	}
}

func (t *tool) clientFreeze() *cobra.Command {
	return t.clientSwitch("freeze", "Store no more pages of a client, and keep those that are there", true)
}

func (t *tool) clientThaw() *cobra.Command {
	return t.clientSwitch("thaw", "Store pages of a frozen client again", false)
}

func (t *tool) clientSwitch(verb, short string, frozen bool) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " NAME",
		Short: short,
		Args:  oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				p, err := client.FreezeClient(ctx, args[0], frozen)
				if err != nil {
					return err
				}
				return t.show(p, func(w io.Writer) {
					if frozen {
						fmt.Fprintf(w, "client %s is frozen: what it writes goes to storage, its %s of pages in memory stay\n", p.Name, pages(int64(p.Pages)))
						return
					}
					fmt.Fprintf(w, "client %s is thawed: what it writes goes to memory again\n", p.Name)
				})
			})
		},
		ValidArgsFunction: t.completeClients,
	}
}

func (t *tool) clientDestroy() *cobra.Command {
	var request admin.DestroyRequest
	command := &cobra.Command{
		Use:   "destroy NAME",
		Short: "Delete a client and its exports, and free the memory of their pages",
		Long: "Delete a client and its exports, which no NBD client may be attached to (or --disconnect), and free the memory of\n" +
			"their pages: it is overwritten, or given back to the system, before anybody else gets it.\n\n" +
			"Storage that is left is not whole. What the configuration names is back, empty, after the next start.",
		Args: oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				d, err := client.DestroyClient(ctx, args[0], request)
				if err != nil {
					return err
				}
				return t.show(d, func(w io.Writer) {
					fmt.Fprintf(w, "destroyed client %s and %d exports: %s of pages are gone, and %s of memory free\n",
						d.Name, len(d.Exports), pages(int64(d.FreedPages)), cli.Bytes(d.FreedBytes))
					for _, path := range d.Storage {
						fmt.Fprintf(w, "storage left: %s\n", path)
					}
				})
			})
		},
		ValidArgsFunction: t.completeClients,
	}
	command.Flags().BoolVar(&request.RemoveStorage, "remove-storage", false, "remove the files that were made for its exports, too")
	command.Flags().BoolVar(&request.Disconnect, "disconnect", false, "cut off NBD clients that are attached: a guest that runs loses what it has swapped out")
	return command
}

// completeFlagClients completes a flag that names a client.
func (t *tool) completeFlagClients(c *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	return t.completeClients(c, nil, word)
}

// completeClients completes the name of a client.
func (t *tool) completeClients(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	return t.completeWith(func(ctx context.Context, client *admin.Client) ([]string, error) {
		list, err := client.Clients(ctx)
		var names []string
		for _, x := range list {
			names = append(names, x.Name)
		}
		return names, err
	})(c, args, typed)
}
