package estimate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

const everyPage = 1 << 20

// TestKnownContent estimates the memory of processes of which it is known.
func TestKnownContent(t *testing.T) {
	for _, kind := range []string{"random", "value", "text"} {
		t.Run(kind, func(t *testing.T) {
			pid := hold(t, kind)
			r, err := Run(t.Context(), Options{Scope: Scope{PID: pid}, Pages: 1500, Seed: 1, RAM: 8 << 30}, ignore)
			if err != nil {
				t.Fatal(err)
			}
			if r.Bytes.Value < heldBytes*0.98 || r.Bytes.Value > heldBytes+runtimeBytes || r.Processes != 1 || r.Sampled < 1200 {
				t.Errorf("%.0f bytes in %d processes, %d pages sampled", r.Bytes.Value, r.Processes, r.Sampled)
			}
			// Bytes of what the process is known to hold, and up to what margins allow.
			around := func(v Value, most float64) bool {
				return (v.Value+3*v.Margin)*r.Bytes.Value > heldBytes*0.98 && (v.Value-3*v.Margin)*r.Bytes.Value < most
			}
			none := func(v Value) bool { return v.Value < 0.05 }
			refused, same := none(r.Refused), none(r.SameFilled)
			switch kind {
			case "random":
				refused, same = around(r.Refused, heldBytes*1.1), true
			case "value":
				same = around(r.SameFilled, heldBytes+runtimeBytes)
			case "text":
				same = (r.SameFilled.Value-3*r.SameFilled.Margin)*r.Bytes.Value < runtimeBytes
			}
			if !refused || !same {
				t.Errorf("of %.0f bytes are refused %+v, same-filled %+v", r.Bytes.Value, r.Refused, r.SameFilled)
			}
			if storage := r.LZ4.Storage.Value; math.Abs(storage-r.Refused.Value*r.Bytes.Value) > 1 || r.Keep.Storage.Value != 0 {
				t.Errorf("%.0f bytes go to storage, with keep %.0f", storage, r.Keep.Storage.Value)
			}
		})
	}
}

// TestBesideCache is E4: a cache that holds the same pages takes as much memory, and
// refuses as many.
func TestBesideCache(t *testing.T) {
	for _, kind := range []string{"text", "random"} {
		t.Run(kind, func(t *testing.T) {
			pid := hold(t, kind)
			all, err := Run(t.Context(), Options{Scope: Scope{PID: pid}, Pages: everyPage, RAM: 8 << 30}, ignore)
			if err != nil {
				t.Fatal(err)
			}
			sampled, err := Run(t.Context(), Options{Scope: Scope{PID: pid}, Pages: 1500, RAM: 8 << 30}, ignore)
			if err != nil {
				t.Fatal(err)
			}
			pages := allPages(t, pid)
			if int(all.Sampled) != len(pages) || all.LZ4.Ratio.Margin != 0 {
				t.Fatalf("%d of %d pages were judged, margin %v", all.Sampled, len(pages), all.LZ4.Ratio.Margin)
			}
			for _, codec := range []zcache.Codec{zcache.LZ4, zcache.Zstd} {
				// Many times over, so that chunks that are not full, one in each class, count
				// for little.
				times := 1 + 10000/len(pages)
				stats := store(t, codec, pages, times)
				want, sample := all.LZ4, sampled.LZ4
				if codec == zcache.Zstd {
					want, sample = all.Zstd, sampled.Zstd
				}
				kept := float64(stats.Pages) / float64(times) // same-filled ones too
				held := float64(stats.HeldBytes) / float64(times)
				t.Logf("%v: cache %.0f bytes for %.0f pages, estimate %.0f, of a sample %.0f ± %.0f", codec, held, kept, want.Pool.Value, sample.Pool.Value, sample.Pool.Margin)
				if refused := float64(len(pages)) - kept; math.Abs(want.Storage.Value-refused*backends.PageSize) > 1 {
					t.Errorf("%v: %.0f pages were refused, %.0f bytes are said to go to storage", codec, refused, want.Storage.Value)
				}
				if want.Pool.Value > held*1.01 || held > want.Pool.Value*1.01+poolSlack/float64(times) {
					t.Errorf("%v: the cache holds %.0f bytes, %.0f estimated", codec, held, want.Pool.Value)
				}
				if kind == "text" && math.Abs(kept*backends.PageSize/held/want.Ratio.Value-1) > 0.03 {
					t.Errorf("%v: the cache has the ratio %.3f, %.3f estimated", codec, kept*backends.PageSize/held, want.Ratio.Value)
				}
				// 95 in 100 samples are within their margin; this one is within thrice that.
				if math.Abs(sample.Pool.Value-want.Pool.Value) > 3*sample.Pool.Margin+1 {
					t.Errorf("%v: a sample says %+v, all pages %+v", codec, sample.Pool, want.Pool)
				}
			}
		})
	}
}

