package pressure

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Sample is what a [Source] saw at one moment.
type Sample struct {
	// Stalled is how long some task has waited for memory, in all since the boot;
	// meaningful if PSI is true.
	Stalled time.Duration
	PSI     bool // the kernel counts that

	// Available is how much memory could be had without swapping, of Total: of the
	// host, or of the control group if that has less left. In bytes.
	Available, Total int64
}

// Source says how short of memory somebody is.
type Source interface {
	Sample() (Sample, error)
}

// Host is this host as its kernel describes it.
func Host() Source { return Files{os.DirFS("/")} }

// Installed is the memory of this machine, in bytes; 0 if its kernel does not say.
func Installed() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

// Files reads what the kernel says from a tree of files, as it has below "/".
type Files struct{ Root fs.FS }

var _ Source = Files{}

// Sample implements [Source]. Without PSI it is no error, without MemAvailable it
// is one.
func (f Files) Sample() (Sample, error) {
	var s Sample
	var err error
	if s.Total, s.Available, err = f.host(); err != nil {
		return Sample{}, err
	}
	if total, available, ok := f.group(); ok && float64(available)*float64(s.Total) < float64(s.Available)*float64(total) {
		s.Total, s.Available = total, available
	}
	switch text, err := fs.ReadFile(f.Root, "proc/pressure/memory"); {
	case err == nil:
		if s.Stalled, err = parsePSI(string(text)); err != nil {
			return Sample{}, fmt.Errorf("read memory pressure: %w", err)
		}
		s.PSI = true
	case unsupported(err):
	default:
		return Sample{}, fmt.Errorf("read memory pressure: %w", err)
	}
	return s, nil
}

// unsupported says whether the kernel was built without PSI, or started with it
// turned off: then the file is there and cannot be read.
func unsupported(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errors.ErrUnsupported)
}

// host reads MemTotal and MemAvailable.
func (f Files) host() (total, available int64, err error) {
	text, err := fs.ReadFile(f.Root, "proc/meminfo")
	if err != nil {
		return 0, 0, fmt.Errorf("read available memory: %w", err)
	}
	fields := parseFields(string(text))
	total, haveTotal := fields["MemTotal:"]
	available, haveAvailable := fields["MemAvailable:"]
	if !haveTotal || !haveAvailable || total <= 0 || total > 1<<52 || available < 0 || available > total {
		return 0, 0, errors.New("read available memory: /proc/meminfo has no sensible MemTotal and MemAvailable")
	}
	return total << 10, available << 10, nil
}

// group reads what the control group of this process has left, if it has a limit.
// Limits of groups above it are not looked at.
func (f Files) group() (total, available int64, ok bool) {
	text, err := fs.ReadFile(f.Root, "proc/self/cgroup")
	if err != nil {
		return 0, 0, false
	}
	for line := range strings.Lines(string(text)) {
		name, found := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		if !found {
			continue
		}
		folder := path.Join("sys/fs/cgroup", name)
		total, limited := f.number(path.Join(folder, "memory.max"))
		current, known := f.number(path.Join(folder, "memory.current"))
		if !limited || !known || total <= 0 {
			return 0, 0, false
		}
		// Cached files that nobody uses are as good as free, as in MemAvailable.
		stat, err := fs.ReadFile(f.Root, path.Join(folder, "memory.stat"))
		if err == nil {
			current -= parseFields(string(stat))["inactive_file"]
		}
		return total, min(max(0, total-current), total), true
	}
	return 0, 0, false
}

func (f Files) number(name string) (int64, bool) {
	text, err := fs.ReadFile(f.Root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil // "max" is no number
}

// parseFields reads lines of a name and a number. What is nothing of the kind is
// left out.
func parseFields(text string) map[string]int64 {
	fields := map[string]int64{}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		if n, err := strconv.ParseInt(words[1], 10, 64); err == nil {
			fields[words[0]] = n
		}
	}
	return fields
}

// parsePSI returns the total of the line "some", which is in microseconds.
func parsePSI(text string) (time.Duration, error) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "some" {
			continue
		}
		for _, word := range words[1:] {
			if digits, found := strings.CutPrefix(word, "total="); found {
				n, err := strconv.ParseUint(digits, 10, 63)
				if err != nil || n > uint64(1<<63-1)/uint64(time.Microsecond) {
					return 0, fmt.Errorf("total of %q makes no sense", digits)
				}
				return time.Duration(n) * time.Microsecond, nil
			}
		}
	}
	return 0, errors.New("there is no total for \"some\"")
}
