package protect

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// fake is a system that refuses what it is told to.
type fake struct {
	rights bool
	refuse map[string]error
	taken  []string
	heap   int64
}

func (f *fake) take(name string) error {
	f.taken = append(f.taken, name)
	return f.refuse[name]
}
func (f *fake) lockAll() error         { return f.take(MemoryLocked) }
func (f *fake) touchCode() error       { return f.take(CodeTouched) }
func (f *fake) setIOFlusher() error    { return f.take(IOFlusher) }
func (f *fake) setRealtime() error     { return f.take(Realtime) }
func (f *fake) setOOMScore() error     { return f.take(OOMScore) }
func (f *fake) touchHeap(r Room) error { f.heap = r.Heap; return f.take(HeapTouched) }
func (f *fake) privileged() bool       { return f.rights }

var all = []string{MemoryLocked, CodeTouched, IOFlusher, OOMScore, HeapTouched, Realtime}

func TestApply(t *testing.T) {
	eperm := os.NewSyscallError("prctl", unix.EPERM)
	tests := []struct {
		name    string
		mode    Mode
		local   bool
		system  fake
		taken   []string
		refused string // its measure
		cure    string
		fails   bool
	}{
		{"auto", Auto, true, fake{rights: true}, all, "", "", false},
		{"auto, nobody local", Auto, false, fake{rights: true}, nil, "", "", false},
		{"auto, no rights", Auto, true, fake{}, nil, "", "", false},
		{"auto, flusher refused", Auto, true, fake{rights: true, refuse: map[string]error{IOFlusher: eperm}}, all, IOFlusher, "CAP_SYS_RESOURCE", false},
		{"auto, cgo", Auto, true, fake{rights: true, refuse: map[string]error{IOFlusher: errCgo}}, all, IOFlusher, "CGO_ENABLED=0", false},
		{"auto, old kernel", Auto, true, fake{rights: true, refuse: map[string]error{IOFlusher: unix.EINVAL}}, all, IOFlusher, "Linux 5.6", false},
		{"auto, locking refused", Auto, true, fake{rights: true, refuse: map[string]error{MemoryLocked: unix.ENOMEM}}, all, MemoryLocked, "CAP_IPC_LOCK", false},
		{"auto, scheduling refused", Auto, true, fake{rights: true, refuse: map[string]error{Realtime: eperm}}, all, Realtime, "LimitRTPRIO", false},
		{"auto, score refused", Auto, true, fake{rights: true, refuse: map[string]error{OOMScore: unix.EACCES}}, all, OOMScore, "OOMScoreAdjust", false},
		{"on, nobody local, no rights", On, false, fake{}, all, "", "", false},
		{"on, flusher refused", On, true, fake{rights: true, refuse: map[string]error{IOFlusher: eperm}}, all, IOFlusher, "CAP_SYS_RESOURCE", true},
		{"off", Off, true, fake{rights: true}, nil, "", "", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var text bytes.Buffer
			log := slog.New(slog.NewTextHandler(&text, nil))
			r, err := apply(test.mode, test.local, Room{Heap: 77}, &test.system, log)
			if !reflect.DeepEqual(test.system.taken, test.taken) || r.Wanted != (test.taken != nil) || len(r.Measures) != len(all) {
				t.Errorf("took %v, report %+v", test.system.taken, r)
			}
			if test.taken != nil && test.system.heap != 77 {
				t.Errorf("the heap has %d to spare", test.system.heap)
			}
			missing := all
			if test.taken != nil {
				missing = slices.DeleteFunc(slices.Clone(all), func(name string) bool { return name != test.refused })
			}
			if got := r.Missing(); !slices.Equal(got, missing) {
				t.Errorf("missing is %v, want %v", got, missing)
			}
			refused := r.Refused()
			if test.refused == "" {
				if len(refused) > 0 || err != nil || text.Len() > 0 {
					t.Errorf("refused %+v, %v, log %s", refused, err, &text)
				}
				return
			}
			if len(refused) != 1 || refused[0].Name != test.refused || !strings.Contains(refused[0].Cure, test.cure) {
				t.Errorf("refused %+v", refused)
			}
			var told *cli.Error
			if test.fails {
				if !errors.As(err, &told) || !strings.Contains(told.Problem, test.refused) || !strings.Contains(told.Hint, test.cure) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil || !strings.Contains(text.String(), "measure="+test.refused) {
				t.Errorf("error %v, log %s", err, &text)
			}
		})
	}
}

