package crash

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tmemd/tmemd/cmd/internal/daemon"
	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
)

// roleVariable makes the test's own program a tmemd: the daemon under test has
// the race detector if the test has.
const roleVariable = "TMEMD_CRASH_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" {
		os.Exit(daemon.Command(os.Args[1:], "v0.1.0-crash", os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// place is where the daemons of one test live, one after the other.
type place struct {
	dir, memory string
	program     string // a copy of this program, that can be replaced
}

func newPlace(t *testing.T) place {
	t.Helper()
	memory, err := os.MkdirTemp("/dev/shm", "tmemd-crash-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(memory) })
	p := place{dir: t.TempDir(), memory: filepath.Join(memory, "m")}
	p.program = filepath.Join(p.dir, "tmemd")
	p.install(t, nil)
	return p
}

// install puts a program in the place of the one that runs: this one if text is nil.
func (p place) install(t *testing.T, text []byte) {
	t.Helper()
	if text == nil {
		var err error
		if text, err = os.ReadFile(os.Args[0]); err != nil {
			t.Fatal(err)
		}
	}
	// Beside and renamed, as packages do: one that runs cannot be written to.
	if err := os.WriteFile(p.program+".new", text, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p.program+".new", p.program); err != nil {
		t.Fatal(err)
	}
}

func (p place) socket() string { return filepath.Join(p.dir, "nbd.sock") }

// command is this program as tmemd.
func (p place) command(args ...string) *exec.Cmd {
	c := exec.Command(p.program, args...)
	c.Env = append(os.Environ(), roleVariable+"=tmemd", "GORACE=atexit_sleep_ms=0 exitcode=66")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}

// process is one running tmemd.
type process struct {
	*exec.Cmd
	place  place
	log    logBuffer
	exited chan struct{}
	exit   error // written before exited is closed
}

type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (p place) launch(args ...string) (*process, error) {
	r := &process{place: p, exited: make(chan struct{})}
	r.Cmd = p.command(append([]string{"--state-dir", p.dir, "--memory-dir", p.memory, "--metrics", "off"}, args...)...)
	r.Stdout, r.Stderr = &r.log, &r.log
	if err := r.Start(); err != nil {
		return nil, err
	}
	go func() {
		r.exit = r.Wait()
		close(r.exited)
	}()
	return r, nil
}

// awaitReady waits until clients can attach.
func (p *process) awaitReady() error { return p.awaitExport("swap") }

func (p *process) awaitExport(name string) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
		c, err := nbdtest.Dial("unix", p.place.socket(), name)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.exited:
			return fmt.Errorf("tmemd did not start: %w", p.exit)
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("tmemd does not answer: %w", err)
		}
	}
}

// kill ends it with SIGKILL. That it ended by itself before is an error.
func (p *process) kill() error {
	p.Process.Signal(syscall.SIGKILL)
	<-p.exited
	var exit *exec.ExitError
	if status, ok := p.ProcessState.Sys().(syscall.WaitStatus); errors.As(p.exit, &exit) && ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("tmemd ended by itself: %v", p.exit)
}

// stop ends it as it should be ended.
func (p *process) stop() error {
	p.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		return p.exit
	case <-time.After(time.Minute):
		return errors.New("tmemd does not end")
	}
}

// check runs tmemd check on what a dead daemon left, and returns what it says.
func (p place) check() (string, error) {
	text, err := p.command("check", "--state-dir", p.dir).CombinedOutput()
	if err != nil {
		return string(text), fmt.Errorf("tmemd check: %w", err)
	}
	return string(text), nil
}
