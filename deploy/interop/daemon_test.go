//go:build interop

package interop

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// daemon is one running tmemd.
type daemon struct {
	t        *testing.T
	stateDir string
	logPath  string // empty if its output goes elsewhere
	process  *exec.Cmd
	exited   chan struct{} // closed when the process is gone
	exit     error         // how; written before exited is closed
	listen   []string      // addresses as bound, "unix:///PATH"
}

// status is what the tests need of `tmemctl status --json`.
type status struct {
	Phase    string    `json:"phase"`
	Listen   []string  `json:"listen"`
	Metrics  string    `json:"metrics"`
	Exports  []export  `json:"exports"`
	Backends []backend `json:"backends"`
}

type export struct {
	Name      string `json:"name"`
	SizeBytes int64  `json:"size_bytes"`
	Clients   int    `json:"clients"`
	Pages     struct {
		Storage  int64            `json:"storage"`
		Hole     int64            `json:"hole"`
		Backends map[string]int64 `json:"backends"`
	} `json:"pages"`
	SuccStores uint64            `json:"succ_stores"`
	Loads      uint64            `json:"loads"`
	LoadErrors uint64            `json:"load_errors"`
	Errors     map[string]uint64 `json:"errors"`
	Storage    struct {
		Path        string `json:"path"`
		Direct      bool   `json:"direct"`
		ReadErrors  uint64 `json:"read_errors"`
		WriteErrors uint64 `json:"write_errors"`
	} `json:"storage"`
}

type backend struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Reason string `json:"reason"`
	Pages  uint64 `json:"pages"`
}

// launch starts a tmemd of its own and does not wait for it. Metrics are on a
// free port unless the options say otherwise.
func launch(t *testing.T, stateDir string, options ...string) *daemon {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), "tmemd-*.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d := launchInto(t, log, stateDir, options...)
	d.logPath = log.Name()
	return d
}

// launchInto is launch with the output going to a file or pipe.
func launchInto(t *testing.T, output *os.File, stateDir string, options ...string) *daemon {
	t.Helper()
	// Signals as a terminal leaves them: what starts the tests may ignore some.
	memory := memoryFolder(stateDir)
	t.Cleanup(func() { os.RemoveAll(memory) })
	words := append([]string{
		"--default-signal=HUP,PIPE", filepath.Join(bin, "tmemd"), "--state-dir", stateDir, "--memory-dir", memory, "--metrics", "127.0.0.1:0",
	}, options...)
	return launchCommand(t, exec.Command("env", words...), output, stateDir)
}

func memoryFolder(stateDir string) string {
	return filepath.Join("/dev/shm", "tmemd-interop"+strings.ReplaceAll(stateDir, "/", "-"))
}

// launchCommand is launchInto for a command line that ends in tmemd.
func launchCommand(t *testing.T, c *exec.Cmd, output *os.File, stateDir string) *daemon {
	t.Helper()
	d := &daemon{t: t, stateDir: stateDir, exited: make(chan struct{})}
	// Not the test's context: that ends before the cleanups.
	d.process = c
	d.process.Stdout, d.process.Stderr = output, output
	if d.process.SysProcAttr == nil {
		d.process.SysProcAttr = &syscall.SysProcAttr{}
	}
	d.process.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := d.process.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		d.exit = d.process.Wait()
		close(d.exited)
	}()
	t.Cleanup(d.clean)
	return d
}

// start starts a tmemd and waits until it serves.
func start(t *testing.T, stateDir string, options ...string) *daemon {
	t.Helper()
	d := launch(t, stateDir, options...)
	d.awaitReady()
	return d
}

// awaitReady waits until tmemctl gets an answer.
func (d *daemon) awaitReady() {
	d.t.Helper()
	eventually(d.t, "tmemd is ready", func() bool {
		if !d.running() {
			d.t.Fatalf("tmemd did not start: %v\n%s", d.exit, d.log())
		}
		return d.tmemctl("status").err == nil
	})
	d.listen = d.status().Listen
}

