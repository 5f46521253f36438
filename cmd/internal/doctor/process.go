package doctor

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// Flags of a task, in field 9 of /proc/PID/task/TID/stat: PF_MEMALLOC_NOIO and
// PF_LOCAL_THROTTLE of linux/sched.h, which PR_SET_IO_FLUSHER sets together.
const ioFlusher = 0x00080000 | 0x00100000

// daemon checks the daemon of this host.
func (e *examination) daemon() {
	const subject = "daemon"
	if e.Daemon == nil {
		e.add("running", subject, Note, "none answers on this host: "+e.DaemonError, "start tmemd if it is to run here; --state-dir or --socket says where it is")
		return
	}
	e.add("running", subject, OK, fmt.Sprintf("process %d, %s", e.Daemon.PID, e.Daemon.Phase), "")
	for _, p := range e.Daemon.Protection {
		if p.State == "refused" {
			e.add("protection", subject, e.worst(), p.Measure+": "+p.Why, p.Cure)
		}
	}
	e.process(subject, e.Daemon.PID, e.worst())
}

// worst is what a protection is that is missing: a problem if this host swaps
// through the daemon, else something to know.
func (e *examination) worst() string {
	if e.local() {
		return Problem
	}
	return Note
}

// process checks a process that swap depends on. bad is the state of a finding
// that matters if it does.
func (e *examination) process(subject string, pid int, bad string) {
	proc := fmt.Sprintf("proc/%d", pid)
	e.threads(subject, pid, bad)
	e.lockedMemory(subject, proc, bad)
	e.lockLimit(subject, proc, bad)
	score, err := e.number(proc, "oom_score_adj")
	switch {
	case err != nil:
		e.unknown("oom score", subject, err)
	case score > -1000:
		e.add("oom score", subject, bad, fmt.Sprintf("oom_score_adj is %d: it can be killed to free memory, and what is swapped out with it", score),
			fmt.Sprintf("OOMScoreAdjust=-1000 in its unit; now: echo -1000 > /proc/%d/oom_score_adj", pid))
	default:
		e.add("oom score", subject, OK, "it is not killed to free memory", "")
	}
	e.cgroup(subject, proc, bad)
}

func (e *examination) threads(subject string, pid int, bad string) {
	const check = "io flusher"
	proc := fmt.Sprintf("proc/%d", pid)
	tasks, err := filepath.Glob(filepath.Join(e.Root, proc, "task/*/stat"))
	if err == nil && len(tasks) == 0 {
		err = fmt.Errorf("no threads are listed in /%s/task", proc)
	}
	if err != nil {
		e.unknown(check, subject, err)
		return
	}
	without, ordinary := 0, 0
	for _, file := range tasks {
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue // a thread that ended
		}
		flags, policy, parseErr := parseTask(string(text))
		if err != nil || parseErr != nil {
			e.unknown(check, subject, fmt.Errorf("read %s: %v", file, firstOf(err, parseErr)))
			return
		}
		if flags&ioFlusher != ioFlusher {
			without++
		}
		if policy != fifo && policy != roundRobin {
			ordinary++
		}
	}
	if ordinary > 0 && bad == Note {
		e.add("realtime", subject, OK, "not of a realtime class, which is asked for while this host swaps through it", "")
	} else if ordinary > 0 {
		e.add("realtime", subject, bad, fmt.Sprintf("%d of %d threads are not of a realtime class: a reply can wait in reclaim for the memory that it would free", ordinary, len(tasks)),
			fmt.Sprintf("run it with CAP_SYS_NICE or LimitRTPRIO=1, and with host.protect not off; now: chrt --all-tasks --rr --pid 1 %d", pid))
	} else {
		e.add("realtime", subject, OK, "all threads may use a part of what the kernel keeps free", "")
	}
	if without > 0 {
		e.add(check, subject, bad, fmt.Sprintf("%d of %d threads have no I/O flusher flag: memory that they ask for can wait for the swap that they serve", without, len(tasks)),
			"run it with CAP_SYS_RESOURCE, built with CGO_ENABLED=0, and with host.protect not off")
		return
	}
	e.add(check, subject, OK, fmt.Sprintf("on all %d threads", len(tasks)), "")
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Scheduling policies, in field 41: SCHED_FIFO and SCHED_RR of linux/sched.h.
const (
	fifo       = 1
	roundRobin = 2
)

// parseTask reads fields 9 and 41 of a stat line. The command in field 2 may hold
// blanks and parentheses.
func parseTask(stat string) (flags, policy uint64, err error) {
	end := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[end+1:]) // from field 3 on
	if end < 0 || len(fields) < 39 {
		return 0, 0, fmt.Errorf("%q has no flags and policy", stat)
	}
	if flags, err = strconv.ParseUint(fields[9-3], 10, 64); err != nil {
		return 0, 0, err
	}
	policy, err = strconv.ParseUint(fields[41-3], 10, 64)
	return flags, policy, err
}

func (e *examination) lockedMemory(subject, proc, bad string) {
	const check = "locked memory"
	text, err := e.read(proc, "status")
	if err != nil {
		e.unknown(check, subject, err)
		return
	}
	kib := map[string]int64{}
	for line := range strings.Lines(text) {
		var n int64
		name, rest, _ := strings.Cut(line, ":")
		if _, err := fmt.Sscanf(rest, "%d kB", &n); err == nil {
			kib[name] = n
		}
	}
	rss, there := kib["VmRSS"]
	locked := kib["VmLck"]
	switch {
	case !there:
		e.unknown(check, subject, fmt.Errorf("/%s/status does not say how much memory it has", proc))
	case locked < rss:
		e.add(check, subject, bad, fmt.Sprintf("%s of %s are locked: the rest can be swapped out, to itself", size(locked), size(rss)),
			"run it with CAP_IPC_LOCK or LimitMEMLOCK=infinity, and with host.protect not off")
	case kib["VmSwap"] > 0:
		e.add(check, subject, bad, fmt.Sprintf("%s were swapped out before memory was locked", size(kib["VmSwap"])), "start it before there is swap in use")
	default:
		e.add(check, subject, OK, size(rss)+" in memory, all locked", "")
	}
}

func size(kib int64) string { return cli.Bytes(uint64(kib) << 10) }

// cgroup looks for limits of the process's control group and of those above it.
func (e *examination) cgroup(subject, proc, bad string) {
	const check = "cgroup"
	text, err := e.read(proc, "cgroup")
	if err != nil {
		e.unknown(check, subject, err)
		return
	}
	group, files := "", []string(nil)
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(parts) < 3:
		case parts[1] == "memory":
			group, files = path.Join("sys/fs/cgroup/memory", parts[2]), []string{"memory.limit_in_bytes"}
		case parts[0] == "0" && parts[1] == "" && files == nil:
			group, files = path.Join("sys/fs/cgroup", parts[2]), []string{"memory.max", "memory.high"}
		}
	}
	found := false
	for ; strings.HasPrefix(group, "sys/fs/cgroup/"); group = path.Dir(group) {
		for _, file := range files {
			limit, err := e.read(group, file)
			if err != nil || limit == "max" || len(limit) >= len("9223372036854771712") { // v1's word for none
				continue
			}
			found = true
			e.add(check, subject, bad, fmt.Sprintf("/%s/%s is %s: at the limit it reclaims, from itself, while others wait for it", group, file, limit),
				"take the limit off (MemoryMax=, MemoryHigh=), and bound zcache by its size instead")
		}
	}
	if !found {
		e.add(check, subject, OK, "no limit of memory", "")
	}
}
