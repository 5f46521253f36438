//go:build e2e

package vm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The sizes of the run in which the guest's swap goes through a tmemd in the guest. Its programs, its compressed memory and
// what the kernel keeps free are in the same memory.
const (
	ownHostMiB     = 304
	ownHostDataMiB = 184
	ownHostDisk    = 288 << 20 // bytes
	ownHostPages   = 3000      // verified in each phase, at least
	ownHostSwaps   = 50000     // swapped out, at least: more than the guest program has
)

// tmemctl asks the daemon in the guest.
const tmemctl = "/bin/tmemctl --state-dir /state "

// upgrade has the guest's tmemd upgraded, which it refuses on kernels where that was seen to hang.
const upgrade = "{ case $(busybox uname -r) in 6.1.*) ! " + tmemctl + "upgrade;; *) " + tmemctl + "upgrade;; esac; }"

// hog runs the victim for a while. It is killed then, or before by the kernel, which is told to choose it.
const hog = "busybox ln -sf /bin/busybox /bin/" + victim + "; busybox timeout -s KILL 8 /bin/busybox sh -c '" +
	"echo 1000 >/proc/self/oom_score_adj; exec /bin/" + victim + " /dev/zero'; true"

// One run in which a guest swaps to a tmemd of its own, with protections: memory is exhausted, other processes take what is left
// and are killed, a backend is drained meanwhile, and tmemd is upgraded. It never hangs, and no page is lost or wrong.
func TestSwapToOwnHost(t *testing.T) {
	for _, series := range lastKernel() {
		t.Run("linux-"+series, func(t *testing.T) {
			s := startOwnHost(t, series, AttachOwnHost)
			s.must(s.ownHost())
		})
	}
}

// startOwnHost starts a machine that needs nobody outside.
func startOwnHost(t *testing.T, series string, attach Attach) *scenario {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, ownHostDisk); err != nil {
		t.Fatal(err)
	}
	return newScenarioWith(t, series, func(s *scenario, c *Config) {
		c.MemoryMiB, c.DataMiB, c.Attach, c.Disk = ownHostMiB, ownHostDataMiB, attach, disk
		c.Expected = exhaustion // a request may take long, emulated; that it is not lost is what counts
	})
}

// ownHost goes through the run, up to the first failure.
func (s *scenario) ownHost() error {
	filled, err := s.machine.AwaitFilled(s.ctx)
	if err != nil {
		return err
	}
	s.note("swapping to its own tmemd; %d pages swapped out", filled.Counters.SwappedOut)
	if err := s.examined(); err != nil {
		return err
	}
	steps := []struct{ what, command string }{
		{"a process took what was left, and was killed", hog},
		{"tmemd was upgraded, or said why not", upgrade},
		{"the backend was unloaded", tmemctl + "backend unload zcache"},
		{"another process was killed, and a smaller backend loaded", hog + "; " + tmemctl + "backend load zcache --size 12MiB"},
		{"tmemd was upgraded twice while processes took what was left, or said why not",
			"( until busybox test -e /upgraded; do " + hog + "; done ) & busybox sleep 2; " + upgrade + " && " + upgrade + "; code=$?; echo >/upgraded; wait; exit $code"},
	}
	for _, step := range steps {
		began := s.machine.Latest()
		if _, err := s.machine.Run(s.ctx, step.command); err != nil {
			return err
		}
		now, err := s.machine.AwaitVerified(s.ctx, began, ownHostPages)
		if err != nil {
			return err
		}
		work := now.Counters.Sub(began.Counters)
		s.grew("pages swapped in", 0, uint64(work.SwappedIn))
		s.note("%s: %d pages verified, %d swapped in, %d out", step.what, work.Verified, work.SwappedIn, work.SwappedOut)
	}
	if err := s.weighed(); err != nil {
		return err
	}
	printed, err := s.machine.Run(s.ctx, tmemctl+"--json status")
	if err != nil {
		return err
	}
	var status status
	if err := json.Unmarshal([]byte(printed), &status); err != nil {
		return err
	}
	if _, err := s.machine.Stop(s.ctx); err != nil {
		return err
	}
	if _, err := s.machine.Swapoff(s.ctx); err != nil {
		return err
	}
	last, err := s.machine.Detach(s.ctx)
	if err != nil {
		return err
	}
	s.note("%d pages verified: 0 mismatches; %d swapped in, %d out; stores %d, loads %d", last.Counters.Verified,
		last.Counters.SwappedIn, last.Counters.SwappedOut, status.swap().SuccStores, status.swap().Loads)
	s.note("the kernel itself killed %d times", strings.Count(last.Log, "Out of memory: Killed"))
	s.grew("pages swapped out", ownHostSwaps, uint64(last.Counters.SwappedOut))
	s.grew("stores", 0, status.swap().SuccStores)
	s.grew("loads", 0, status.swap().Loads)
	if lines := LogTrouble(last.Log, exhaustion); len(lines) > 0 {
		s.t.Errorf("the guest's kernel complains:\n%s", strings.Join(lines, "\n"))
	}
	return nil
}

// weigh prints where the guest's memory is: the kernel's account, and what programs have that lock theirs.
const weigh = `busybox grep -E 'MemTotal|MemAvail|Unevict|Shmem:|Slab|SwapFree|AnonP' /proc/meminfo | busybox tr -s ' \n' ' '
for p in /proc/[0-9]*; do
	busybox grep -q 'VmLck:.* [1-9]' $p/status || continue
	echo; busybox grep -E 'Name|VmHWM|RssAnon|RssShmem|VmSwap' $p/status | busybox tr -s ' \t\n' ' '
done`

// weighed notes it.
func (s *scenario) weighed() error {
	printed, err := s.machine.Run(s.ctx, weigh)
	s.note("memory of the guest: %s", printed)
	return err
}

// examined has tmemctl doctor look at the guest: this kernel grants all that a container withholds.
func (s *scenario) examined() error {
	printed, err := s.machine.Run(s.ctx, tmemctl+"--json doctor; true")
	if err != nil {
		return err
	}
	var findings []struct{ Check, Subject, State, Detail string }
	if err := json.NewDecoder(strings.NewReader(printed)).Decode(&findings); err != nil {
		return err
	}
	good := map[string]bool{}
	for _, f := range findings {
		if f.State == "ok" {
			good[f.Subject+" "+f.Check] = true
		} else {
			s.note("doctor: %s: %s: %s: %s", f.State, f.Subject, f.Check, f.Detail)
		}
		if f.State == "problem" && s.machine.config.Attach == AttachOwnHost {
			s.t.Errorf("doctor finds a problem: %s: %s", f.Check, f.Detail)
		}
	}
	if s.machine.config.Attach != AttachOwnHost {
		return nil
	}
	for _, want := range []string{
		"daemon io flusher", "daemon realtime", "daemon locked memory", "daemon oom score", "agent of /dev/nbd0 io flusher",
		"agent of /dev/nbd0 locked memory", "/dev/nbd0 agent", "/dev/nbd0 discard", "kernel min_free_kbytes",
	} {
		if !good[want] {
			s.t.Errorf("doctor does not find it in order: %s", want)
		}
	}
	return nil
}
