package ctl

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

func (t *tool) backendShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show one backend: its settings, how pages are kept, and what became of them",
		Args:  oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				list, err := client.Backends(ctx)
				if err != nil {
					return err
				}
				at := slices.IndexFunc(list, func(b admin.Backend) bool { return b.Name == args[0] })
				if at < 0 {
					return cli.Failure("tmemctl backend list shows what is loaded", "no backend %s is loaded", args[0])
				}
				return t.show(list[at], func(w io.Writer) { printBackend(w, list[at]) })
			})
		},
		ValidArgsFunction: t.completeBackends(),
	}
}

func (t *tool) backendSet() *cobra.Command {
	return &cobra.Command{
		Use:   "set NAME KEY=VALUE...",
		Short: "Change settings of a backend while it is in use, until it is unloaded",
		Long: "Change settings of a backend while it is in use, until it is unloaded. All of them are\n" +
			"changed, or none. Pages stay as they are: they keep the codec they were written with.\n" +
			"KEY=default goes back to the default. The settings of a zcache, with an example each:\n\n" + config.SettingsHelp("zcache"),
		Example: "  tmemctl backend set zcache max_pool=2GiB codec=zstd",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < 2 {
				return cli.Misuse(c.CommandPath()+" --help shows how", "%s takes the name of a backend and what to set", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			settings, err := parseSettings(c, args[1:])
			if err != nil {
				return err
			}
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				b, err := client.SetBackend(ctx, args[0], settings)
				if err != nil {
					return err
				}
				return t.show(b, func(w io.Writer) {
					for _, s := range b.Settings {
						if slices.ContainsFunc(settings, func(set admin.Setting) bool { return set.Key == s.Key }) {
							fmt.Fprintf(w, "%s: %s is %s\n", b.Name, s.Key, s.Value)
						}
					}
				})
			})
		},
		ValidArgsFunction: t.completeSettings,
	}
}

// parseSettings reads words of the form KEY=VALUE.
func parseSettings(c *cobra.Command, words []string) (settings []admin.Setting, err error) {
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		if key == "" || value == "" {
			return nil, cli.Misuse("write KEY=VALUE; "+c.CommandPath()+" --help lists the keys", "%q is nothing to set", word)
		}
		settings = append(settings, admin.Setting{Key: key, Value: value})
	}
	return settings, nil
}

// completeSettings completes the name of a backend, then keys.
func (t *tool) completeSettings(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return t.completeBackends()(c, args, typed)
	}
	var keys []string
	for _, key := range config.SettingKeys("zcache") {
		keys = append(keys, key+"=")
	}
	return keys, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func printBackend(w io.Writer, b admin.Backend) {
	printBackends(w, []admin.Backend{b})
	fmt.Fprintf(w, "in the last seconds tasks of this host waited for memory %.1f %% of the time\n", 100*b.Stall)
	fmt.Fprintln(w)
	rows := [][]string{{"SETTING", "VALUE"}}
	for _, s := range b.Settings {
		rows = append(rows, []string{s.Key, s.Value})
	}
	table(w, rows)
	fmt.Fprintln(w)
	rows = [][]string{{"KEPT AS", "PAGES", "BYTES"}, {"same-filled", fmt.Sprint(b.SameFilledPages), cli.Bytes(0)}}
	for _, c := range b.Codecs {
		rows = append(rows, []string{c.Name, fmt.Sprint(c.Pages), cli.Bytes(c.Bytes)})
	}
	table(w, rows)
	if b.SharedPages > 0 {
		fmt.Fprintf(w, "%d pages are kept as %d, which saves about %s\n", b.SharedPages, b.SharedContents, cli.Bytes(b.SharedSavedBytes))
	}
	fmt.Fprintln(w)
	printCounts(w, "REFUSED BECAUSE", b.Refused)
	fmt.Fprintln(w)
	printCounts(w, "MOVEMENT", b.Moved)
}

// printCounts prints counters by name.
func printCounts(w io.Writer, title string, counts map[string]uint64) {
	rows := [][]string{{title, "COUNT"}}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		rows = append(rows, []string{name, fmt.Sprint(counts[name])})
	}
	table(w, rows)
}
