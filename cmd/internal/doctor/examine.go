package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/attach"
)

// The states of a finding.
const (
	OK      = "ok"
	Note    = "note"
	Warning = "warning"
	Problem = "problem"
	Unknown = "unknown"
)

// Finding is what one check found about one thing.
type Finding struct {
	Check   string `json:"check"`
	Subject string `json:"subject"` // "daemon", "/dev/nbd0", "kernel"
	State   string `json:"state"`
	Detail  string `json:"detail"`
	Cure    string `json:"cure,omitempty"`
}

// Facts are what the caller knows.
type Facts struct {
	Root        string          // where /proc and /sys are: "/"
	Daemon      *admin.Status   // of this host; nil if none answers
	DaemonError string          // why none does
	Attachments []attach.Record // devices of this host

	Free func(path string) (uint64, error) // bytes that are free where a path is; nil looks at none
}

// Examine goes through all checks.
func Examine(f Facts) []Finding {
	e := &examination{Facts: f}
	e.kernel()
	e.daemon()
	e.devices()
	e.memory()
	e.storage()
	e.host()
	return e.findings
}

// examination collects findings.
type examination struct {
	Facts
	findings []Finding
}

func (e *examination) add(check, subject, state, detail, cure string) {
	e.findings = append(e.findings, Finding{check, subject, state, detail, cure})
}

func (e *examination) unknown(check, subject string, err error) {
	e.add(check, subject, Unknown, err.Error(), "run it as root, on the host in question")
}

// read returns a file of /proc or /sys, without the line's end.
func (e *examination) read(path ...string) (string, error) {
	text, err := os.ReadFile(filepath.Join(append([]string{e.Root}, path...)...))
	return strings.TrimSpace(string(text)), err
}

func (e *examination) number(path ...string) (int64, error) {
	text, err := e.read(path...)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// local says whether this host swaps to its own daemon; remote, to another's.
func (e *examination) local() bool  { return e.attachedBy("unix") }
func (e *examination) remote() bool { return e.attachedBy("tcp") }

func (e *examination) attachedBy(network string) bool {
	for _, r := range e.Attachments {
		if r.Address.Network == network {
			return true
		}
	}
	return false
}

// release is the kernel's version: 6, 12 for "6.12.107+deb12-amd64".
func (e *examination) release() (major, minor int, err error) {
	text, err := e.read("proc/sys/kernel/osrelease")
	if err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscanf(text, "%d.%d", &major, &minor); err != nil {
		return 0, 0, fmt.Errorf("read the kernel's version %q: %w", text, err)
	}
	return major, minor, nil
}

// before says whether the kernel is older than a version.
func before(major, minor, thanMajor, thanMinor int) bool {
	return major < thanMajor || major == thanMajor && minor < thanMinor
}

func (e *examination) kernel() {
	const subject = "kernel"
	major, minor, err := e.release()
	switch {
	case err != nil:
		e.unknown("version", subject, err)
	case before(major, minor, 5, 6):
		e.add("version", subject, Problem, fmt.Sprintf("Linux %d.%d has no I/O flusher flag: a daemon that serves its own host can wait for itself", major, minor), "use Linux 6.1 or later")
	case before(major, minor, 6, 1):
		e.add("version", subject, Warning, fmt.Sprintf("Linux %d.%d is older than what tmemd is tested with", major, minor), "use Linux 6.1 or later")
	default:
		e.add("version", subject, OK, fmt.Sprintf("Linux %d.%d", major, minor), "")
	}
	if err == nil && e.local() && !before(major, minor, 6, 1) && before(major, minor, 6, 3) {
		e.add("upgrade", subject, Note, fmt.Sprintf("Linux %d.%d lends a new program too little memory: tmemctl upgrade refuses while this host swaps through the daemon", major, minor),
			"use Linux 6.3 or later, or tmemctl detach before each upgrade")
	}
	if _, err := os.Stat(filepath.Join(e.Root, "sys/module/nbd")); err == nil {
		e.add("module", subject, OK, "the nbd module is there", "")
	} else if len(e.Attachments) > 0 {
		e.unknown("module", subject, err)
	} else {
		e.add("module", subject, Note, "the nbd module is not loaded: nothing can be attached here", "modprobe nbd; at each boot: echo nbd > /etc/modules-load.d/nbd.conf")
	}
}

// Count says how many findings are in a state.
func Count(findings []Finding, state string) int {
	n := 0
	for _, f := range findings {
		if f.State == state {
			n++
		}
	}
	return n
}