func TestParseMode(t *testing.T) {
	for _, m := range []Mode{Auto, On, Off} {
		if got, err := ParseMode(string(m)); got != m || err != nil {
			t.Errorf("%s: %v, %v", m, got, err)
		}
	}
	if _, err := ParseMode("yes"); err == nil {
		t.Error("yes is a mode")
	}
}

func TestMappingOf(t *testing.T) {
	tests := []struct {
		line          string
		start, length uintptr
		writable, ok  bool
	}{
		{"00400000-0072c000 r-xp 00000000 fd:00 1234                       /usr/bin/tmemd", 0x400000, 0x32c000, false, true},
		{"0072c000-00a00000 r--p 0032c000 fd:00 1234                       /usr/bin/tmemd", 0x72c000, 0x2d4000, false, true},
		{"00a00000-00a20000 rw-p 0032c000 fd:00 1234                       /usr/bin/tmemd", 0xa00000, 0x20000, true, true},
		{"00a00000-00a10000 ---p 0032c000 fd:00 1234                       /usr/bin/tmemd", 0, 0, false, false},
		{"00400000-0072c000 r-xp 00000000 fd:00 1234                       /usr/bin/tmemctl", 0, 0, false, false},
		{"00a20000-00a60000 rw-p 00000000 00:00 0 ", 0xa20000, 0x40000, true, true},
		{"c000000000-c000400000 rw-p 00000000 00:00 0 ", 0xc000000000, 0x400000, true, true},
		{"c000000000-c004000000 rw-p 00000000 00:00 0 ", 0, 0, false, false},
		{"7ffc0000-7ffe0000 rw-p 00000000 00:00 0                          [stack]", 0, 0, false, false},
		{"x-y r-xp 0 fd:00 1 /usr/bin/tmemd", 0, 0, false, false},
		{"", 0, 0, false, false},
	}
	for _, test := range tests {
		start, length, writable, ok := mappingOf(test.line, "/usr/bin/tmemd")
		if start != test.start || length != test.length || ok != test.ok || ok && writable != test.writable {
			t.Errorf("%q: %#x, %#x, %t, %t", test.line, start, length, writable, ok)
		}
	}
}

