package ctl

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// upgradeTimeout is longer than the daemon takes to find out whether it can.
const upgradeTimeout = 15 * time.Minute

func (t *tool) upgrade() *cobra.Command {
	return &cobra.Command{
		Use:   "upgrade",
		Short: "Have the daemon become the program that is installed now",
		Long: "Have the daemon become the program that is installed now, at the path that it was\n" +
			"started from, with the same flags. Pages stay where they are in memory.\n\n" +
			"Connections are closed for a moment: clients that connect again (tmemctl attach does)\n" +
			"lose nothing, others (nbd-client) lose their device. If the new program cannot take\n" +
			"over, the old one serves on. Requests that were under way when the connections were\n" +
			"closed may take half a minute longer.\n\n" +
			"It works while this host itself swaps through the daemon, over a Unix socket, on Linux 6.3\n" +
			"and later, if nothing is missing of what tmemctl doctor asks of the daemon; else it is\n" +
			"refused then. It takes some memory until it is over.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				ctx, cancel := context.WithTimeout(ctx, upgradeTimeout)
				defer cancel()
				status, err := client.Upgrade(ctx)
				if err != nil {
					return err
				}
				return t.show(status, func(w io.Writer) {
					fmt.Fprintf(w, "upgraded: process %d is tmemd %s now\n", status.PID, status.Version)
				})
			})
		},
	}
}
