package journal

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/slogtest"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

const everything = slog.Level(-100)

func messages(lines []admin.LogLine) string {
	var all []string
	for _, l := range lines {
		all = append(all, l.Message)
	}
	return strings.Join(all, " ")
}

func logger(j *Journal) (*slog.Logger, *bytes.Buffer) {
	var out bytes.Buffer
	return slog.New(j.Handler(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: j.Leveler()}))), &out
}

func TestSince(t *testing.T) {
	j := New(slog.LevelInfo)
	log, out := logger(j)
	log.Info("a")
	log.Debug("hidden")
	log.Warn("b")
	log.Error("c")
	lines, next := j.Since(0, everything, 10)
	if messages(lines) != "a b c" || next != 3 {
		t.Errorf("%s, next %d", messages(lines), next)
	}
	if n := strings.Count(out.String(), "\n"); n != 3 {
		t.Errorf("%d lines went on: %s", n, out)
	}
	for _, test := range []struct {
		after uint64
		least slog.Level
		most  int
		want  string
	}{{0, slog.LevelWarn, 10, "b c"}, {1, everything, 10, "b c"}, {0, everything, 1, "c"}, {0, slog.LevelWarn, 1, "c"}, {3, everything, 10, ""}, {0, everything, 0, ""}} {
		if lines, _ := j.Since(test.after, test.least, test.most); messages(lines) != test.want {
			t.Errorf("after %d, level %v, at most %d: %q, want %q", test.after, test.least, test.most, messages(lines), test.want)
		}
	}
	j.SetLevel(slog.LevelDebug)
	log.Debug("d")
	if lines, _ := j.Since(3, everything, 10); messages(lines) != "d" || !strings.Contains(out.String(), "msg=d") {
		t.Errorf("after the level was set: %q, and %s", messages(lines), out)
	}
}

func TestBounds(t *testing.T) {
	j := New(slog.LevelInfo)
	log, _ := logger(j)
	for i := range MaxLines + 10 {
		log.Info(fmt.Sprint(i))
	}
	lines, _ := j.Since(0, everything, 2*MaxLines)
	if len(lines) != MaxLines || lines[0].Message != "10" || j.Forgotten() != 10 {
		t.Errorf("%d lines from %q on, %d forgotten", len(lines), lines[0].Message, j.Forgotten())
	}
	long := strings.Repeat("ä", maxText)
	for range MaxLines {
		log.Info("long", "text", long)
	}
	lines, _ = j.Since(0, everything, 2*MaxLines)
	held := 0
	for _, l := range lines {
		held += cost(l)
	}
	if held > maxBytes || held < maxBytes/2 || held != j.bytes {
		t.Errorf("%d lines hold %d bytes, counted are %d", len(lines), held, j.bytes)
	}
	if value := lines[0].Attributes[0].Value; len(value) > maxText+len(cutMessage) || !strings.HasSuffix(value, "ä"+cutMessage) {
		t.Errorf("a long value is kept with %d bytes, ending in %q", len(value), value[len(value)-10:])
	}
}

func TestChanged(t *testing.T) {
	j := New(slog.LevelInfo)
	log, _ := logger(j)
	log.Info("a")
	select {
	case <-j.Changed(0):
	default:
		t.Error("a line that is there is not told")
	}
	first, second := j.Changed(1), j.Changed(1)
	select {
	case <-first:
		t.Fatal("told before there is a line")
	default:
	}
	log.Info("b")
	<-first
	<-second
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range 100 {
				log.Info("c")
			}
		})
	}
	seen := uint64(2)
	for seen < 402 { // whoever waits misses none
		<-j.Changed(seen)
		_, seen = j.Since(seen, everything, 1000)
	}
	writers.Wait()
}

// TestHandler has the library's own test look at attributes and groups.
func TestHandler(t *testing.T) {
	j := New(everything)
	var seen uint64
	slogtest.Run(t, func(t *testing.T) slog.Handler {
		return j.Handler(slog.DiscardHandler)
	}, func(t *testing.T) map[string]any {
		var lines []admin.LogLine
		lines, seen = j.Since(seen, everything, 1)
		line := lines[0]
		got := map[string]any{slog.LevelKey: line.Level, slog.MessageKey: line.Message}
		if !line.Time.IsZero() {
			got[slog.TimeKey] = line.Time
		}
		for _, a := range line.Attributes {
			at, parts := got, strings.Split(a.Key, ".")
			for _, group := range parts[:len(parts)-1] {
				if at[group] == nil {
					at[group] = map[string]any{}
				}
				at = at[group].(map[string]any)
			}
			at[parts[len(parts)-1]] = a.Value
		}
		return got
	})
}

func TestErrorsAreText(t *testing.T) {
	j := New(slog.LevelInfo)
	log, _ := logger(j)
	log.Error("it failed", "error", errors.New("disk is gone"), slog.Group("at", "line", 5))
	lines, _ := j.Since(0, everything, 1)
	want := []admin.Setting{{Key: "error", Value: "disk is gone"}, {Key: "at.line", Value: "5"}}
	if len(lines) != 1 || fmt.Sprint(lines[0].Attributes) != fmt.Sprint(want) {
		t.Errorf("got %+v, want %+v", lines, want)
	}
}

// TestHiddenLinesCostNothing is J3.
func TestHiddenLinesCostNothing(t *testing.T) {
	log, _ := logger(New(slog.LevelInfo))
	if n := testing.AllocsPerRun(100, func() { log.Debug("hidden") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
