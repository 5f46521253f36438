package ctl

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

const backendUsage = "`name` of the ramster (default: the only one)"

func (t *tool) donorList() *cobra.Command {
	var backend string
	command := &cobra.Command{
		Use:   "list",
		Short: "List the hosts that lend memory to this one",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				all, err := client.Donors(ctx)
				if err != nil {
					return err
				}
				list := []admin.Donor{}
				for _, d := range all {
					if backend == "" || d.Backend == backend {
						list = append(list, d)
					}
				}
				return t.show(list, func(w io.Writer) { printDonors(w, list) })
			})
		},
	}
	command.Flags().StringVar(&backend, "backend", "", "`name` of the ramster (default: all)")
	return command
}

func printDonors(w io.Writer, list []admin.Donor) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no host lends memory to this one")
		return
	}
	rows := [][]string{{"DONOR", "BACKEND", "ADDRESS", "STATE", "DATA", "FREE", "LATENCY", "MISSED", "REJECTED", "MISSING"}}
	for _, d := range list {
		rows = append(rows, []string{
			d.Name, d.Backend, d.Address, donorState(d), pages(d.Pages), cli.Bytes(d.FreeBytes), latency(d.LatencySeconds),
			fmt.Sprint(d.MissedDeadlines), fmt.Sprint(d.RejectedReplies), fmt.Sprint(d.MissingPages),
		})
	}
	table(w, rows)
	for _, d := range list {
		if d.Reason != "" {
			fmt.Fprintf(w, "%s is %s: %s\n", d.Name, donorState(d), d.Reason)
		}
		if d.WantedBytes > 0 {
			fmt.Fprintf(w, "%s wants %s back\n", d.Name, cli.Bytes(d.WantedBytes))
		}
	}
}

// donorState adds to a state what is not one.
func donorState(d admin.Donor) string {
	state := d.State
	if state == "open" {
		state = "down" // its circuit breaker is open
	}
	if d.Leaving {
		state += ",leaving"
	}
	if d.Frozen {
		state += ",frozen"
	}
	return state
}

func latency(seconds float64) string {
	if seconds == 0 {
		return "-"
	}
	return time.Duration(seconds * float64(time.Second)).Round(time.Microsecond).String()
}

func (t *tool) donorAdd() *cobra.Command {
	var request admin.DonorRequest
	command := &cobra.Command{
		Use:   "add NAME ADDRESS",
		Short: "Have pages sent to another host too",
		Long: "Have pages sent to another host too, until tmemd is stopped or the donor removed: one for good is\n" +
			"in donors of the configuration file, or in its donors_file.\n\n" +
			"Addresses are tcp://HOST:PORT, unix:///PATH and vsock://CID:PORT.",
		Example: "  tmemctl donor add east tcp://10.0.0.2:10810",
		Args:    arguments(2, "a NAME and an ADDRESS"),
		RunE: func(c *cobra.Command, args []string) error {
			request.Name, request.Address = args[0], args[1]
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				d, err := client.AddDonor(ctx, request)
				if err != nil {
					return err
				}
				return t.show(d, func(w io.Writer) {
					fmt.Fprintf(w, "added %s to %s: it gets pages once it is connected to (tmemctl donor list)\n", d.Name, d.Backend)
				})
			})
		},
	}
	command.Flags().StringVar(&request.Backend, "backend", "", backendUsage)
	return command
}

func (t *tool) donorRemove() *cobra.Command {
	var request admin.DonorRemoval
	command := &cobra.Command{
		Use:   "remove NAME",
		Short: "Have no more pages sent to another host, and those that it has moved to others",
		Long: "Have no more pages sent to another host, and those that it has moved to others first. With --now\n" +
			"it is given up at once: pages that it alone has are lost, unless storage has them too.",
		Args: oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			request.Name = args[0]
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				d, err := client.RemoveDonor(ctx, request)
				if err != nil {
					return err
				}
				return t.show(d, func(w io.Writer) {
					if d.Pages == 0 {
						fmt.Fprintf(w, "removed %s from %s: it has no pages\n", d.Name, d.Backend)
						return
					}
					fmt.Fprintf(w, "removing %s from %s: its %s of pages move to others (tmemctl donor list)\n", d.Name, d.Backend, pages(d.Pages))
				})
			})
		},
		ValidArgsFunction: t.completeDonors,
	}
	command.Flags().StringVar(&request.Backend, "backend", "", backendUsage)
	command.Flags().BoolVar(&request.Now, "now", false, "give up the pages that it has")
	return command
}

// completeDonors completes the name of a donor.
func (t *tool) completeDonors(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	return t.completeWith(func(ctx context.Context, client *admin.Client) ([]string, error) {
		list, err := client.Donors(ctx)
		var names []string
		for _, x := range list {
			names = append(names, x.Name)
		}
		return names, err
	})(c, args, typed)
}
