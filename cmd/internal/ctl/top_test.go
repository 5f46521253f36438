package ctl

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/view"
)

// screenText collects what is written to a terminal.
type screenText struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
	done chan struct{}   // closed when the terminal is gone
}

func readTerminal(master *os.File) *screenText {
	s := &screenText{done: make(chan struct{})}
	go func() {
		defer close(s.done)
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			s.mu.Lock()
			s.text.Write(buffer[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *screenText) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// openTerminal makes a terminal, and reads what is written to it.
func openTerminal(t *testing.T) (terminal *os.File, shown *screenText) {
	t.Helper()
	master, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(master, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	shown = readTerminal(master)
	t.Cleanup(func() {
		terminal.Close()
		<-shown.done // the kernel says so when nobody has the terminal any more
		master.Close()
	})
	return terminal, shown
}

func settings(t *testing.T, terminal *os.File) unix.Termios {
	t.Helper()
	set, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *set
}

const (
	otherScreen = "\x1b[?1049h"
	usualScreen = "\x1b[?1049l"
	showCursor  = "\x1b[?25h"
)

// restored checks that a terminal is as it was.
func restored(t *testing.T, before unix.Termios, terminal *os.File, shown *screenText) {
	t.Helper()
	if after := settings(t, terminal); after != before {
		t.Errorf("the terminal is set to %+v, was %+v", after, before)
	}
	// What was written last may still be on its way to the reader.
	deadline := time.Now().Add(10 * time.Second)
	for {
		text := shown.String()
		if strings.LastIndex(text, usualScreen) > strings.LastIndex(text, otherScreen) &&
			strings.LastIndex(text, showCursor) > strings.LastIndex(text, "\x1b[?25l") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the screen or the cursor is not what it was: %q", text)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestTopPanics: if tmemctl itself breaks, the terminal does not.
func TestTopPanics(t *testing.T) {
	terminal, shown := openTerminal(t)
	before := settings(t, terminal)
	err := watch(context.Background(), terminal, terminal, func(context.Context) (view.Sample, error) {
		if strings.Contains(shown.String(), otherScreen) {
			panic("no reason")
		}
		return view.Sample{At: time.Now(), Status: admin.Status{Phase: admin.PhaseServing}}, nil
	}, time.Millisecond)
	var text strings.Builder
	if code := cli.Report(&text, err); code != cli.ExitFailed || !strings.Contains(text.String(), "broke: no reason") || !strings.Contains(text.String(), "top_test.go") {
		t.Errorf("code %d, error %s", code, text.String())
	}
	restored(t, before, terminal, shown)
}

// TestTopEnds: a context that ends is no error, and restores the terminal, also while
// the daemon is silent.
func TestTopEnds(t *testing.T) {
	terminal, shown := openTerminal(t)
	before := settings(t, terminal)
	ctx, cancel := context.WithCancel(context.Background())
	err := watch(ctx, terminal, terminal, func(ctx context.Context) (view.Sample, error) {
		for !strings.Contains(shown.String(), otherScreen) && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
		<-ctx.Done()
		return view.Sample{}, ctx.Err()
	}, time.Millisecond)
	if err != nil {
		t.Error(err)
	}
	restored(t, before, terminal, shown)
}

func TestTopKeys(t *testing.T) {
	m := &watcher{ctx: context.Background(), screen: view.Screen{Width: 80, Height: 24}, shown: view.Top{Order: view.Orders[0], Interval: time.Second}}
	press := func(key string) tea.Cmd {
		code := []rune(key)[0]
		_, command := m.Update(tea.KeyPressMsg{Code: code, Text: key})
		return command
	}
	for range view.Orders {
		before := m.shown.Order
		press("s")
		if m.shown.Order == before {
			t.Errorf("s leaves the order at %s", before)
		}
	}
	if m.shown.Order != view.Orders[0] {
		t.Errorf("after all orders it is %s", m.shown.Order)
	}
	m.Update(answered{sample: view.Sample{Status: admin.Status{PID: 1}}})
	press("p")
	m.Update(answered{sample: view.Sample{Status: admin.Status{PID: 2}}})
	if pid := m.shown.History.Last().Status.PID; pid != 1 {
		t.Errorf("while it is paused the frame changes: process %d", pid)
	}
	press("p")
	m.Update(answered{err: errors.New("nobody there")})
	if !strings.Contains(m.View().Content, "nobody there") || m.shown.History.Last() == nil {
		t.Errorf("a daemon that is gone shows\n%s", m.View().Content)
	}
	m.Update(answered{sample: view.Sample{Status: admin.Status{PID: 3}}})
	if strings.Contains(m.View().Content, "nobody there") || m.shown.History.Last().Status.PID != 3 {
		t.Errorf("a daemon that is back shows\n%s", m.View().Content)
	}
	m.Update(tea.WindowSizeMsg{Width: 40, Height: 10})
	if n := strings.Count(m.View().Content, "\n"); n != 9 {
		t.Errorf("in 10 lines there are %d", n+1)
	}
	press("?")
	if !strings.Contains(m.View().Content, "quit") {
		t.Errorf("? shows\n%s", m.View().Content)
	}
	command := press("q")
	if command == nil {
		t.Fatal("q does nothing")
	}
	if _, quits := command().(tea.QuitMsg); !quits {
		t.Error("q does not quit")
	}
}
