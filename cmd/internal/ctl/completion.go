package ctl

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/attach"
)

// completions gives commands and flags what completes them beyond a first name. What
// nothing is said of completes to nothing: hardly any argument is a file.
func (t *tool) completions(root *cobra.Command) {
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	words := func(list ...string) cobra.CompletionFunc {
		return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return list, cobra.ShellCompDirectiveNoFileComp
		}
	}
	writethrough, modes := []string{"off", "async", "sync"}, []string{"inclusive", "exclusive"}
	for path, complete := range map[string]cobra.CompletionFunc{
		"export save":   then(t.completeExports(), files),
		"export move":   t.completeExports(),
		"client set":    then(t.completeClients, clientSettings),
		"export set":    then(t.completeExports(), assignments("writethrough", writethrough)),
		"disk set":      then(t.complete(diskNames), assignments("mode", modes)),
		"backend order": t.completeOrder,
		"lend set":      assignments("size", []string{""}),
		"attach":        files,
		"detach":        completeDevices,
	} {
		if c := command(root, path); c != nil {
			c.ValidArgsFunction = complete
		}
	}
	for flag, complete := range map[string]cobra.CompletionFunc{
		"attach --export":              t.completeFlag(func(s admin.Status) []string { return slices.Concat(exportNames(s), diskNames(s)) }),
		"export create --writethrough": words(writethrough...),
		"export create --storage":      files,
		"export create --client":       t.completeFlagClients,
		"export restore --client":      t.completeFlagClients,
		"export restore --storage":     files,
		"export restore --key-file":    files,
		"export save --key-file":       files,
		"donor add --backend":          t.completeFlag(ramsterNames),
		"donor remove --backend":       t.completeFlag(ramsterNames),
		"backend replace --with":       t.completeFlag(func(s admin.Status) []string { return s.Kinds }),
		"doctor --root":                files,
		"doctor --run-dir":             files,
		"--socket":                     files,
		"--state-dir":                  files,
	} {
		path, name, _ := strings.Cut(flag, "--")
		c := command(root, strings.TrimSpace(path))
		if c == nil || c.Flags().Lookup(name) == nil && c.PersistentFlags().Lookup(name) == nil {
			continue // the test of completions tells
		}
		_ = c.RegisterFlagCompletionFunc(name, complete) // there is the flag, and it is named once
	}
}

// command finds a command by its words, or nil.
func command(root *cobra.Command, path string) *cobra.Command {
	c := root
	for _, word := range strings.Fields(path) {
		i := slices.IndexFunc(c.Commands(), func(below *cobra.Command) bool { return below.Name() == word })
		if i < 0 {
			return nil
		}
		c = c.Commands()[i]
	}
	return c
}

func files(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveDefault
}

// then completes the first argument by one function and the others by another.
func then(first, others cobra.CompletionFunc) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return first(c, args, typed)
		}
		return others(c, args, typed)
	}
}

func clientSettings(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"weight=", "cap=", "reservation=", "dedup="}, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// assignments completes KEY=VALUE.
func assignments(key string, values []string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var list []string
		for _, value := range values {
			list = append(list, key+"="+value)
		}
		directive := cobra.ShellCompDirectiveNoFileComp
		if len(values) == 1 && values[0] == "" {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
		return list, directive
	}
}

func exportNames(s admin.Status) (names []string) {
	for _, e := range s.Exports {
		names = append(names, e.Name)
	}
	return names
}

func diskNames(s admin.Status) (names []string) {
	for _, d := range s.Disks {
		names = append(names, d.Name)
	}
	return names
}

func ramsterNames(s admin.Status) (names []string) {
	for _, b := range s.Backends {
		if b.Kind == "ramster" {
			names = append(names, b.Name)
		}
	}
	return names
}

// completeFlag completes the value of a flag, whatever arguments there are.
func (t *tool) completeFlag(names func(admin.Status) []string) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return t.complete(names)(c, nil, typed)
	}
}

// completeOrder completes backends that were not named yet.
func (t *tool) completeOrder(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	names, directive := t.completeBackends()(c, nil, typed)
	return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(args, name) }), directive
}

// completeDevices completes devices that are attached here.
func completeDevices(c *cobra.Command, args []string, _ string) (names []string, directive cobra.ShellCompDirective) {
	dir := attach.DefaultRunDir
	if f := c.Flags().Lookup("run-dir"); f != nil {
		dir = f.Value.String()
	}
	records, err := attach.Records(dir)
	if err == nil && len(args) == 0 {
		for _, r := range records {
			names = append(names, r.Device)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
