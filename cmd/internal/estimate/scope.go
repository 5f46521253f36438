package estimate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// Scope says whose memory is looked at: a process, a control group with all below it,
// or, if it is empty, every process but the one that asks.
type Scope struct {
	PID    int
	Cgroup string // a folder, or its path below where control groups are mounted
}

// String names it.
func (s Scope) String() string {
	switch {
	case s.PID != 0:
		return fmt.Sprintf("process %d", s.PID)
	case s.Cgroup != "":
		return "control group " + s.Cgroup
	}
	return "the whole host"
}

// cgroupMounts are where control groups are, on systems of all ages.
var cgroupMounts = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory"}

// processes lists them.
func (s Scope) processes() ([]int, error) {
	switch {
	case s.PID != 0:
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", s.PID)); err != nil {
			return nil, cli.Failure("ps -e lists processes", "there is no process %d", s.PID)
		}
		return []int{s.PID}, nil
	case s.Cgroup != "":
		return cgroupProcesses(s.Cgroup)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return others(pids), nil
}

// others leaves out the process that asks.
func others(pids []int) []int {
	return slices.DeleteFunc(pids, func(pid int) bool { return pid == os.Getpid() })
}

func cgroupProcesses(path string) ([]int, error) {
	folder, err := findCgroup(path)
	if err != nil {
		return nil, err
	}
	var pids []int
	err = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil || entry.IsDir() || entry.Name() != "cgroup.procs" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			// Of a group of threads the processes are listed above, and one that was
			// removed meanwhile has none.
			return nil
		}
		for _, line := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(line)
			if err != nil {
				return fmt.Errorf("%s: %q is not the number of a process", path, line)
			}
			pids = append(pids, pid)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the processes of the control group: %w", err)
	}
	slices.Sort(pids)
	pids = others(slices.Compact(pids))
	if len(pids) == 0 {
		return nil, cli.Failure("systemd-cgls shows what is where", "control group %s has no processes", path)
	}
	return pids, nil
}

// findCgroup returns the folder of a control group.
func findCgroup(path string) (string, error) {
	candidates := []string{path}
	for _, mount := range cgroupMounts {
		candidates = append(candidates, filepath.Join(mount, path))
	}
	for _, folder := range candidates {
		if _, err := os.Stat(filepath.Join(folder, "cgroup.procs")); err == nil && filepath.IsAbs(folder) {
			return folder, nil
		}
	}
	return "", cli.Failure("write it as systemd-cgls and /proc/PID/cgroup do: /system.slice/NAME.service",
		"there is no control group %s", path)
}
