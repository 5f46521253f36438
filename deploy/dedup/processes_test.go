package main

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/tmemd/tmemd/backends/pagemap"
)

// A shell with 6.5 MiB of text, and two that it forks and that do nothing: the text is counted once, where the kernel says what is
// one frame.
func TestCountForked(t *testing.T) {
	const script = `x=0123456789abc
while [ ${#x} -lt 4000000 ]; do x=$x$x; done
(sleep 1000; echo "$x") & (sleep 1000; echo "$x") & echo ready; wait`
	w := workload{"shells", func(ctx context.Context, folder string, g *group) error {
		if err := g.start(folder, "sh", "-c", script); err != nil {
			return err
		}
		return g.awaitReady(ctx)
	}}
	g, err := measureWorkload(t.Context(), w, t.TempDir())
	if os.Geteuid() != 0 {
		if !errors.Is(err, pagemap.ErrNoFrame) {
			t.Errorf("without the privilege: %+v, error %v, want %v", g, err, pagemap.ErrNoFrame)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	// The shell has it twice, as it made it. Counted for each process it would be there six times.
	const text = 13 << 19 / pageSize
	if g.Stored < text || g.Stored > 3*text {
		t.Errorf("three processes share a text of %d pages: %d were counted", text, g.Stored)
	}
}

// A program that does not become ready is an error, and does not stay.
func TestWorkloadEnds(t *testing.T) {
	var pid int
	w := workload{"ends", func(ctx context.Context, folder string, g *group) error {
		if err := g.start(folder, "sh", "-c", "echo nothing of the sort; sleep 1000"); err != nil {
			return err
		}
		pid = g.commands[0].Process.Pid
		return g.awaitReady(ctx)
	}}
	if _, err := measureWorkload(t.Context(), w, t.TempDir()); err == nil {
		t.Error("no error")
	}
	if states, err := groupStates(pid); err != nil || len(states) > 0 {
		t.Errorf("D5: processes left: %v, error %v", states, err)
	}
}
