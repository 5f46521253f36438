package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/ctl"
)

// Every command has a page with its flags, and tmemd's has every flag of its help text.
func TestPages(t *testing.T) {
	folder := t.TempDir()
	if err := write("1.2.3", folder, time.Unix(0, 0).UTC()); err != nil {
		t.Fatal(err)
	}
	pages := 0
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		text := read(t, filepath.Join(folder, strings.ReplaceAll(c.CommandPath(), " ", "-")+".8"))
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !strings.Contains(text, `\fB--`+f.Name+`\fP`) {
				t.Errorf("the page of %s has no --%s", c.CommandPath(), f.Name)
			}
		})
		pages++
		for _, below := range c.Commands() {
			if below.IsAvailableCommand() {
				visit(below)
			}
		}
	}
	visit(ctl.Tree("1.2.3"))
	if pages < 40 {
		t.Errorf("%d pages; there are more commands", pages)
	}
	text := read(t, filepath.Join(folder, "tmemd.8"))
	flags := regexp.MustCompile(`(?m)^  --([a-z-]+)`).FindAllStringSubmatch(config.Help, -1)
	if len(flags) < 10 {
		t.Fatalf("the help text has the flags %v", flags)
	}
	for _, flag := range flags {
		if !strings.Contains(text, `\fB--`+flag[1]) {
			t.Errorf("tmemd.8 has no --%s", flag[1])
		}
	}
	for _, want := range []string{"tmemd donor --config FILE [flags]", "(examine what a daemon left, change nothing)", `"Jan 1970" "tmemd 1.2.3"`} {
		if !strings.Contains(text, want) {
			t.Errorf("tmemd.8 lacks %q:\n%s", want, text)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
