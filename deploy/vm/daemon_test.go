//go:build e2e

package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// All that the scenario knows of tmemd's command line, its JSON and its metrics is in this file.

const pageSize = 4096

// status is what the scenario reads of "tmemctl status --json".
type status struct {
	PID      int      `json:"pid"`
	Started  string   `json:"started"`
	Phase    string   `json:"phase"`
	Listen   []string `json:"listen"`
	Metrics  string   `json:"metrics"`
	Disks    []disk   `json:"disks"`
	Exports  []export `json:"exports"`
	Backends []struct {
		Name    string            `json:"name"`
		State   string            `json:"state"`
		Pages   int64             `json:"pages"`
		Held    int64             `json:"held_bytes"`
		Limit   int64             `json:"limit_bytes"`
		Refused map[string]uint64 `json:"refused"`
		Moved   map[string]uint64 `json:"moved"`
	} `json:"backends"`
	Clients []struct {
		Export string `json:"export"`
	} `json:"clients"`
	Memory []struct {
		Purpose  string `json:"purpose"`
		Mapped   int64  `json:"mapped_bytes"`
		Resident int64  `json:"resident_bytes"`
	} `json:"memory"`
}

type disk struct {
	Name        string `json:"name"`
	SuccGets    uint64 `json:"succ_gets"`
	FailedGets  uint64 `json:"failed_gets"`
	Invalidates uint64 `json:"invalidates"`
	Storage     struct {
		PagesRead    uint64 `json:"pages_read"`
		PagesWritten uint64 `json:"pages_written"`
	} `json:"storage"`
}

type export struct {
	Name    string `json:"name"`
	Size    int64  `json:"size_bytes"`
	Clients int    `json:"clients"`
	MovedTo string `json:"moved_to"`
	Pages   struct {
		None     int64            `json:"none"`
		Storage  int64            `json:"storage"`
		Hole     int64            `json:"hole"`
		Backends map[string]int64 `json:"backends"`
	} `json:"pages"`
	Loads        uint64            `json:"loads"`
	SuccStores   uint64            `json:"succ_stores"`
	FailedStores uint64            `json:"failed_stores"`
	Invalidates  uint64            `json:"invalidates"`
	LoadErrors   uint64            `json:"load_errors"`
	Errors       map[string]uint64 `json:"errors"`
	Storage      struct {
		PagesRead    uint64 `json:"pages_read"`
		PagesWritten uint64 `json:"pages_written"`
		ReadErrors   uint64 `json:"read_errors"`
		WriteErrors  uint64 `json:"write_errors"`
		PunchErrors  uint64 `json:"punch_errors"`
	} `json:"storage"`
}

// swap returns the export that the guest swaps to.
func (s status) swap() export {
	for _, e := range s.Exports {
		if e.Name == exportName {
			return e
		}
	}
	return export{}
}

// arena returns what the daemon says that the backend's memory costs.
func (s status) arena() (mapped, resident int64) {
	for _, m := range s.Memory {
		if strings.HasPrefix(m.Purpose, backendName) {
			mapped, resident = mapped+m.Mapped, resident+m.Resident
		}
	}
	return mapped, resident
}

const (
	exportName  = "swap"
	backendName = "zcache"
)

// daemon is a tmemd of the test's own, one process after the other.
type daemon struct {
	t        *testing.T
	program  string
	ctl      string   // path of tmemctl
	launcher []string // the command line that the program is run with; empty if it is run by itself
	args     []string // of tmemd, the same for each process
	stateDir string
	memory   string // its memory folder
	command  *exec.Cmd
	exited   chan error // receives how the process ended
	log      *console
}

// startDaemon builds and starts tmemd, by default without a backend, on a TCP port of this machine that stays the same for all its
// processes.
func startDaemon(ctx context.Context, t *testing.T, size string, flags ...string) *daemon {
	t.Helper()
	bin := t.TempDir()
	d := newDaemon(t, bin, "tmemd")
	for _, program := range []string{d.program, d.ctl} {
		if err := BuildProgram(ctx, "github.com/tmemd/tmemd/cmd/"+filepath.Base(program), program); err != nil {
			t.Fatal(err)
		}
	}
	if len(flags) == 0 {
		flags = []string{"--backend", "none"}
	}
	d.args = append([]string{"--state-dir", d.stateDir, "--memory-dir", d.memory, "--size", size,
		"--listen", "tcp://" + freeAddress(t), "--metrics", "127.0.0.1:0"}, flags...)
	d.start(ctx)
	return d
}

// newDaemon makes the folders of a tmemd of the programs in bin, that has yet to be given arguments and started. It is killed at the
// end of the test, unless stop ended it before.
func newDaemon(t *testing.T, bin, name string) *daemon {
	t.Helper()
	d := &daemon{
		t: t, program: filepath.Join(bin, "tmemd"), ctl: filepath.Join(bin, "tmemctl"), stateDir: t.TempDir(),
		memory: filepath.Join(memoryFolder(t), "pages"), log: &console{limit: 64 << 10},
	}
	t.Cleanup(func() {
		if d.command != nil {
			_ = d.command.Process.Kill() // it may have ended, by itself or by stop
			d.wait()
		}
		if t.Failed() {
			t.Logf("%s's log:\n%s", name, d.log)
		}
	})
	return d
}

// bin is the folder of its programs.
func (d *daemon) bin() string { return filepath.Dir(d.program) }

