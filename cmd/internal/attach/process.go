package attach

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// processStarted is when a process began, in the kernel's ticks since boot
// (field 22 of /proc/PID/stat, see proc_pid_stat(5)). Together with its number it
// names one process: numbers are used again.
func processStarted(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("look when process %d began: %w", pid, err)
	}
	// Field 2, the command, may hold blanks and parentheses.
	end := strings.LastIndexByte(string(text), ')')
	fields := strings.Fields(string(text[end+1:])) // from field 3 on
	if end < 0 || len(fields) < 22-2 {
		return 0, fmt.Errorf("look when process %d began: %q does not say", pid, text)
	}
	started, err := strconv.ParseUint(fields[22-3], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("look when process %d began: %w", pid, err)
	}
	return started, nil
}

// signalAgent sends a signal to the process that wrote a record. It is false if
// that is gone: an agent that takes over holds the lock before it has put its own
// number into the record, and the one that is there may be anybody's by now.
func signalAgent(r Record, signal os.Signal) (sent bool, err error) {
	// What FindProcess holds on to stays the same process, whoever gets its number
	// after the look at its start.
	process, err := os.FindProcess(r.PID)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, process.Release()) }()
	started, err := processStarted(r.PID)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case started != r.Started:
		return false, nil
	}
	err = process.Signal(signal)
	if errors.Is(err, os.ErrProcessDone) {
		return false, nil
	}
	return err == nil, err
}
