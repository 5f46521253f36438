//go:build interop

package interop

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tmemd/tmemd/nbd/tlstest"
)

// TestActivation starts tmemd as systemd does for a .socket unit: with sockets
// that somebody else listens on. They are there before it and after it, so a
// client that comes in between waits instead of failing.
func TestActivation(t *testing.T) {
	dir, run := t.TempDir(), t.TempDir()
	var files []*os.File
	for _, name := range []string{"nbd.sock", "admin.sock"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(run, name), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
	}
	certificates := t.TempDir()
	authority := tlstest.NewAuthority(t, "tmemd test")
	certificate, key := tlstest.WriteFiles(t, certificates, "server", authority.Server(t))
	config := settings(t, fmt.Sprintf("[nbd.tls]\ncertificate = %q\nkey = %q\n[[export]]\nname = \"swap\"\nsize = \"64MiB\"\n", certificate, key))

	// Its process number is known only to the shell that becomes it.
	launch := func(config string) *daemon {
		t.Helper()
		log, err := os.CreateTemp(t.TempDir(), "tmemd-*.log")
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		c := exec.Command("env", "--default-signal=HUP,PIPE", "sh", "-c", `export LISTEN_PID=$$; exec "$0" "$@"`,
			filepath.Join(bin, "tmemd"), "--state-dir", dir, "--metrics", "127.0.0.1:0", config)
		c.ExtraFiles = files
		c.Env = append(os.Environ(), "LISTEN_FDS=2", "LISTEN_FDNAMES=tmemd.socket:admin")
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal, like a service
		d := launchCommand(t, c, log, dir)
		d.logPath = log.Name()
		return d
	}
	control := func(args ...string) result {
		return try(t.Context(), filepath.Join(bin, "tmemctl"), append([]string{"--socket", filepath.Join(run, "admin.sock")}, args...)...)
	}

	// Asked before there is anybody to answer.
	early := make(chan error, 1)
	go func() {
		c, err := dial("unix", filepath.Join(run, "nbd.sock"), "swap")
		if err == nil {
			err = c.leave()
		}
		early <- err
	}()
	d := launch(config)
	select {
	case err := <-early:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("who came early was not served")
	}
	if r := control("status"); r.err != nil || !strings.Contains(r.stdout, "unix://"+run+"/nbd.sock") {
		t.Errorf("tmemctl over the inherited socket:\n%v", r)
	}
	for _, name := range []string{"nbd.sock", "admin.sock"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the daemon made a %s of its own: %v", name, err)
		}
	}
	c, err := dial("unix", filepath.Join(run, "nbd.sock"), "swap")
	if err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	l.fill(t, c, 0, 500)

	// Without a terminal SIGHUP is about certificates, not about the end.
	tlstest.WriteFiles(t, certificates, "server", authority.Server(t))
	d.signal(syscall.SIGHUP)
	eventually(t, "the certificates are read anew", func() bool { return strings.Contains(d.log(), "certificates read anew") })
	l.fill(t, c, 400, 900)
	l.checkAll(t, c)
	if err := c.leave(); err != nil {
		t.Error(err)
	}
	d.stop()

	// The next one takes over the same sockets.
	d = launch(config)
	if c, err = dial("unix", filepath.Join(run, "nbd.sock"), "swap"); err != nil {
		t.Fatal(err)
	}
	l.checkAll(t, c)
	if err := c.leave(); err != nil {
		t.Error(err)
	}
	d.stop()

	// Descriptors that are no listening sockets are told, and nothing is begun.
	files[0], err = os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer files[0].Close()
	d = launch(config)
	if err := d.wait(); err == nil || !strings.Contains(d.log(), "error: inherited socket tmemd.socket: ") || !strings.Contains(d.log(), "hint: ") {
		t.Errorf("it ended with %v\n%s", err, d.log())
	}
}

// TestDescriptors has clients take all the descriptors that the daemon may have.
// It says so, serves who is attached, and is as before when they are gone.
func TestDescriptors(t *testing.T) {
	dir := t.TempDir()
	config := settings(t, "[nbd]\nhandshake_timeout = \"5m\"\n")
	log, err := os.CreateTemp(t.TempDir(), "tmemd-*.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c := exec.Command("prlimit", "--nofile=48:48", filepath.Join(bin, "tmemd"), "--state-dir", dir, "--metrics", "127.0.0.1:0", "--size", "64MiB", config)
	d := launchCommand(t, c, log, dir)
	d.logPath = log.Name()
	d.awaitReady()
	attached, l := d.dial("unix"), newLedger()
	l.fill(t, attached, 0, 500)

	var crowd []net.Conn
	for range 100 {
		c, err := net.Dial("unix", d.address("unix"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		crowd = append(crowd, c)
	}
	eventually(t, "no descriptor is left", func() bool { return strings.Contains(d.log(), "cannot accept a connection") })
	l.fill(t, attached, 300, 1500)
	l.checkAll(t, attached)
	for _, c := range crowd {
		c.Close()
	}
	eventually(t, "the crowd is gone", func() bool { return d.tmemctl("status").err == nil && d.export().Clients == 1 })
	for range 20 {
		c, err := dial("unix", d.address("unix"), "swap")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.leave(); err != nil {
			t.Error(err)
		}
	}
	// A stop needs descriptors too.
	if err := attached.leave(); err != nil {
		t.Error(err)
	}
	d.stop()
	checkRestart(t, dir, "--size=64MiB", l)
	if n := strings.Count(d.log(), "cannot accept a connection"); n > 200 {
		t.Errorf("it said %d times that it has no descriptors", n)
	}
}
