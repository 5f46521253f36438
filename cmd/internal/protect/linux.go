package protect

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// linux is this process and its kernel.
type linux struct{}

func (linux) lockAll() error {
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil && !capable(unix.CAP_IPC_LOCK) {
		var now unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &now); err != nil {
			return os.NewSyscallError("getrlimit", err)
		}
		if now.Cur != unix.RLIM_INFINITY { // H2
			return fmt.Errorf("only %d bytes may be locked", now.Cur)
		}
	}
	return os.NewSyscallError("mlockall", unix.Mlockall(unix.MCL_CURRENT|unix.MCL_FUTURE|unix.MCL_ONFAULT))
}

// touchCode brings the program itself into memory, where lockAll keeps it.
func (linux) touchCode() (err error) {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, maps.Close()) }()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		start, length, ok := mappingOf(lines.Text(), program)
		if !ok {
			continue
		}
		// By its number: Go's own memory is not to be made a slice of.
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, start, length, unix.MADV_POPULATE_READ)
		if errno != 0 && errno != unix.EINVAL { // before Linux 5.14: faults will do it
			return os.NewSyscallError("madvise", errno)
		}
	}
	return lines.Err()
}

// mappingOf reads a line of /proc/PID/maps that is about a file:
// "00400000-0072c000 r-xp 00000000 fd:00 1234 /usr/bin/tmemd". What cannot be
// read is left out.
func mappingOf(line, file string) (start, length uintptr, ok bool) {
	fields := strings.SplitN(line, " ", 6)
	if len(fields) < 6 || strings.TrimSpace(fields[5]) != file || !strings.HasPrefix(fields[1], "r") {
		return 0, 0, false
	}
	first, last, _ := strings.Cut(fields[0], "-")
	from, err1 := strconv.ParseUint(first, 16, 64)
	to, err2 := strconv.ParseUint(last, 16, 64)
	if err1 != nil || err2 != nil || to <= from {
		return 0, 0, false
	}
	return uintptr(from), uintptr(to - from), true
}

func (linux) setIOFlusher() error {
	_, _, errno := syscall.AllThreadsSyscall(syscall.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0)
	switch {
	case errno == syscall.ENOTSUP:
		return errCgo
	case errno != 0:
		return os.NewSyscallError("prctl", errno)
	}
	return nil
}

func (linux) setOOMScore() error {
	return os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0o600)
}

// limitHeap leaves a limit alone that the environment gave.
func (linux) limitHeap(bytes int64) error {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(bytes)
	}
	return nil
}

func (linux) privileged() bool { return capable(unix.CAP_IPC_LOCK) || capable(unix.CAP_SYS_RESOURCE) }

// capable says whether the process has a capability now.
func capable(capability int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return false
	}
	return data[capability/32].Effective&(1<<(capability%32)) != 0
}