// clean ends the process if the test did not, and shows its log if that failed.
func (d *daemon) clean() {
	// The error is that it is gone already.
	_ = d.process.Process.Kill()
	<-d.exited
	if d.t.Failed() {
		d.t.Logf("log of tmemd in %s:\n%s", d.stateDir, d.log())
	}
}

func (d *daemon) running() bool {
	select {
	case <-d.exited:
		return false
	default:
		return true
	}
}

// log is what the daemon printed so far.
func (d *daemon) log() string {
	if d.logPath == "" {
		return ""
	}
	text, err := os.ReadFile(d.logPath)
	if err != nil {
		d.t.Error(err)
	}
	return string(text)
}

func (d *daemon) signal(s syscall.Signal) {
	d.t.Helper()
	if err := d.process.Process.Signal(s); err != nil {
		d.t.Fatalf("send %v: %v", s, err)
	}
}

// wait waits until the process is gone and returns how it ended.
func (d *daemon) wait() error {
	d.t.Helper()
	select {
	case <-d.exited:
		return d.exit
	case <-time.After(time.Minute):
		d.t.Fatal("tmemd does not end")
		return nil
	}
}

// waitDone waits for the end that means that nothing was lost.
func (d *daemon) waitDone() {
	d.t.Helper()
	if err := d.wait(); err != nil {
		d.t.Fatalf("tmemd ended with %v", err)
	}
}

// stop ends a daemon that no client is attached to.
func (d *daemon) stop() {
	d.t.Helper()
	d.signal(syscall.SIGTERM)
	d.waitDone()
}

// tmemctl runs tmemctl on this daemon.
func (d *daemon) tmemctl(args ...string) result {
	return try(d.t.Context(), filepath.Join(bin, "tmemctl"), append([]string{"--state-dir", d.stateDir}, args...)...)
}

// control runs a tmemctl that has to succeed.
func (d *daemon) control(args ...string) {
	d.t.Helper()
	if r := d.tmemctl(args...); r.err != nil {
		d.t.Fatal(r)
	}
}

func (d *daemon) status() status {
	d.t.Helper()
	r := d.tmemctl("status", "--json")
	if r.err != nil {
		d.t.Fatal(r)
	}
	var s status
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		d.t.Fatalf("%v in the answer %s", err, r.stdout)
	}
	return s
}

// export is the account of the daemon's only export.
func (d *daemon) export() export {
	d.t.Helper()
	exports := d.status().Exports
	if len(exports) != 1 {
		d.t.Fatalf("%d exports, want 1", len(exports))
	}
	return exports[0]
}

// zcache is the account of the backend zcache; found is false if it is not
// loaded.
func (d *daemon) zcache() (b backend, found bool) {
	d.t.Helper()
	for _, b := range d.status().Backends {
		if b.Name == "zcache" {
			return b, true
		}
	}
	return backend{}, false
}

// needZcache is zcache's account in a state in which it has to be.
func (d *daemon) needZcache(state string) backend {
	d.t.Helper()
	b, found := d.zcache()
	if !found || b.State != state {
		d.t.Fatalf("zcache is %+v (found %v), want it %s", b, found, state)
	}
	return b
}

// address is where the daemon listens on a network, "unix" or "tcp".
func (d *daemon) address(network string) string {
	d.t.Helper()
	for _, text := range d.listen {
		if rest, found := strings.CutPrefix(text, network+"://"); found {
			return rest
		}
	}
	d.t.Fatalf("tmemd does not listen on %s: %v", network, d.listen)
	return ""
}

// uri is the export as NBD clients write it.
func (d *daemon) uri(network string) string {
	d.t.Helper()
	return uri(network, d.address(network), "swap")
}

func uri(network, address, export string) string {
	if network == "unix" {
		return "nbd+unix:///" + export + "?socket=" + address
	}
	return "nbd://" + address + "/" + export
}

// dial attaches a client of the tests' own.
func (d *daemon) dial(network string) *client {
	d.t.Helper()
	c, err := dial(network, d.address(network), "swap")
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.close() })
	return c
}

// settings writes a configuration file and returns the option for it.
func settings(t *testing.T, toml string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tmemd.toml")
	if err := os.WriteFile(path, bytes.TrimLeft([]byte(toml), "\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "--config=" + path
}