// TestThisProcess does to a process of its own what Apply does, as far as this
// machine has the rights: memory is locked, and the score is what it should be.
// It runs in a child, since none of it can be taken back.
func TestThisProcess(t *testing.T) {
	if os.Getenv("TMEMD_PROTECT_CHILD") != "" {
		protectSelf(t)
		return
	}
	child := exec.Command(os.Args[0], "-test.run=^TestThisProcess$", "-test.v")
	child.Env = append(os.Environ(), "TMEMD_PROTECT_CHILD=1")
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func protectSelf(t *testing.T) {
	Regain() // as after execve, before anything else
	r, err := Apply(Auto, true, Room{Heap: 8 << 20, Threads: 4}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := map[string]State{}
	for _, m := range r.Measures {
		done[m.Name] = m.State
		if m.State == Refused && m.Cure == "" {
			t.Errorf("%+v has no cure", m)
		}
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	locked := !strings.Contains(string(status), "VmLck:\t       0 kB")
	if locked != (done[MemoryLocked] == Done) {
		t.Errorf("memory is locked: %t, the report says %s", locked, done[MemoryLocked])
	}
	score, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	if (strings.TrimSpace(string(score)) == "-1000") != (done[OOMScore] == Done) {
		t.Errorf("the score is %s, the report says %s", score, done[OOMScore])
	}
	if threads := strings.Count(string(status), "Threads:"); threads != 1 {
		t.Fatalf("status %s", status)
	}
	keepsFile(t, r)
	isUrgent(t, r)
	touchedHeap(t)
	r.Settle(Room{Heap: 8 << 20})
	keepsHeap(t)
	settles(t, r)
	if done[CodeTouched] == Refused {
		t.Errorf("the program's code could not be touched: %+v", r.Measures)
	}
}

func TestLendsHalf(t *testing.T) {
	for release, want := range map[string]bool{
		"6.12.117+deb12-cloud-amd64": true, "6.3.0": true, "6.2.16": false, "6.1.0-56-cloud-amd64": false, "7.0": true, "5.15.1": false, "": false, "six": false,
	} {
		if got := LendsHalf(release); got != want {
			t.Errorf("%q: %t", release, got)
		}
	}
	if KernelRelease() == "" {
		t.Error("this kernel has no release")
	}
}

// keepsFile: what a file has is mapped, and locked if anything is.
func keepsFile(t *testing.T, r Report) {
	t.Helper()
	dir := t.TempDir()
	for name, size := range map[string]int{"empty": 0, "small": 1, "large": 300<<10 + 1} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := KeepFile(path); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := KeepFile(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := KeepFile(dir); err != nil {
		t.Errorf("a folder: %v", err)
	}
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	_, large, found := strings.Cut(string(text), filepath.Join(dir, "large"))
	want := "Locked:                0 kB"
	if r.Locked() {
		want = "Locked:              304 kB"
	}
	if !found || !strings.Contains(strings.SplitN(large, "VmFlags", 2)[0], want) {
		t.Errorf("want %q of it, got %s", want, strings.SplitN(large, "VmFlags", 2)[0])
	}
}

// isUrgent: the class is seen, and taken and given back if there is the right to.
func isUrgent(t *testing.T, r Report) {
	t.Helper()
	for _, on := range []bool{false, true} {
		if err := SetUrgent(on); err != nil && r.has(Realtime) {
			t.Fatal(err)
		}
		if IsUrgent() != (on && r.has(Realtime)) {
			t.Errorf("urgent: %t, after it was set to %t", IsUrgent(), on)
		}
	}
}

// touchedHeap: what is allocated within the room faults nothing in.
func touchedHeap(t *testing.T) {
	t.Helper()
	before := faults(t)
	var kept [][]byte
	for range 64 {
		kept = append(kept, make([]byte, 64<<10))
	}
	if n := faults(t) - before; n > faultsOfOthers { // of 1024
		t.Errorf("4 MiB of garbage faulted %d pages in", n)
	}
	runtime.KeepAlive(kept)
}

// keepsHeap: the runtime does not give the room back, which it would begin at once
// in the background.
func keepsHeap(t *testing.T) {
	t.Helper()
	time.Sleep(4 * time.Second) // it goes slowly
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	if kept := stats.HeapIdle - stats.HeapReleased; kept < 7<<20 {
		t.Errorf("the heap has room for %d bytes, want about 8 MiB", kept)
	}
}

// faults counts this process's page faults.
func faults(t *testing.T) int64 {
	t.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return usage.Minflt
}

// settles: a heap that lives with more than the limit was made for gets a higher
// one, and one that does not keeps it.
func settles(t *testing.T, r Report) {
	t.Helper()
	room := Room{Heap: 8 << 20}
	before := debug.SetMemoryLimit(-1)
	r.Settle(room)
	if now := debug.SetMemoryLimit(-1); now != before {
		t.Errorf("a small heap has the limit %d, before %d", now, before)
	}
	large := make([]byte, 64<<20)
	r.Settle(room)
	if now := debug.SetMemoryLimit(-1); now < 64<<20+8<<20 {
		t.Errorf("a heap of 64 MiB has the limit %d", now)
	}
	runtime.KeepAlive(large)
}
