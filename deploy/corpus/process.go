package corpus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tmemd/tmemd/backends/pagemap"
)

// Bounds on the time that a program takes, beyond which its kind is left out.
const (
	growLimit = 30 * time.Second // to reach the size wanted
	stopLimit = 5 * time.Second  // to stop when told to
	pollEvery = 2 * time.Millisecond
)

// sample starts the program, stops it when its heap is as large as wanted,
// samples it and ends it.
func (p program) sample(ctx context.Context, c *collection, share int, folder string, random *rand.Rand) (err error) {
	ctx, cancel := context.WithTimeout(ctx, growLimit)
	defer cancel()
	command, err := p.command(ctx, folder)
	if err != nil {
		return err
	}
	// Pdeathsig ends a process when the thread that started it ends: that thread
	// has to be ours for as long as the process is.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	isolate(command)
	if err := command.Start(); err != nil {
		return err
	}
	defer end(command)

	heap := int64(min(p.ceiling<<20, p.floor<<20+4*share*PageSize))
	if err := awaitHeap(ctx, command.Process.Pid, heap); err != nil {
		return err
	}
	if err := stop(command.Process.Pid); err != nil {
		return err
	}
	return sampleProcess(command.Process.Pid, c, random)
}

// sampleProcess copies runs of pages of a stopped process until the collection
// is full or there are no more (P1).
func sampleProcess(pid int, c *collection, random *rand.Rand) error {
	process, err := pagemap.Open(pid)
	if err != nil {
		return err
	}
	defer process.Close()
	runs, err := process.Runs(runPages)
	c.restricted = process.Restricted()
	if err != nil {
		return err
	}
	random.Shuffle(len(runs), func(i, j int) { runs[i], runs[j] = runs[j], runs[i] })
	for _, r := range runs {
		if c.full() {
			break
		}
		pages := make([]byte, r.Pages*PageSize)
		// Memory of devices that looks anonymous cannot be read: left out.
		if err := process.Read(r.Address, pages); err == nil {
			c.add(pages)
		}
	}
	if c.collected == 0 {
		return errors.New("no page of it can be read")
	}
	return nil
}

// isolate gives the command a process group of its own, and an end with ours.
func isolate(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// end kills the process, stopped or not, with all that it started, and waits.
func end(command *exec.Cmd) {
	// Errors mean that it has ended.
	_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
	_ = command.Wait()
}

// output runs a command to its end and returns what it printed.
func output(ctx context.Context, folder, name string, arguments ...string) (string, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	command := exec.CommandContext(ctx, name, arguments...)
	command.Dir = folder
	command.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	isolate(command)
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = time.Second
	printed, err := command.Output()
	if err != nil {
		message := ""
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			message, _, _ = strings.Cut(": "+string(exit.Stderr), "\n")
		}
		return "", fmt.Errorf("%s %s: %w%s", name, arguments[0], err, message)
	}
	return string(printed), nil
}

// awaitHeap returns when the process has that many bytes of memory of its own.
func awaitHeap(ctx context.Context, pid int, bytes int64) error {
	ticks := time.NewTicker(pollEvery)
	defer ticks.Stop()
	reached := int64(0)
	for {
		state, err := processState(pid)
		if err != nil || state == 'Z' {
			return fmt.Errorf("ended when its heap had %d MiB, before it had %d", reached>>20, bytes>>20)
		}
		if now, err := privateBytes(pid); err == nil {
			reached = now
		}
		if reached >= bytes {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("its heap has %d of %d MiB: %w", reached>>20, bytes>>20, ctx.Err())
		case <-ticks.C:
		}
	}
}

// stop stops the process, and returns when it has stopped.
func stop(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	for deadline := time.Now().Add(stopLimit); ; time.Sleep(pollEvery) {
		state, err := processState(pid)
		switch {
		case err != nil:
			return fmt.Errorf("stop: %w", err)
		case state == 'T':
			return nil
		case state == 'Z':
			return errors.New("ended before it could be stopped")
		case time.Now().After(deadline):
			return fmt.Errorf("did not stop within %v", stopLimit)
		}
	}
}

// processState is the letter in /proc/PID/stat, after the name in parentheses.
func processState(pid int) (byte, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(stat), ") ")
	if !ok || rest == "" {
		return 0, fmt.Errorf("/proc/%d/stat: no state in %q", pid, stat)
	}
	return rest[0], nil
}

// privateBytes is the resident memory that is neither file nor shared.
func privateBytes(pid int) (int64, error) {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(statm))
	if len(fields) < 3 {
		return 0, fmt.Errorf("/proc/%d/statm: %q", pid, statm)
	}
	resident, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0, err
	}
	shared, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return 0, err
	}
	return (resident - shared) * PageSize, nil
}
