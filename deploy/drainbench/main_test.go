package main

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRun runs all of it, small; content is checked on the way (R4).
func TestRun(t *testing.T) {
	folder := t.TempDir()
	o := options{pages: 2048, unique: 256, rounds: 2, seed: 1, tmpfs: folder, disk: folder}
	var out strings.Builder
	if err := run(t.Context(), o, &out); err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	for _, want := range []string{"tmpfs, one processor", "fio, 1 MiB", "reads during a drain", "p99.9 during a drain", "round 2", "median", "load average at the end"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestOptions(t *testing.T) {
	for _, arguments := range [][]string{{"-pages", "5"}, {"-unique", "5"}, {"-rounds", "0"}, {"-no-such-flag"}} {
		if _, err := parseOptions(arguments); err == nil {
			t.Errorf("%v was accepted", arguments)
		}
	}
}
