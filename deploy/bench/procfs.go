package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processorTime is what the process has used, ended threads included, to the
// nanosecond. clock_getcpuclockid(3) says how the clock's number is made.
func processorTime(pid int) (time.Duration, error) {
	var used unix.Timespec
	const scheduler = 2 // the kind of clock: what the scheduler counted
	if err := unix.ClockGettime(int32(^pid<<3|scheduler), &used); err != nil {
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(used.Nano()), nil
}

// When a server counts as idle: in each of idleLooks looks in a row it had used
// less than idleShare of one processor, and had no thread that wanted to run.
const (
	idleLook  = 10 * time.Millisecond
	idleLooks = 2
	idleShare = 0.03
	idleLimit = 10 * time.Second
)

// awaitIdle waits until the process has done what it left for later. One that is
// never idle is not waited for longer than idleLimit.
func awaitIdle(ctx context.Context, pid int) error {
	last, err := processorTime(pid)
	if err != nil {
		return err
	}
	tick := time.NewTicker(idleLook)
	defer tick.Stop()
	for looks, start := 0, time.Now(); looks < idleLooks && time.Since(start) < idleLimit; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now, err := processorTime(pid)
		if err != nil {
			return err
		}
		if looks++; (now-last).Seconds() > idleShare*idleLook.Seconds() || wantsToRun(pid) {
			looks = 0
		}
		last = now
	}
	return nil
}

// wantsToRun says whether a thread of the process runs, or would if it were given
// a processor.
func wantsToRun(pid int) bool {
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid)) // the pattern is well-formed
	for _, path := range paths {
		text, _ := os.ReadFile(path) // a thread that ended meanwhile wants nothing
		// The name before it may hold anything.
		if end := bytes.LastIndex(text, []byte(") ")); end >= 0 && bytes.HasPrefix(text[end:], []byte(") R")) {
			return true
		}
	}
	return false
}

// ownProcessorTime is what this process has used.
func ownProcessorTime() (time.Duration, error) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// residentBytes is the process' resident memory, shared memory included.
func residentBytes(pid int) (int64, error) {
	path := fmt.Sprintf("/proc/%d/statm", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, fmt.Errorf("%s: %q", path, text)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return pages * int64(os.Getpagesize()), nil
}

// machineTime is what all processors together did since the machine started.
type machineTime struct{ busy, stolen, total time.Duration }

// tick is the unit of /proc/stat, 1/100 s on every system that Go runs on.
const tick = time.Second / 100

func readMachineTime() (machineTime, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machineTime{}, err
	}
	return parseMachineTime(string(text))
}

// parseMachineTime reads the first line: "cpu", then user, nice, system, idle,
// iowait, irq, softirq, steal.
func parseMachineTime(stat string) (machineTime, error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return machineTime{}, fmt.Errorf("/proc/stat starts with %q", line)
	}
	var m machineTime
	for i, field := range fields[1:9] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return machineTime{}, fmt.Errorf("/proc/stat: %w", err)
		}
		m.total += time.Duration(ticks) * tick
		switch i {
		case 3, 4: // idle
		case 7:
			m.stolen += time.Duration(ticks) * tick
		default:
			m.busy += time.Duration(ticks) * tick
		}
	}
	return m, nil
}

// loadAverage is the first three figures of /proc/loadavg.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}
