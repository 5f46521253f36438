package scripts

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// program starts one of the programs, and kills it at the end of the test.
func program(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), "TERM=xterm-256color", "LC_ALL=C.UTF-8", "NO_COLOR=", "GORACE=atexit_sleep_ms=0")
	t.Cleanup(func() {
		if c.Process != nil && c.ProcessState == nil {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	})
	return c
}

// eventually waits for something that is to come.
func eventually(t *testing.T, what string, there func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !there(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func startDaemon(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	c := program(t, "tmemd", "--state-dir", dir, "--size", "8MiB", "--memory-dir", "off", "--metrics", "off")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	client := admin.NewClient(filepath.Join(dir, "admin.sock"))
	defer client.Close()
	eventually(t, "the daemon answers", func() bool {
		_, err := client.Status(context.Background())
		return err == nil
	})
	return c
}

// top is tmemctl top in a terminal.
type top struct {
	t        *testing.T
	command  *exec.Cmd
	master   *os.File
	terminal *os.File // kept open: its settings are looked at afterwards
	before   unix.Termios

	mu   sync.Mutex
	text strings.Builder // guarded by mu: what was drawn since the last look
}

func startTop(t *testing.T, dir string) *top {
	t.Helper()
	master, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	x := &top{t: t, master: master, terminal: terminal, command: program(t, "tmemctl", "--state-dir", dir, "top", "--interval", "100ms")}
	x.resize(80, 24)
	x.before = x.settings()
	x.command.Stdin, x.command.Stdout, x.command.Stderr = terminal, terminal, terminal
	x.command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.command.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			x.mu.Lock()
			x.text.Write(buffer[:n])
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		terminal.Close()
		_ = x.command.Process.Kill() // whoever has the terminal keeps the reader waiting
		<-read
		master.Close()
	})
	return x
}

func (x *top) resize(width, height uint16) {
	x.t.Helper()
	if err := pty.Setsize(x.master, &pty.Winsize{Rows: height, Cols: width}); err != nil {
		x.t.Fatal(err)
	}
}

func (x *top) settings() unix.Termios {
	x.t.Helper()
	set, err := unix.IoctlGetTermios(int(x.terminal.Fd()), unix.TCGETS)
	if err != nil {
		x.t.Fatal(err)
	}
	return *set
}

// await waits until a word was drawn, and forgets what was drawn so far.
func (x *top) await(word string) {
	x.t.Helper()
	eventually(x.t, word+" on the screen", func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		if !strings.Contains(x.text.String(), word) {
			return false
		}
		x.text.Reset()
		return true
	})
}

// repaintedWithout has all drawn anew, as only what changes is drawn otherwise, and says
// whether a word is missing.
func (x *top) repaintedWithout(word string) func() bool {
	height := uint16(50)
	return func() bool {
		x.mu.Lock()
		x.text.Reset()
		x.mu.Unlock()
		height ^= 1
		x.resize(120, height)
		painted := ""
		eventually(x.t, "all is drawn anew", func() bool {
			x.mu.Lock()
			defer x.mu.Unlock()
			painted = x.text.String()
			return strings.Contains(painted, "CLIENTS") && strings.Contains(painted, "help")
		})
		return !strings.Contains(painted, word)
	}
}

func (x *top) press(keys string) {
	x.t.Helper()
	if _, err := x.master.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

// ended checks that it ends in order, and the terminal is what it was.
func (x *top) ended() {
	x.t.Helper()
	if err := x.command.Wait(); err != nil {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.t.Fatalf("tmemctl top: %v: %q", err, x.text.String())
	}
	if after := x.settings(); after != x.before {
		x.t.Errorf("the terminal is set to %+v, was %+v", after, x.before)
	}
	x.await("\x1b[?1049l")
}

// TestTop: the program in a terminal, with a daemon that comes and goes.
func TestTop(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	daemon := startDaemon(t, dir)
	x := startTop(t, dir)
	x.await("zcache")
	if x.settings() == x.before {
		t.Error("keys would have to be ended with Enter: the terminal is set as it was")
	}
	x.press("?")
	x.await("Ctrl-C")
	x.press("?")
	x.await("zcache")
	x.press("sss")
	x.await("nam") // e is where it was
	x.resize(120, 50)
	x.await("EXPORT")

	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := daemon.Wait(); err != nil {
		t.Fatal(err)
	}
	x.await("gone")
	startDaemon(t, dir)
	eventually(t, "the daemon is seen again", x.repaintedWithout("gone"))
	x.press("q")
	x.ended()
}

// TestTopSignals: whoever sends a signal finds the terminal restored, too.
func TestTopSignals(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	startDaemon(t, dir)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT} {
		x := startTop(t, dir)
		x.await("zcache")
		if err := x.command.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		x.ended()
	}
}

// TestStatusInTerminal: colours on a terminal, and none if somebody wants none.
func TestStatusInTerminal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	startDaemon(t, dir)
	for environment, painted := range map[string]bool{"": true, "NO_COLOR=1": false, "TERM=dumb": false} {
		master, terminal, err := pty.Open()
		if err != nil {
			t.Fatal(err)
		}
		c := program(t, "tmemctl", "--state-dir", dir, "status", "--interval", "0")
		if environment != "" {
			c.Env = append(c.Env, environment)
		}
		c.Stdout = terminal
		if err := pty.Setsize(master, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
			t.Fatal(err)
		}
		if err := c.Run(); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 1<<16)
		n, err := master.Read(buffer) // all of it: it fits the terminal's buffer
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(buffer[:n]), "\x1b["); got != painted {
			t.Errorf("%q: painted %v, want %v: %q", environment, got, painted, buffer[:n])
		}
		terminal.Close()
		master.Close()
	}
}
