package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// host checks what else on this host concerns swap.
func (e *examination) host() {
	e.overcommit()
	e.hugePages()
	e.hibernation()
	e.swapLimits()
	e.killers()
}

func (e *examination) overcommit() {
	const check, subject = "overcommit", "kernel"
	n, err := e.number("proc/sys/vm/overcommit_memory")
	switch {
	case err != nil:
		e.unknown(check, subject, err)
	case n == 2:
		e.add(check, subject, Warning, "vm.overcommit_memory is 2: memory that tmemd only reserves counts as taken, and a backend cannot be loaded or grow", "sysctl -w vm.overcommit_memory=0")
	default:
		e.add(check, subject, OK, fmt.Sprintf("vm.overcommit_memory is %d", n), "")
	}
}

// chosen is the word in brackets, as in "always [madvise] never".
func chosen(text string) string {
	_, after, _ := strings.Cut(text, "[")
	word, _, _ := strings.Cut(after, "]")
	return word
}

func (e *examination) hugePages() {
	const check, subject = "huge pages", "kernel"
	const file = "sys/kernel/mm/transparent_hugepage/enabled"
	text, err := e.read(file)
	switch {
	case isMissing(err):
		e.add(check, subject, OK, "the kernel has no transparent huge pages", "")
	case err != nil:
		e.unknown(check, subject, err)
	case chosen(text) == "always" && len(e.Attachments) > 0:
		e.add(check, subject, Note, "transparent huge pages are given to everybody: 2 MiB are swapped out at once, and what was never used of them too", "echo madvise > /"+file)
	default:
		e.add(check, subject, OK, chosen(text), "")
	}
}

// hibernation: an image of the memory, written to a device whose server is in it.
func (e *examination) hibernation() {
	const check = "hibernation"
	if len(e.Attachments) == 0 {
		return
	}
	line, err := e.read("proc/cmdline")
	if err != nil {
		e.unknown(check, "kernel", err)
		return
	}
	resume, err := e.read("sys/power/resume")
	if err != nil && !isMissing(err) {
		e.unknown(check, "kernel", err)
		return
	}
	for _, r := range e.Attachments {
		number, err := e.read("sys/block", filepath.Base(r.Device), "dev")
		if slices.Contains(strings.Fields(line), "resume="+r.Device) || err == nil && resume == number {
			e.add(check, r.Device, Problem, "this host would hibernate to it: the image would be with a server that is switched off, or in it",
				"systemctl mask hibernate.target hybrid-sleep.target, and take resume= off the kernel's command line")
			return
		}
	}
	e.add(check, "kernel", OK, "not to NBD", "")
}

// swapLimits looks for slices that may not swap: the usual ones, not each service, which
// may have its reasons.
func (e *examination) swapLimits() {
	const check = "swap limit"
	if len(e.Attachments) == 0 {
		return
	}
	if _, err := os.Stat(filepath.Join(e.Root, "sys/fs/cgroup")); err != nil {
		e.unknown(check, "host", err)
		return
	}
	found := false
	for _, slice := range []string{"system.slice", "user.slice", "machine.slice", "kubepods.slice", "kubepods", "docker", "lxc"} {
		file := filepath.Join("sys/fs/cgroup", slice, "memory.swap.max")
		if limit, err := e.read(file); err == nil && limit == "0" {
			found = true
			e.add(check, slice, Warning, "/"+file+" is 0: nothing in it is swapped out", "MemorySwapMax=infinity for it; for Kubernetes, memorySwap.swapBehavior: LimitedSwap")
		}
	}
	if !found {
		e.add(check, "host", OK, "no slice is kept from swapping", "")
	}
}

// killers are programs that kill before the kernel does, and think that a full swap is
// a full memory.
var killers = map[string]string{
	"systemd-oomd": "SwapUsedLimit=100% in /etc/systemd/oomd.conf, or ManagedOOMSwap=auto in its slices",
	"earlyoom":     "earlyoom -s 1,1, or another -s for what is left of swap",
	"nohang":       "raise the thresholds for swap in /etc/nohang/nohang.conf",
}

func (e *examination) killers() {
	const check = "early killers"
	if len(e.Attachments) == 0 {
		return
	}
	names, err := filepath.Glob(filepath.Join(e.Root, "proc/[0-9]*/comm"))
	if err != nil || len(names) == 0 {
		e.unknown(check, "host", fmt.Errorf("no process is listed in %s", filepath.Join(e.Root, "proc")))
		return
	}
	found := false
	for _, file := range names {
		text, err := os.ReadFile(file)
		name := strings.TrimSpace(string(text))
		if cure := killers[name]; err == nil && cure != "" {
			found = true
			e.add(check, name, Warning, "it kills programs when swap is nearly full, which says nothing about pages that compress", cure)
		}
	}
	if !found {
		e.add(check, "host", OK, "none runs", "")
	}
}

// capIPCLock is CAP_IPC_LOCK of linux/capability.h.
const capIPCLock = 14

// lockLimit checks that a process may lock what it will have, not only what it has.
func (e *examination) lockLimit(subject, proc, bad string) {
	const check = "lock limit"
	limits, err := e.read(proc, "limits")
	status, statusErr := e.read(proc, "status")
	if err := firstOf(err, statusErr); err != nil {
		e.unknown(check, subject, err)
		return
	}
	soft := ""
	for line := range strings.Lines(limits) {
		if rest, found := strings.CutPrefix(line, "Max locked memory"); found && len(strings.Fields(rest)) > 0 {
			soft = strings.Fields(rest)[0]
		}
	}
	var capabilities uint64
	for line := range strings.Lines(status) {
		if rest, found := strings.CutPrefix(line, "CapEff:"); found {
			capabilities, err = strconv.ParseUint(strings.TrimSpace(rest), 16, 64)
		}
	}
	switch {
	case soft == "" || err != nil:
		e.unknown(check, subject, fmt.Errorf("/%s/limits and status do not say what it may lock", proc))
	case soft != "unlimited" && capabilities&(1<<capIPCLock) == 0:
		e.add(check, subject, bad, fmt.Sprintf("it may lock %s bytes: a backend that is loaded or grows is not locked, or fails", soft), "LimitMEMLOCK=infinity or AmbientCapabilities=CAP_IPC_LOCK in its unit")
	default:
		e.add(check, subject, OK, "none", "")
	}
}

// scheduler checks that nothing sorts requests for a device that is memory.
func (e *examination) scheduler(device string) {
	const check = "scheduler"
	file := filepath.Join("sys/block", filepath.Base(device), "queue/scheduler")
	text, err := e.read(file)
	switch {
	case isMissing(err):
	case err != nil:
		e.unknown(check, device, err)
	case chosen(text) != "none" && chosen(text) != "":
		e.add(check, device, Warning, fmt.Sprintf("requests are sorted by %s, which takes time and memory, for a disk that is none", chosen(text)), "echo none > /"+file)
	default:
		e.add(check, device, OK, "none", "")
	}
}
