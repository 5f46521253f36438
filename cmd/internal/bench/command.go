package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

// Command is tmemctl bench. asJSON is read when it runs.
func Command(out, log io.Writer, asJSON *bool) *cobra.Command {
	o := Options{}
	var export, size, within, pattern string
	command := &cobra.Command{
		Use:   "bench URI",
		Short: "Measure how fast an NBD server answers, and whether it answers right",
		Long: "Measure how fast an NBD server answers, this project's or any other, and whether it answers\n" +
			"right. It reads only, unless --destroy-content says that nothing on the device is needed.\n\n" +
			"Patterns:\n\n" +
			"  random-read, random-write          at random places of the range\n" +
			"  sequential-read, sequential-write  each connection through its part of the range, again and again\n" +
			"  mixed                              random, --reads percent of them reads\n" +
			"  swap                               what a kernel does that swaps: bursts of up to 32 neighbouring\n" +
			"                                     pages out, as many single ones in at random, and discards\n\n" +
			"Content of what is written:\n\n" +
			"  mix          records, text, machine code, pages partly used, and a few random ones (default)\n" +
			"  file:PATH    pages of a file\n" +
			"  pid:NUMBER   pages of a process's memory\n" +
			"  random       random bytes, which do not compress\n" +
			"  zeros        zeros: flatters whoever compresses or skips them\n\n" +
			"With --verify each page that is written carries its number, a version and a checksum; all that\n" +
			"is read is checked, and what was written is read back at the end. The exit status is 1 if\n" +
			"a page is wrong. It speaks no TLS.",
		Example: "  tmemctl bench unix:///run/tmemd/nbd.sock --export swap\n" +
			"  tmemctl bench 'nbd+unix:///swap?socket=/run/tmemd/nbd.sock' --pattern swap --verify --destroy-content\n" +
			"  tmemctl bench nbd://10.0.0.1/scratch --pattern random-read --fill --range 1GiB --destroy-content --json",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				return nil
			}
			return cli.Misuse(targetSyntax, "%s takes one URI, not %d arguments", c.CommandPath(), len(args))
		},
		RunE: func(c *cobra.Command, args []string) error {
			t, err := parseTarget(args[0], export)
			if err != nil {
				return err
			}
			o.Network, o.Address, o.Export, o.Pattern = t.network, t.address, t.export, Pattern(pattern)
			if o.Size, err = parseRequest(size); err != nil {
				return err
			}
			if o.First, o.Range, err = parseRange(within); err != nil {
				return err
			}
			if !c.Flags().Changed("duration") && o.Count > 0 {
				o.Duration = 0
			}
			line := cli.NewStatusLine(log, *asJSON)
			report, err := Run(c.Context(), o, func(s Status) { line.Set(statusLine(s)) })
			line.Clear()
			if report.Pattern == "" {
				return err
			}
			if printed := show(out, *asJSON, report); printed != nil {
				return printed
			}
			return err
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := command.Flags()
	flags.StringVar(&export, "export", "", "`name` of the export (default: that of the URI, or the server's default)")
	flags.StringVar(&pattern, "pattern", string(RandomRead), "which requests are made: `one` of "+patternList())
	flags.IntVar(&o.Depth, "depth", 16, "`requests` outstanding on each connection")
	flags.IntVar(&o.Connections, "connections", 1, "`number` of connections, each with a part of the range")
	flags.StringVar(&size, "size", "4KiB", "`size` of a request")
	flags.IntVar(&o.Reads, "reads", 50, "`percent` of reads in the pattern mixed")
	flags.DurationVar(&o.Duration, "duration", 10*time.Second, "how long to measure, unless --count ends it")
	flags.Int64Var(&o.Count, "count", 0, "`requests` to make; without --duration, however long it takes")
	flags.StringVar(&within, "range", "", "part of the device: a `size` from its start, or START+SIZE (default: all of it)")
	flags.Uint64Var(&o.Seed, "seed", 1, "`number` that decides everything random, and what --verify believes")
	flags.StringVar(&o.Content, "content", "mix", "`what` is written: mix, file:PATH, pid:NUMBER, random or zeros")
	flags.BoolVar(&o.Verify, "verify", false, "check what is read")
	flags.BoolVar(&o.Fill, "fill", false, "write the range once before it is measured")
	flags.BoolVar(&o.Destroy, "destroy-content", false, "what is on the device may be overwritten and discarded")
	// It fails only for a flag that there is not.
	_ = command.RegisterFlagCompletionFunc("pattern", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return strings.Split(patternList(), ", "), cobra.ShellCompDirectiveNoFileComp
	})
	return command
}

// parseRequest reads --size.
func parseRequest(text string) (int, error) {
	bytes, err := parseBytes(text)
	if err != nil {
		return 0, cli.Misuse(config.SizeSyntax, "--size: %v", err)
	}
	return int(min(bytes, 1<<30)), nil
}

// parseRange reads --range: SIZE, or START+SIZE.
func parseRange(text string) (first, length int64, err error) {
	if text == "" {
		return 0, 0, nil
	}
	start, size, both := strings.Cut(text, "+")
	if !both {
		start, size = "0", text
	}
	if start != "0" {
		if first, err = parseBytes(start); err != nil {
			return 0, 0, cli.Misuse(config.SizeSyntax, "--range: %v", err)
		}
	}
	if length, err = parseBytes(size); err != nil {
		return 0, 0, cli.Misuse(config.SizeSyntax, "--range: %v", err)
	}
	return first, length, nil
}

func parseBytes(text string) (int64, error) {
	size, err := config.ParseSize(text)
	if err != nil {
		return 0, err
	}
	bytes, absolute := size.Bytes()
	if !absolute {
		return 0, fmt.Errorf("%q is a percentage of RAM, which says nothing here", text)
	}
	return bytes, nil
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

func statusLine(s Status) string {
	line := fmt.Sprintf("%s: %.0f s, %d requests", s.Phase, s.Elapsed.Seconds(), s.Requests)
	if s.Of > 0 {
		line += fmt.Sprintf(" of %d", s.Of)
	}
	seconds := max(s.Elapsed.Seconds(), 1e-9)
	return line + fmt.Sprintf(", %.0f/s, %s/s", float64(s.Requests)/seconds, cli.Bytes(uint64(float64(s.Bytes)/seconds)))
}
