package admin

import (
	"context"
	"log/slog"
	"reflect"
	"sync"
	"testing"
	"time"
)

// fakeJournal keeps everything.
type fakeJournal struct {
	mu      sync.Mutex
	level   slog.Level
	lines   []LogLine
	changed chan struct{}
}

func newFakeJournal() *fakeJournal { return &fakeJournal{changed: make(chan struct{})} }

func (j *fakeJournal) Level() slog.Level     { return j.level }
func (j *fakeJournal) SetLevel(l slog.Level) { j.level = l }
func (j *fakeJournal) Forgotten() uint64     { return 7 }

func (j *fakeJournal) Since(after uint64, least slog.Level, most int) (lines []LogLine, next uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range j.lines[after:] {
		var level slog.Level
		if level.UnmarshalText([]byte(l.Level)) == nil && level >= least {
			lines = append(lines, l)
		}
	}
	return lines[max(len(lines)-most, 0):], uint64(len(j.lines))
}

func (j *fakeJournal) Changed(after uint64) <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	if uint64(len(j.lines)) > after {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return j.changed
}

func (j *fakeJournal) add(level, message string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, LogLine{Number: uint64(len(j.lines) + 1), Level: level, Message: message})
	close(j.changed)
	j.changed = make(chan struct{})
}

func (s *fakeService) Journal() Journal { return s.journal }

func TestLog(t *testing.T) {
	service := &fakeService{journal: newFakeJournal()}
	service.journal.add("INFO", "a")
	service.journal.add("WARN", "b")
	service.journal.add("INFO", "c")
	c := startClient(t, service)
	ctx := context.Background()
	got, err := c.Log(ctx, LogQuery{Lines: 2})
	if want := (Log{Level: "info", Forgotten: 7, Lines: service.journal.lines[1:]}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Log = %+v, %v, want %+v", got, err, want)
	}
	got, err = c.Log(ctx, LogQuery{Lines: 9, Least: slog.LevelWarn})
	if err != nil || len(got.Lines) != 1 || got.Lines[0].Message != "b" {
		t.Errorf("warnings = %+v, %v", got, err)
	}
	got, err = c.SetLogLevel(ctx, "debug")
	if err != nil || got.Level != "debug" || service.journal.level != slog.LevelDebug {
		t.Errorf("SetLogLevel = %+v, %v; it is %v", got, err, service.journal.level)
	}
	if _, err = c.SetLogLevel(ctx, "loud"); err == nil || service.journal.level != slog.LevelDebug {
		t.Errorf("an unknown level: %v; it is %v", err, service.journal.level)
	}
}

// TestFollowLog: lines come as they are logged, also after the time that a request may
// take, and the end of the server ends it in order.
func TestFollowLog(t *testing.T) {
	const timeout = 50 * time.Millisecond
	service := &fakeService{journal: newFakeJournal()}
	service.journal.add("INFO", "a")
	service.journal.add("INFO", "b")
	var server *Server
	c := NewClient(start(t, service, func(s *Server) { server, s.http.ReadTimeout, s.http.ReadHeaderTimeout = s, timeout, timeout }))
	defer c.Close()
	var seen []string
	err := c.FollowLog(context.Background(), LogQuery{Lines: 1, Least: slog.LevelDebug}, func(l LogLine) {
		seen = append(seen, l.Message)
		switch l.Message {
		case "b":
			time.Sleep(2 * timeout)
			service.journal.add("DEBUG", "c")
		case "c":
			service.journal.add("INFO", "d")
		case "d":
			go server.Close()
		}
	})
	if want := []string{"b", "c", "d"}; err != nil || !reflect.DeepEqual(seen, want) {
		t.Errorf("FollowLog = %v, saw %v, want %v", err, seen, want)
	}
}

func TestFollowLogClientLeaves(t *testing.T) {
	service := &fakeService{journal: newFakeJournal()}
	service.journal.add("INFO", "a")
	c := startClient(t, service)
	ctx, cancel := context.WithCancel(context.Background())
	if err := c.FollowLog(ctx, LogQuery{Lines: 1}, func(LogLine) { cancel() }); err == nil {
		t.Error("a stream that was left ended in order")
	}
}
