package ctl

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// drainEvents are those of an unload of 1,000 pages, half a second apart.
func drainEvents() []admin.MoveEvent {
	var events []admin.MoveEvent
	for i := range uint64(11) {
		e := admin.MoveEvent{Backend: "zcache", Operation: admin.OperationUnload, Progress: admin.Progress{Running: true, Total: 1000, Moved: 100 * i, Left: 1000 - 100*i}}
		if i > 0 {
			e.PagesPerSecond = 200
			e.SecondsLeft = float64(e.Left) / 200
		}
		events = append(events, e)
	}
	return append(events, admin.MoveEvent{Backend: "zcache", Operation: admin.OperationUnload, Progress: admin.Progress{Total: 1000, Moved: 1000}, Done: true})
}

// play gives the events to a report, half a second apart.
func play(out *strings.Builder, asJSON bool, width int, events []admin.MoveEvent) {
	now := time.Unix(1700000000, 0)
	p := newProgress(out, asJSON, func() time.Time { return now })
	if width > 0 {
		p.width = func() int { return width }
	}
	for _, e := range events {
		p.report(e)
		now = now.Add(500 * time.Millisecond)
	}
	p.end()
}

func TestProgressLines(t *testing.T) {
	var out strings.Builder
	play(&out, false, 0, drainEvents())
	want := `unloading zcache: 0 %, 3.9 MiB left
unloading zcache: 40 %, 2.3 MiB left, 800 KiB/s, 3s
unloading zcache: 80 %, 800 KiB left, 800 KiB/s, 1s
unloaded zcache: its 3.9 MiB of pages are on storage, its memory is free
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestProgressBar(t *testing.T) {
	var out strings.Builder
	events := drainEvents()
	play(&out, false, 72, []admin.MoveEvent{events[0], events[5], events[11]})
	want := "\rzcache   0 % [" + strings.Repeat(".", 43) + "] 3.9 MiB left" +
		"\rzcache  50 % [" + strings.Repeat("#", 15) + strings.Repeat(".", 15) + "] 2 MiB left, 800 KiB/s, 3s" +
		"\runloaded zcache: its 3.9 MiB of pages are on storage, its memory is free\n"
	if out.String() != want {
		t.Errorf("got\n%q\nwant\n%q", out.String(), want)
	}
	// Whatever was drawn is covered by what is drawn over it, and no line is full.
	longest := 0
	for _, line := range strings.Split(strings.TrimSuffix(out.String(), "\n"), "\r")[1:] {
		if len(line) < longest {
			t.Errorf("%q does not cover what was there", line)
		}
		longest = max(longest, len(strings.TrimRight(line, " ")))
	}
	for width := range 100 {
		for _, e := range events {
			if n := len(bar(e, width)); n >= max(width, 1) {
				t.Errorf("the bar has %d characters in a terminal of %d", n, width)
			}
		}
	}
}

func TestProgressFails(t *testing.T) {
	events := append(drainEvents()[:3], admin.MoveEvent{Backend: "zcache", Operation: admin.OperationUnload, Error: "storage is full"})
	var out strings.Builder
	play(&out, false, 60, events)
	if got := out.String(); !strings.HasSuffix(got, "\n") || strings.Contains(got, "full") {
		t.Errorf("got %q: the error is told elsewhere, below the bar", got)
	}
}

func TestProgressJSON(t *testing.T) {
	var out strings.Builder
	play(&out, true, 60, drainEvents()[10:])
	want := `{"backend":"zcache","operation":"unload","running":true,"total":1000,"moved":1000,"left":0,"to_storage":0,"pages_per_second":200,"seconds_left":0}
{"backend":"zcache","operation":"unload","running":false,"total":1000,"moved":1000,"left":0,"to_storage":0,"pages_per_second":0,"seconds_left":0,"done":true}
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestDoneLineSaysWhere(t *testing.T) {
	e := admin.MoveEvent{Backend: "a", Operation: admin.OperationUnload, Into: "b or c", Done: true, Progress: admin.Progress{
		Total: 1024, Moved: 1024, ToStorage: 256, ToBackends: map[string]uint64{"b": 512, "c": 256},
	}}
	want := "unloaded a: of its pages, 2 MiB went to b, 1 MiB went to c, 1 MiB to storage, its memory is free"
	if got := doneLine(e); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	e.ToBackends, e.ToStorage = nil, 1024
	if got, want := doneLine(e), "unloaded a: its 4 MiB of pages are on storage, its memory is free"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// brokenWriter is a pipe whose reader is gone.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestShowReportsBrokenOutput(t *testing.T) {
	tool := &tool{out: brokenWriter{}, json: true}
	if err := tool.show(admin.Status{}, nil); err == nil || err.Error() != "print: broken pipe" {
		t.Errorf("show = %v", err)
	}
}
