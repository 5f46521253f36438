package estimate

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/pagemap"
)

// holdVariable tells a process that it is to hold memory of a kind, and nothing else.
const holdVariable = "TMEMD_TEST_HOLD"

// heldBytes is how much. The runtime has runtimeBytes beside it at most, with the race
// detector, much of it zeros.
const runtimeBytes = 32 << 20

const heldBytes = 12 << 20

func TestMain(m *testing.M) {
	if kind := os.Getenv(holdVariable); kind != "" {
		if err := holdMemory(kind); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// holdMemory fills memory, says so, and waits until nobody listens any more. The race
// detector would take more memory for what is written here.
//
//go:norace
func holdMemory(kind string) error {
	memory, err := unix.Mmap(-1, 0, heldBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(1, 2))
	switch kind {
	case "random":
		for i := range memory {
			memory[i] = byte(random.Uint32())
		}
	case "value":
		for i := range memory {
			memory[i] = byte(i % 4)
		}
	case "text":
		for at := 0; at < len(memory); {
			at += copy(memory[at:], "level=INFO msg=\"request done\" took=")
			for n := random.Uint64(); n > 0 && at < len(memory); n /= 10 {
				memory[at] = '0' + byte(n%10)
				at++
			}
			at += copy(memory[at:], "ns\n")
		}
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(memory)
	return err
}

// hold starts a process that holds memory of a kind, and stops it so that it does not
// change.
func hold(t *testing.T, kind string) (pid int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), holdVariable+"="+kind, "GORACE=atexit_sleep_ms=0")
	c.Stderr = os.Stderr
	stdin, err := c.StdinPipe() // closed when the tests end, however they do
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = c.Process.Kill()
		_ = c.Wait() // it was killed
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the process says %q, error %v", line, err)
	}
	if err := c.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		if _, rest, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(rest, "T") {
			return c.Process.Pid
		}
		if time.Now().After(deadline) {
			t.Fatalf("the process does not stop: %s", stat)
		}
	}
}

// allPages reads what a stopped process has.
func allPages(t *testing.T, pid int) (pages [][]byte) {
	t.Helper()
	p, err := pagemap.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	runs, err := p.Runs(1)
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range runs {
		page := make([]byte, pagemap.PageSize)
		if err := p.Read(run.Address, page); err == nil {
			pages = append(pages, page)
		}
	}
	return pages
}

func ignore(Status) {}
