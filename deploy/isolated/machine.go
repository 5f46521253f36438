package isolated

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

//go:embed setup.sh
var setup []byte

// Init is what the first process of a machine becomes.
type Init string

// The first processes.
const (
	Systemd Init = "systemd" // up to basic.target
	None    Init = "none"    // nothing is started
)

// Machine is an isolated machine. Its methods may be called by several goroutines.
type Machine struct {
	t     testing.TB
	pid   int // of its first process, here
	ended chan struct{}
}

const (
	startTimeout   = 30 * time.Second
	commandTimeout = 2 * time.Minute
)

// Start makes a machine that ends with the test.
func Start(t testing.TB, first Init) *Machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes name spaces and mounts: run it as root")
	}
	script := filepath.Join(t.TempDir(), "setup.sh")
	if err := os.WriteFile(script, setup, 0o600); err != nil {
		t.Fatal(err)
	}
	m := &Machine{t: t, ended: make(chan struct{})}
	group := fmt.Sprintf("tmemd-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	var said output
	started := make(chan error)
	go func() { // L2: the death signal counts the thread that started the process, so it stays until the end
		defer close(m.ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		c := exec.Command("sh", script, string(first), group)
		c.Stdout, c.Stderr = &said, &said
		c.WaitDelay = time.Second
		c.SysProcAttr = &syscall.SysProcAttr{
			Pdeathsig: syscall.SIGKILL,
			Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
				syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		}
		err := c.Start()
		if err == nil {
			m.pid = c.Process.Pid
		}
		started <- err
		if err == nil {
			_ = c.Wait() // it is killed
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start an isolated machine: %v", err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(m.pid, syscall.SIGKILL) // it may have ended
		<-m.ended
		removeGroup(group)
	})
	ready := "test -e /run/ready"
	if first == Systemd {
		ready = "systemctl is-active --quiet basic.target"
	}
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(50 * time.Millisecond) {
		// Until pivot_root the process is still in this machine's root, where there is no /upper.
		if _, err := m.Run("test -d /upper && " + ready); err == nil {
			return m
		} else if time.Now().After(deadline) {
			t.Fatalf("the isolated machine does not start: %v\n%s", err, said.String())
		}
		select {
		case <-m.ended:
			t.Fatalf("the isolated machine ended at once:\n%s", said.String())
		default:
		}
	}
}

// Command is a shell command there, to be started.
func (m *Machine) Command(ctx context.Context, command string) *exec.Cmd {
	c := exec.CommandContext(ctx, "nsenter", "--target", fmt.Sprint(m.pid), "--mount", "--net", "--pid", "--ipc", "--uts",
		"--root", "env", "-i", "-C", "/", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive", "sh", "-c", command)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.WaitDelay = time.Second // a daemon that it left has its output
	return c
}

// Run runs a shell command there and returns what it printed, errors too.
func (m *Machine) Run(command string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	var printed output
	c := m.Command(ctx, command)
	c.Stdout, c.Stderr = &printed, &printed
	err := c.Run()
	if err != nil && err != exec.ErrWaitDelay {
		return printed.String(), fmt.Errorf("%s: %w: %s", command, err, printed.String())
	}
	return printed.String(), nil
}

// Must runs a shell command there that has to work, and returns what it printed.
func (m *Machine) Must(command string) string {
	m.t.Helper()
	printed, err := m.Run(command)
	if err != nil {
		m.t.Fatal(err)
	}
	return printed
}

// Fails runs a shell command there that has to fail, and returns what it printed.
func (m *Machine) Fails(command string) string {
	m.t.Helper()
	printed, err := m.Run(command)
	if err == nil {
		m.t.Fatalf("%s worked, and should not have: %s", command, printed)
	}
	return printed
}

// Put copies a file or folder of this machine there.
func (m *Machine) Put(from, to string) {
	m.t.Helper()
	root := filepath.Join("/proc", fmt.Sprint(m.pid), "root")
	if printed, err := exec.Command("cp", "-rL", from, filepath.Join(root, to)).CombinedOutput(); err != nil {
		m.t.Fatalf("copy %s: %v: %s", from, err, printed)
	}
}

// Write makes a file there.
func (m *Machine) Write(name, text string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join("/proc", fmt.Sprint(m.pid), "root", name), []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// Changes lists the files that are there and not as they are on this machine, without those in memory.
func (m *Machine) Changes() []string {
	m.t.Helper()
	list := strings.Fields(m.Must("cd /upper && find . ! -type d -printf '/%P\n'"))
	slices.Sort(list)
	return list
}

// removeGroup removes what is left of a machine's control group: folders.
func removeGroup(name string) {
	const script = `mount -t cgroup2 cgroup2 /mnt && for i in 1 2 3 4 5; do
		find "/mnt/$0" -depth -type d -exec rmdir {} + 2>/dev/null && exit; sleep 0.1; done`
	_ = exec.Command("unshare", "--mount", "sh", "-c", script, name).Run() // what is left of it is empty
}

// output is what several processes print.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Connect joins two machines by a wire, with an address and prefix length for each.
func Connect(a *Machine, addressOfA string, b *Machine, addressOfB string) {
	a.t.Helper()
	c := exec.Command("ip", "link", "add", "name", "wire", "netns", fmt.Sprint(a.pid), "type", "veth", "peer", "name", "wire", "netns", fmt.Sprint(b.pid))
	if printed, err := c.CombinedOutput(); err != nil {
		a.t.Fatalf("connect isolated machines: %v: %s", err, printed)
	}
	a.Must("ip address add " + addressOfA + " dev wire && ip link set wire up")
	b.Must("ip address add " + addressOfB + " dev wire && ip link set wire up")
}
