package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/view"
)

// retryLog is how long --follow waits for a daemon that went away.
const retryLog = 500 * time.Millisecond

func (t *tool) logLines() *cobra.Command {
	var lines int
	var follow bool
	var level, set string
	command := &cobra.Command{
		Use:   "log",
		Short: "Show the daemon's log, and change its level",
		Long: "Show the latest lines of the daemon's log, of which it keeps a thousand itself. Where systemd\n" +
			"started it, journalctl -u tmemd has all of them.\n\n" +
			"--level leaves out lines that there are. --set-level changes what the daemon logs from now on,\n" +
			"until it ends; --set-level debug makes it talkative.",
		Example: "  tmemctl log --follow --level warn\n  tmemctl log --set-level debug",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if lines < 0 {
				return cli.Misuse("write how many lines are to be shown", "--lines: %d is less than none", lines)
			}
			query := admin.LogQuery{Lines: lines}
			for _, flag := range []struct{ name, text string }{{"level", level}, {"set-level", set}} {
				parsed, err := admin.ParseLevel(flag.text)
				if err != nil && c.Flags().Changed(flag.name) {
					return cli.Misuse(admin.LevelHint, "--%s: %v", flag.name, err)
				}
				if flag.name == "level" {
					query.Least = parsed
				}
			}
			p := logPrinter{out: t.out, json: t.json, screen: view.ScreenOf(t.out, os.Getenv)}
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				if set != "" {
					told, err := client.SetLogLevel(ctx, set)
					if err != nil {
						return err
					}
					if !follow && !c.Flags().Changed("lines") {
						return t.show(told, func(w io.Writer) { fmt.Fprintf(w, "the daemon logs %s and above, until it ends\n", told.Level) })
					}
				}
				if follow {
					return t.followLog(ctx, client, query, &p)
				}
				told, err := client.Log(ctx, query)
				if err != nil {
					return err
				}
				for _, line := range told.Lines {
					p.print(line)
				}
				if told.Forgotten > 0 && len(told.Lines) < lines {
					fmt.Fprintf(t.log, "hint: %d older lines are not kept; where systemd started the daemon, journalctl -u tmemd has them\n", told.Forgotten)
				}
				return nil
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	levels := func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"debug", "info", "warn", "error"}, cobra.ShellCompDirectiveNoFileComp
	}
	flags := command.Flags()
	flags.IntVarP(&lines, "lines", "n", 50, "`number` of lines, the latest")
	flags.BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	flags.StringVar(&level, "level", "debug", "show this `level` and above: debug, info, warn or error")
	flags.StringVar(&set, "set-level", "", "log this `level` and above from now on")
	for _, name := range []string{"level", "set-level"} {
		if err := command.RegisterFlagCompletionFunc(name, levels); err != nil {
			panic(err) // there is no such flag, or it is there twice
		}
	}
	return command
}

// followLog shows lines as they come. A daemon that goes away is waited for; the next
// one counts its lines anew, so what was shown is told by its time.
func (t *tool) followLog(ctx context.Context, client *admin.Client, query admin.LogQuery, p *logPrinter) error {
	var latest time.Time
	connected := false
	for {
		err := client.FollowLog(ctx, query, func(line admin.LogLine) {
			connected = true
			if line.Time.After(latest) {
				latest = line.Time
				p.print(line)
			}
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !connected: // it was never there
			return err
		}
		if connected && err == nil {
			fmt.Fprintln(t.log, "hint: the daemon ended; waiting for the next one")
			query.Lines = admin.MostLogLines
		}
		connected = true
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryLog):
		}
	}
}

// logPrinter prints lines.
type logPrinter struct {
	out    io.Writer
	json   bool
	screen view.Screen
}

func (p *logPrinter) print(line admin.LogLine) {
	if !p.json {
		fmt.Fprintln(p.out, view.LogLine(p.screen, line))
		return
	}
	if text, err := json.Marshal(line); err == nil {
		fmt.Fprintf(p.out, "%s\n", text)
	}
}
