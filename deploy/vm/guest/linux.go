package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"golang.org/x/sys/unix"
)

// linux is the machine's own kernel, asked through its files and the stock tools.
type linux struct {
	device string // the swap device, such as /dev/nbd0
	agent  bool   // it was attached by tmemctl
	disk   bool   // it was not attached by anybody
}

func (linux) swapped() (in, out int64, err error) {
	vmstat, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0, 0, fmt.Errorf("read the kernel's counters: %w", err)
	}
	if in, err = vmstatField(vmstat, "pswpin"); err != nil {
		return 0, 0, err
	}
	out, err = vmstatField(vmstat, "pswpout")
	return in, out, err
}

// vmstatField finds one counter among the "name value" lines of /proc/vmstat.
func vmstatField(vmstat []byte, name string) (int64, error) {
	for line := range bytes.Lines(vmstat) {
		key, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		if !ok || string(key) != name {
			continue
		}
		n, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read %s of /proc/vmstat: %w", name, err)
		}
		return n, nil
	}
	return 0, fmt.Errorf("read %s of /proc/vmstat: not there", name)
}

func (l linux) swapoff() error { return command("/sbin/swapoff", l.device) }

func (l linux) detach() error {
	if l.disk {
		return nil
	}
	if l.agent {
		return command("/bin/tmemctl", "detach", l.device)
	}
	return command("/sbin/nbd-client", "-d", l.device)
}

func (linux) run(command string) (string, error) {
	output, err := exec.Command("/bin/busybox", "sh", "-c", command).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%q: %w: %s", command, err, bytes.TrimSpace(output))
	}
	return string(output), nil
}

func command(name string, args ...string) error {
	output, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %q: %w: %s", name, args, err, bytes.TrimSpace(output))
	}
	return nil
}

func (linux) log() (string, error) {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return "", fmt.Errorf("size of the kernel's log: %w", err)
	}
	log := make([]byte, size)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, log)
	if err != nil {
		return "", fmt.Errorf("read the kernel's log: %w", err)
	}
	return string(log[:n]), nil
}
