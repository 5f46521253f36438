package ctl

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// told runs tmemctl, which has to fail as a human is told of it: error, then hint, the
// problem in one line, in lower case, without a full stop.
func told(t *testing.T, code int, args ...string) {
	t.Helper()
	var out, errs strings.Builder
	got := Command(args, "test", &out, &errs)
	line := "tmemctl " + strings.Join(args, " ")
	if got != code {
		t.Errorf("%s: exit status %d, want %d: %s", line, got, code, errs.String())
	}
	lines := strings.Split(strings.TrimSuffix(errs.String(), "\n"), "\n")
	if out.String() != "" || len(lines) != 2 {
		t.Errorf("%s: printed %q and %q", line, out.String(), errs.String())
		return
	}
	problem, isError := strings.CutPrefix(lines[0], "error: ")
	cure, isHint := strings.CutPrefix(lines[1], "hint: ")
	if !isError || !isHint || cure == "" {
		t.Errorf("%s: told %q", line, lines)
	}
	if strings.HasSuffix(problem, ".") || problem != "" && unicode.IsUpper(rune(problem[0])) {
		t.Errorf("%s: %q has a full stop or a capital", line, problem)
	}
}

// leaves lists the commands that do something, by their words.
func leaves(c *cobra.Command, words []string) (list [][]string) {
	for _, below := range c.Commands() {
		if below.Name() == "help" || below.Name() == "completion" {
			continue // the library's
		}
		path := append(slices.Clone(words), below.Name())
		if below.HasSubCommands() {
			list = append(list, leaves(below, path)...)
		} else {
			list = append(list, path)
		}
	}
	return list
}

// TestEveryCommandTells: whatever is typed wrong after any command, the error has a hint.
func TestEveryCommandTells(t *testing.T) {
	all := leaves((&tool{}).root("test"), nil)
	if len(all) < 30 {
		t.Fatalf("only %d commands", len(all))
	}
	for _, path := range all {
		told(t, cli.ExitUsage, append(slices.Clone(path), "--colour")...)
		told(t, cli.ExitUsage, append(slices.Clone(path), "--json=perhaps")...)
	}
}

// TestMistakes are typical ones.
func TestMistakes(t *testing.T) {
	nobody := filepath.Join(t.TempDir(), "admin.sock")
	for _, line := range []string{
		"statsu", "exprot list", "export", "export lits", "backend", "backend laod zcache", "donor", "lend", "fault", "disk",
		"status now", "top now", "log now", "reload now", "upgrade now", "doctor now",
		"status --interval soon", "status --interval -1s", "top --interval 1ns", "log --lines many", "log --lines -5", "log --level loud", "log --set-level loud",
		"export set", "export set swap", "export set swap size=5", "export set swap writethrough=", "export create", "export create swap", "export resize swap",
		"export delete", "export list swap", "disk set root", "disk set root mode", "disk list root",
		"backend load", "backend load a b", "backend load zcache --set codec", "backend unload", "backend unload a b", "backend replace zcache",
		"backend freeze", "backend thaw", "backend cancel", "backend shrink", "backend migrate", "backend show", "backend set", "backend set zcache",
		"backend set zcache codec", "backend order", "backend list zcache",
		"donor add", "donor remove", "donor list east", "lend set", "lend set quota=1", "lend status now", "lend freeze now",
		"fault set", "fault clear", "detach", "attach /dev/nbd0 /dev/nbd1", "attach --server nowhere", "--socket", "--state-dir",
	} {
		told(t, cli.ExitUsage, append([]string{"--socket", nobody}, strings.Fields(line)...)...)
	}
}

// TestNoDaemon: each command that needs the daemon says that there is none.
func TestNoDaemon(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "admin.sock")
	for _, line := range []string{
		"status", "top", "top --once", "log", "log --follow", "log --set-level debug", "reload", "upgrade",
		"export list", "export set swap writethrough=off", "export create swap --size 1GiB", "export resize swap 1GiB", "export delete swap",
		"disk list", "disk set root mode=exclusive",
		"backend list", "backend load zcache", "backend unload zcache", "backend replace zcache --with zcache", "backend freeze zcache", "backend thaw zcache",
		"backend cancel zcache", "backend shrink zcache --pages 5", "backend migrate zcache --bytes 1MiB", "backend show zcache", "backend set zcache codec=lz4",
		"backend order zcache", "donor list", "donor add east tcp://10.0.0.2:10810", "donor remove east", "lend status", "lend freeze", "lend thaw", "lend set size=1GiB",
		"fault list", "fault set zcache error", "fault clear zcache",
	} {
		told(t, cli.ExitFailed, append([]string{"--socket", socket}, strings.Fields(line)...)...)
		told(t, cli.ExitFailed, append([]string{"--json", "--socket", socket}, strings.Fields(line)...)...)
	}
}