// freeAddress is an address of this machine that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs tmemd and waits until it answers.
func (d *daemon) start(ctx context.Context) {
	d.t.Helper()
	line := slices.Concat(d.launcher, []string{d.program}, d.args)
	command, exited := exec.Command(line[0], line[1:]...), make(chan error, 1)
	command.Stdout, command.Stderr = d.log, d.log
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() { exited <- command.Wait() }() // wait receives
	d.command, d.exited = command, exited
	for exec.CommandContext(ctx, d.ctl, "--state-dir", d.stateDir, "status").Run() != nil {
		select {
		case err := <-exited:
			exited <- err
			d.t.Fatalf("tmemd did not start: %v", err)
		case <-ctx.Done():
			d.t.Fatalf("tmemd does not answer: %v", context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// wait waits for the end of the process and returns how it ended, as often as it is asked.
func (d *daemon) wait() error {
	err := <-d.exited
	d.exited <- err
	return err
}

// kill ends the process with SIGKILL. That it ended by itself before is an error.
func (d *daemon) kill() {
	d.t.Helper()
	if err := d.command.Process.Signal(syscall.SIGKILL); err != nil {
		d.t.Fatal(err)
	}
	err := d.wait()
	if s, ok := d.command.ProcessState.Sys().(syscall.WaitStatus); !ok || !s.Signaled() || s.Signal() != syscall.SIGKILL {
		d.t.Fatalf("tmemd ended by itself: %v", err)
	}
}

// tmemctl runs the operator's command and returns what it printed.
func (d *daemon) tmemctl(ctx context.Context, args ...string) []byte {
	d.t.Helper()
	output, err := d.run(ctx, args...)
	if err != nil {
		d.t.Fatal(err)
	}
	return output
}

// run is tmemctl for others than the test's own goroutine.
func (d *daemon) run(ctx context.Context, args ...string) ([]byte, error) {
	var errors strings.Builder
	command := exec.CommandContext(ctx, d.ctl, append([]string{"--state-dir", d.stateDir, "--json"}, args...)...)
	command.Stderr = &errors
	output, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("tmemctl %q: %w: %s%s", args, err, output, &errors)
	}
	return output, nil
}

func (d *daemon) status(ctx context.Context) status {
	d.t.Helper()
	var s status
	if err := json.Unmarshal(d.tmemctl(ctx, "status"), &s); err != nil {
		d.t.Fatalf("tmemctl status: %v", err)
	}
	return s
}

// port returns the TCP port that tmemd serves NBD on.
func (d *daemon) port(ctx context.Context) int {
	d.t.Helper()
	for _, address := range d.status(ctx).Listen {
		_, text, err := net.SplitHostPort(strings.TrimPrefix(address, "tcp://"))
		if err != nil {
			continue
		}
		if port, err := strconv.Atoi(text); err == nil {
			return port
		}
	}
	d.t.Fatal("tmemd serves no TCP port")
	return 0
}

func (d *daemon) load(ctx context.Context, size string) {
	d.t.Helper()
	d.tmemctl(ctx, "backend", "load", backendName, "--size", size)
}

// unload waits until the backend is gone. How much was moved the last line does not tell exactly.
func (d *daemon) unload(ctx context.Context, name string) {
	d.t.Helper()
	var last struct {
		Done bool   `json:"done"`
		Left uint64 `json:"left"`
	}
	for line := range strings.Lines(string(d.tmemctl(ctx, "backend", "unload", name))) {
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			d.t.Fatalf("tmemctl backend unload: %v: %s", err, line)
		}
	}
	if !last.Done || last.Left > 0 {
		d.t.Errorf("tmemctl backend unload ends with %+v", last)
	}
}

// metrics returns the samples of one scrape by name and labels, as they are spelled there.
func (d *daemon) metrics(ctx context.Context) map[string]float64 {
	d.t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.status(ctx).Metrics, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		d.t.Fatal(err)
	}
	defer response.Body.Close()
	samples := make(map[string]float64)
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		line := lines.Text()
		space := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "#") || space < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[space+1:], 64)
		if err != nil {
			d.t.Fatalf("metric %q: %v", line, err)
		}
		samples[line[:space]] = value
	}
	if err := lines.Err(); err != nil || len(samples) == 0 {
		d.t.Fatalf("metrics: %d samples, %v", len(samples), err)
	}
	return samples
}

// sharedMemory is what the kernel, not the daemon, says that the files of the daemon's memory folder hold which it has open, in
// bytes: page map and arenas live in such files.
func (d *daemon) sharedMemory() int64 {
	d.t.Helper()
	folder := fmt.Sprintf("/proc/%d/fd", d.command.Process.Pid)
	files, err := os.ReadDir(folder)
	if err != nil {
		d.t.Fatal(err)
	}
	total := int64(0)
	for _, file := range files {
		path := filepath.Join(folder, file.Name())
		target, err := os.Readlink(path)
		if err != nil || filepath.Ext(strings.TrimSuffix(target, " (deleted)")) != ".mem" || !strings.HasPrefix(target, d.memory) {
			continue
		}
		var info syscall.Stat_t
		if err := syscall.Stat(path, &info); err != nil {
			d.t.Fatal(err)
		}
		total += info.Blocks * 512
	}
	return total
}

// stop ends tmemd as an administrator does. It must move what it holds to storage and exit with 0.
func (d *daemon) stop() {
	d.t.Helper()
	if err := d.command.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	if err := d.wait(); err != nil {
		d.t.Errorf("tmemd ended with %v", err)
	}
}
