package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
)

// fullVariable is set in the process that TestFullMemory runs in.
const fullVariable = "TMEMD_CRASH_FULL"

// TestFullMemory: a memory folder without room is an error at the start that says
// so, and a refusal afterwards: pages go to storage, nothing faults, and another
// process takes over. It runs in a process with a mount of its own.
func TestFullMemory(t *testing.T) {
	if dir := os.Getenv(fullVariable); dir != "" {
		testFullMemory(t, dir)
		return
	}
	c := exec.Command(os.Args[0], "-test.run=^TestFullMemory$", "-test.v")
	c.Env = append(os.Environ(), fullVariable+"="+t.TempDir())
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		c.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if output, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
}

func testFullMemory(t *testing.T, dir string) {
	// Room for zcache's bookkeeping, which depends on the machine's memory, and for
	// 6 MiB of pages and map.
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	size := int64(info.Totalram)*int64(info.Unit)/(64<<10)*24 + 6<<20
	mount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("tmpfs", dir, "tmpfs", flags, fmt.Sprintf("size=%d,mode=700", size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	mount(0)
	p := newPlace(t)
	p.memory = filepath.Join(dir, "m")

	fails := func(want, hint string, args ...string) {
		t.Helper()
		q := p
		q.dir = t.TempDir() // storage was made by then
		r, err := q.launch(args...)
		if err != nil {
			t.Fatal(err)
		}
		<-r.exited
		if text := r.log.String(); r.exit == nil || !strings.Contains(text, want) || !strings.Contains(text, "\nhint: "+hint) {
			t.Errorf("tmemd %v ended with %v and said\n%s\nwant %q and the hint %q", args, r.exit, text, want, hint)
		}
	}
	// A map of 2 MiB for each GiB.
	fails("open export swap: open area swap: claim ", "make the tmpfs larger", "--size", fmt.Sprint(size*512&^4095))
	fails("--backend: load backend zcache: create zcache: claim ", "make the tmpfs larger", "--size", fmt.Sprint((size-1<<20)*512&^4095), "--backend", "zcache")

	r, err := p.launch("--size", "64MiB")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.awaitReady(); err != nil {
		t.Fatalf("%v\n%s", err, &r.log)
	}
	pages := func(do func(*nbdtest.Client) error) {
		t.Helper()
		c, err := nbdtest.Dial("unix", p.socket(), "swap")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := do(c); err != nil {
			t.Fatalf("%v\n%s", err, &r.log)
		}
	}
	if !strings.Contains(r.log.String(), "the memory folder has less room than the backends may take") {
		t.Errorf("no warning of the room:\n%s", &r.log)
	}
	const count = 16 << 10
	pages(func(c *nbdtest.Client) error {
		return errors.Join(c.WritePages(1, 0, count), c.CheckPages(1, 0, count), c.WritePages(2, 0, count/2))
	})
	o := newOperator(p, 0)
	defer o.client.Close()
	status, err := o.client.Status(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if b := status.Backends[0]; b.Refused["full"] == 0 || b.Pages == 0 || b.HeldBytes >= uint64(size) || b.State != "active" {
		t.Errorf("with a full memory folder: %+v", b)
	}
	if err := r.kill(); err != nil {
		t.Fatal(err)
	}
	if text, err := p.check(); err != nil {
		t.Errorf("%v\n%s", err, text)
	}
	if r, err = p.launch(); err != nil {
		t.Fatal(err)
	}
	if err := r.awaitReady(); err != nil {
		t.Fatalf("%v\n%s", err, &r.log)
	}
	pages(func(c *nbdtest.Client) error {
		return errors.Join(c.CheckPages(2, 0, count/2), c.CheckPages(1, count/2, count/2))
	})
	if err := r.stop(); err != nil {
		t.Fatalf("%v\n%s", err, &r.log)
	}

	mount(unix.MS_REMOUNT | unix.MS_RDONLY)
	fails("--memory-dir: memory folder "+p.memory+": mkdir "+p.memory+": read-only file system", "give --memory-dir a folder that this user may write to")
}