// store has a cache keep pages so many times, as far as it takes them.
func store(t *testing.T, codec zcache.Codec, pages [][]byte, times int) backends.Stats {
	t.Helper()
	c, err := zcache.New(zcache.Config{Limit: 256 << 20, Codec: codec, AcceptPercent: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Init(backends.Export{ID: 1, Pages: backends.MaxPages}); err != nil {
		t.Fatal(err)
	}
	for i := range len(pages) * times {
		page := pages[i%len(pages)]
		if _, refusal, err := c.Store(backends.Key{Export: 1, Page: uint64(i)}, page); err != nil || refusal != backends.Accepted && refusal != backends.RefusedPoor {
			t.Fatalf("page %d: %v, error %v", i, refusal, err)
		}
	}
	return c.Stats()
}

// TestOneThread is E3: the thread that works is nice, and nobody else becomes so.
func TestOneThread(t *testing.T) {
	before, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	if _, err := Run(t.Context(), Options{Scope: Scope{PID: os.Getpid()}, Pages: 100}, func(Status) {
		// The system call answers 20 minus the nice value.
		if now, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid()); err != nil || now > 20-nice {
			t.Errorf("the priority is %d, error %v", now, err)
		}
		told++
	}); err != nil {
		t.Fatal(err)
	}
	if after, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err != nil || after != before || told < 2 {
		t.Errorf("the priority is %d, it was %d, error %v; told %d times", after, before, err, told)
	}
}

func TestCgroup(t *testing.T) {
	root := t.TempDir()
	write := func(group, pids string) {
		t.Helper()
		folder := filepath.Join(root, group)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "cgroup.procs"), []byte(pids), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a", "7\n3\n")
	write("a/b", "5\n3\n"+strconv.Itoa(os.Getpid())+"\n")
	write("c", "")
	write("bad", "x\n")
	if got, err := cgroupProcesses(filepath.Join(root, "a")); err != nil || !slices.Equal(got, []int{3, 5, 7}) {
		t.Errorf("processes %v, error %v", got, err)
	}
	for _, bad := range []string{"c", "bad", "no"} {
		if got, err := cgroupProcesses(filepath.Join(root, bad)); err == nil {
			t.Errorf("%s: processes %v, no error", bad, got)
		}
	}
	pid := hold(t, "text")
	write("real", strconv.Itoa(pid)+"\n2147483647\n")
	r, err := Run(t.Context(), Options{Scope: Scope{Cgroup: filepath.Join(root, "real")}, Pages: 500, RAM: 8 << 30}, ignore)
	if err != nil || r.Processes != 1 || r.Bytes.Value < heldBytes*0.9 || !strings.HasPrefix(r.Scope, "control group") {
		t.Errorf("report %+v, error %v", r, err)
	}
}

func TestRunErrors(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ended, Options{Scope: Scope{PID: os.Getpid()}, Pages: 100}, ignore); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	for name, o := range map[string]Options{
		"no process":       {Scope: Scope{PID: 1 << 30}, Pages: 100},
		"no pages":         {Scope: Scope{PID: os.Getpid()}},
		"no control group": {Scope: Scope{Cgroup: "/no/such/group"}, Pages: 100},
	} {
		var told *cli.Error
		if _, err := Run(t.Context(), o, ignore); !errors.As(err, &told) || told.Hint == "" {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestReservoir: each of the offered is chosen as often as any other.
func TestReservoir(t *testing.T) {
	const offered, most, rounds = 50, 10, 20000
	chosen := [offered]int{}
	random := newRandom()
	for range rounds {
		r := reservoir{random: random, most: most}
		for i := range offered {
			r.offer(place{address: uint64(i)})
		}
		if len(r.places) != most || r.offered != offered {
			t.Fatalf("%d places of %d", len(r.places), r.offered)
		}
		for _, p := range r.places {
			chosen[p.address]++
		}
	}
	for i, n := range chosen {
		// 4,000 are expected, with a deviation of 57.
		if math.Abs(float64(n)-rounds*most/offered) > 5*57 {
			t.Errorf("%d was chosen %d times", i, n)
		}
	}
}

// TestMargins takes many samples of pages of which everything is known.
func TestMargins(t *testing.T) {
	random := newRandom()
	verdicts := make([]zcache.Verdict, 20000)
	var all tally
	for i := range verdicts {
		switch n := random.IntN(20); {
		case n < 3:
			verdicts[i].SameFilled = true
		case n < 5: // refused
			verdicts[i].Zram = backends.PageSize
		default:
			length := 200 + random.IntN(3000)
			verdicts[i] = zcache.Verdict{LZ4: length, Zstd: length / 2, Cold: length / 2, Zram: length}
		}
		all.add(verdicts[i])
	}
	const rounds, size = 400, 500
	n := float64(len(verdicts))
	truth := func(s *sums) (float64, float64) { return float64(s.kept) * backends.PageSize / s.held, s.held }
	ratio, memory := truth(&all.of[newLZ4])
	sameFilled := float64(all.sameFilled) / n
	inside := map[string]int{}
	for range rounds {
		var sample tally
		for _, i := range random.Perm(len(verdicts))[:size] {
			sample.add(verdicts[i])
		}
		for what, pair := range map[string]struct {
			is   Value
			want float64
		}{
			"ratio":       {sample.of[newLZ4].ratio(size, n), ratio},
			"memory":      {sample.of[newLZ4].memory(size, n), memory},
			"same-filled": {share(sample.sameFilled, size, n), sameFilled},
		} {
			if math.Abs(pair.is.Value-pair.want) <= pair.is.Margin {
				inside[what]++
			}
		}
	}
	if len(inside) != 3 {
		t.Fatalf("%v", inside)
	}
	for what, hits := range inside {
		// 380 are expected, with a deviation of 4.4; skewed values have a few less.
		if hits < 360 || hits > 396 {
			t.Errorf("%s: of %d samples %d are within their margin", what, rounds, hits)
		}
	}
	// A sample of everything has no margin.
	if r := all.of[newLZ4].ratio(int64(len(verdicts)), n); r.Margin != 0 || r.Value != ratio {
		t.Errorf("of all pages the ratio is %+v", r)
	}
	if none := share(0, size, n); none.Value != 0 || none.Margin == 0 {
		t.Errorf("none seen: %+v", none)
	}
}

func TestScopeNames(t *testing.T) {
	for want, s := range map[string]Scope{"process 3": {PID: 3}, "control group /x": {Cgroup: "/x"}, "the whole host": {}} {
		if got := fmt.Sprint(s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
