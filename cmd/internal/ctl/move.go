package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

func (t *tool) exportMove() *cobra.Command {
	var request admin.MoveExportRequest
	var pause time.Duration
	command := &cobra.Command{
		Use:   "move NAME --to ADDRESS",
		Short: "Move an export to another tmemd while clients use it",
		Long: "Move an export to another tmemd while clients use it. Make one of the same size there\n" +
			"first (tmemctl export create), which nobody uses: what it has is overwritten. Pages are\n" +
			"copied while clients go on, then clients are held back for a moment, whose length is told.\n\n" +
			"From then on this tmemd refuses the export and says where it is; its pages and the storage\n" +
			"that was made for it are given up. Clients have to connect to the new address: QEMU does\n" +
			"with reconnect-delay, if the socket's path is a symbolic link that is switched after the\n" +
			"move (not before: it would find pages missing), or if the address is one that moves too.\n" +
			"It tries after 1, 2, 4, 8 and every 16 seconds, while requests of its guest wait. Devices\n" +
			"of tmemctl attach have to be attached anew.\n\n" +
			"Whatever fails before, and Ctrl-C, leaves everything as it was here. Over TCP, the\n" +
			"certificates of [ramster.tls] are used, if there are any; without, pages are in the clear.",
		Example: "  tmemctl export move vm1 --to tcp://host2:10809\n" +
			"  tmemctl export move vm1 --to unix:///srv/tmemd2/nbd.sock && ln -s /srv/tmemd2/nbd.sock /run/vm1.new && mv -T /run/vm1.new /run/vm1.sock",
		Args: oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			if request.To == "" {
				return cli.Misuse("say --to tcp://HOST:PORT or --to unix:///PATH", "where is export %s to move?", args[0])
			}
			if request.MaxPauseMS = pause.Milliseconds(); request.MaxPauseMS <= 0 {
				return cli.Misuse("write a time such as 200ms", "clients cannot be held back for %v", pause)
			}
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				var told time.Time
				done, err := client.MoveExport(ctx, args[0], request, func(e admin.ExportMove) {
					switch {
					case t.json:
						if text, err := json.Marshal(e); err == nil {
							fmt.Fprintf(t.out, "%s\n", text)
						}
					case !e.Done && time.Since(told) >= lineEvery:
						told = time.Now()
						fmt.Fprintln(t.out, moveLine(e))
					}
				})
				if err != nil && errors.Is(ctx.Err(), context.Canceled) {
					return cli.Failure("tmemctl export list shows where it is", "interrupted; export %s stays, unless it had moved already", args[0])
				}
				if err != nil || t.json {
					return err
				}
				printMoved(t.out, done)
				return nil
			})
		},
		ValidArgsFunction: t.completeExports(),
	}
	command.Flags().StringVar(&request.To, "to", "", "`address` of the other tmemd: tcp://HOST:PORT or unix:///PATH")
	command.Flags().StringVar(&request.As, "as", "", "`name` of the export there (default: the same)")
	command.Flags().DurationVar(&pause, "max-pause", 200*time.Millisecond, "`time` for which clients may be held back")
	return command
}

func moveLine(e admin.ExportMove) string {
	line := fmt.Sprintf("moving %s: round %d, %s copied, %s left", e.Export, e.Round, pages(int64(e.Sent)), pages(int64(e.Left)))
	if e.PagesPerSecond > 0 {
		line += fmt.Sprintf(", %s/s", cli.Bytes(uint64(e.PagesPerSecond*backends.PageSize)))
	}
	return line
}

func printMoved(w io.Writer, e admin.ExportMove) {
	fmt.Fprintf(w, "moved export %s to %s: clients were held back for %.1f ms; its memory here is free\n", e.Export, e.To, e.PauseMS)
}
