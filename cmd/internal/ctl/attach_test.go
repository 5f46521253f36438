package ctl

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// TestRelay: what an agent printed before it failed becomes one error, with its
// hint.
func TestRelay(t *testing.T) {
	tests := []struct{ name, text, problem, hint string }{
		{"error and hint", "time=x level=WARN msg=y\nerror: nobody serves\nhint: start tmemd", "nobody serves", "start tmemd"},
		{"error alone", "error: broken", "broken", ""},
		{"a crash", "panic: oh", "panic: oh", ""},
		{"nothing", "", "the agent ended without a word; see the kernel's log (dmesg)", ""},
	}
	for _, test := range tests {
		var told *cli.Error
		if err := relay(test.text); !errors.As(err, &told) || told.Problem != test.problem || told.Hint != test.hint {
			t.Errorf("%s: %+v", test.name, err)
		}
	}
}

func TestDetachProgress(t *testing.T) {
	now := time.Unix(1700000000, 0)
	var out strings.Builder
	p := &detachProgress{out: &out, now: func() time.Time { return now }}
	for _, left := range []int64{100 << 20, 90 << 20, 80 << 20, 60 << 20} {
		p.report(left)
		now = now.Add(lineEvery / 2)
	}
	const want = "swapping off: 100 MiB left\nswapping off: 80 MiB left, 10 MiB/s, about 8s\n"
	if out.String() != want {
		t.Errorf("printed %q, want %q", &out, want)
	}
	silent := &detachProgress{out: &out, json: true, now: p.now}
	out.Reset()
	silent.report(1)
	if out.Len() > 0 {
		t.Errorf("with JSON it printed %q", &out)
	}
}
