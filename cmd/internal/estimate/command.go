package estimate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/backends/pressure"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// defaultPages is 64 MiB: two seconds of one processor, and margins of a percent.
const defaultPages = 16384

// Command is tmemctl estimate. asJSON is read when it runs.
func Command(out, log io.Writer, asJSON *bool) *cobra.Command {
	o := Options{RAM: pressure.Installed()}
	command := &cobra.Command{
		Use:   "estimate",
		Short: "Sample memory, and say what zcache would make of it and how large a pool it takes",
		Long: "Sample the memory of this host, of a process or of a control group, and say what zcache would\n" +
			"make of it, page by page with its own codecs: how much it compresses, what would be refused,\n" +
			"how much memory a pool for it takes, what recompression with zstd would save, and which\n" +
			"settings to use.\n\n" +
			"No content leaves the command, nothing is written, and no daemon is asked. It reads what is\n" +
			"present and could be swapped; memory that is swapped out, shared or locked is not in it. It\n" +
			"works with a nice value of 10, in a few MiB. The whole host takes root.",
		Example: "  tmemctl estimate\n  tmemctl estimate --pid 4711\n  tmemctl estimate --cgroup /system.slice/postgresql.service --json",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			for _, flag := range []string{"pid", "cgroup"} {
				if f := c.Flags().Lookup(flag); f.Changed && (f.Value.String() == "" || f.Value.String() == "0") {
					return cli.Misuse("leave it out for the whole host", "--%s names nothing", flag)
				}
			}
			if o.PID < 0 || o.PID != 0 && o.Cgroup != "" {
				return cli.Misuse("give one of --pid NUMBER and --cgroup PATH, or neither for the whole host", "whose memory?")
			}
			line := cli.NewStatusLine(log, *asJSON)
			report, err := Run(c.Context(), o, func(s Status) { line.Set(fmt.Sprintf("looking at %s: %d of %d", s.Phase, s.Done, s.Of)) })
			line.Clear()
			if errors.Is(err, context.Canceled) {
				return cli.Failure("--pages less takes less time", "interrupted")
			}
			if err != nil {
				return err
			}
			return show(out, *asJSON, report)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := command.Flags()
	flags.IntVar(&o.PID, "pid", 0, "`number` of a process")
	flags.StringVar(&o.Cgroup, "cgroup", "", "`path` of a control group, with all below it")
	flags.IntVar(&o.Pages, "pages", defaultPages, "how many `pages` are sampled, at most")
	flags.Uint64Var(&o.Seed, "seed", 1, "`number` that decides which")
	return command
}

func show(out io.Writer, asJSON bool, report Report) error {
	if !asJSON {
		report.print(out)
		return nil
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(report); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}
