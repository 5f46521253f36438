//go:build e2e

package vm

import (
	"cmp"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The sizes of the scenario. The kernel leaves about half of the guest's memory to programs.
const (
	guestMiB     = 128
	dataMiB      = 176
	swapSize     = "512MiB"
	workers      = 4
	phasePages   = 6000  // verified in each phase, at least
	mostPages    = 16000 // if tmemd has not seen enough of them before
	roomyBackend = "1GiB"
	smallBackend = "4MiB" // less than the guest swaps out in a phase
	tinyBackend  = "1MiB" // hardly anything
)

// One run on one kernel: no backend, a backend loaded, unloaded and loaded again underneath a guest that swaps all the time.
func TestSwapWhileBackendsComeAndGo(t *testing.T) {
	for _, series := range kernels() {
		t.Run("linux-"+series, func(t *testing.T) {
			t.Parallel() // one machine leaves half of two processors idle
			newScenario(t, series).run()
		})
	}
}

// kernels are the series that were asked for.
func kernels() []string { return strings.Split(cmp.Or(os.Getenv("TMEMD_VM_KERNEL"), "6.1"), ",") }

// firstKernel and lastKernel are the series for runs that take turns, so that each kernel has one of them and a test of everything
// is quick enough to be run all the time. With TMEMD_VM_ALL they are all series.
func firstKernel() []string { return takeTurns(kernels(), 0) }
func lastKernel() []string  { return takeTurns(kernels(), len(kernels())-1) }

func takeTurns(series []string, whose int) []string {
	if os.Getenv("TMEMD_VM_ALL") != "" {
		return series
	}
	return series[whose : whose+1]
}

// scenario is one run. Each of its phases looks at tmemd before and after, and what follows from the design must hold.
type scenario struct {
	t       *testing.T
	ctx     context.Context
	began   time.Time
	daemon  *daemon
	machine *Machine
}

func newScenario(t *testing.T, series string) *scenario {
	return newScenarioWith(t, series, func(*scenario, *Config) {})
}

// newScenarioWith starts tmemd, with flags for its backends if there are any, and a machine that change has had a word about.
func newScenarioWith(t *testing.T, series string, change func(*scenario, *Config), flags ...string) *scenario {
	s := newScenarioBase(t)
	ctx := s.ctx
	kernel, err := FetchKernel(ctx, cacheDir(), series)
	s.must(err)
	s.daemon = startDaemon(ctx, t, swapSize, flags...)
	seed := seed(t)
	s.note("%s, seed %d (TMEMD_VM_SEED=%d repeats its content)", kernel.Package, seed, seed)
	config := Config{
		Kernel: kernel, MemoryMiB: guestMiB, DataMiB: dataMiB, Workers: workers, Seed: seed,
		NBDPort: s.daemon.port(ctx), Export: exportName, NoProgress: 2 * time.Minute,
	}
	change(s, &config)
	config.Initramfs, err = BuildInitramfs(ctx, kernel, config.Attach, t.TempDir())
	s.must(err)
	s.machine, err = Start(ctx, config)
	s.must(err)
	t.Cleanup(s.machine.Close)
	return s
}

// newScenarioBase is what every run has: a time to be over by, and no machine yet.
func newScenarioBase(t *testing.T) *scenario {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	t.Cleanup(cancel)
	return &scenario{t: t, ctx: ctx, began: time.Now()}
}

func (s *scenario) run() {
	filled, err := s.machine.AwaitFilled(s.ctx)
	s.must(err)
	s.note("the guest attached, swapped on and wrote %d pages; %d swapped out", filled.Counters.Written, filled.Counters.SwappedOut)

	s.withoutBackend()
	s.daemon.load(s.ctx, roomyBackend)
	s.withBackend()
	s.unload()
	s.afterUnload()
	s.daemon.load(s.ctx, smallBackend)
	s.withFullBackend()
	s.squeezed()
	s.end()
}

// withoutBackend: every page goes to storage, and nothing is counted as frontswap's.
func (s *scenario) withoutBackend() {
	before, after := s.phase("no backend", always)
	equal(s, "backends", len(after.Backends), 0)
	equal(s, "loads + stores + invalidates", frontswapTotal(after.swap()), 0)
	s.grew("pages written to storage", before.swap().Storage.PagesWritten, after.swap().Storage.PagesWritten)
	s.grew("pages read from storage", before.swap().Storage.PagesRead, after.swap().Storage.PagesRead)
}

// withBackend: new pages steer to the backend, old ones are still read from storage; what does not compress is refused.
func (s *scenario) withBackend() {
	before, after := s.phase("zcache loaded", func(s status) bool { return s.swap().Loads > 0 })
	s.grew("stores", before.swap().SuccStores, after.swap().SuccStores)
	s.grew("loads", before.swap().Loads, after.swap().Loads)
	s.grew("refused stores", before.swap().FailedStores, after.swap().FailedStores)
	s.grew("pages read from storage", before.swap().Storage.PagesRead, after.swap().Storage.PagesRead)
	if len(after.Backends) != 1 || after.Backends[0].Name != backendName || after.Backends[0].State != "active" {
		s.t.Fatalf("backends are %+v; want %s, active", after.Backends, backendName)
	}
	s.grew("incompressible pages refused", 0, after.Backends[0].Refused["compress_poor"])
	equal(s, "pages refused for want of room", after.Backends[0].Refused["full"], 0)
	if pages := after.swap().Pages.Backends[backendName]; pages == 0 {
		s.t.Error("the page map gives the backend no pages")
	}
}

// unload while the guest swaps: the drain moves every page, and the memory is back with the system at once.
func (s *scenario) unload() {
	before, memory, began := s.daemon.status(s.ctx), s.daemon.sharedMemory(), s.machine.Latest()
	_, arena := before.arena()
	s.daemon.unload(s.ctx, backendName)
	after, freed := s.daemon.status(s.ctx), memory-s.daemon.sharedMemory()
	now, err := s.machine.AwaitVerified(s.ctx, began, 1)
	s.must(err)
	swapped := now.Counters.Sub(began.Counters)
	s.note("unload of about %d pages gave back %d KiB; around it the guest swapped in %d pages, out %d",
		before.swap().Pages.Backends[backendName], freed>>10, swapped.SwappedIn, swapped.SwappedOut)

	s.grew("pages to unload", 0, uint64(before.swap().Pages.Backends[backendName]))
	s.grew("pages swapped in around the unload", 0, uint64(swapped.SwappedIn))
	equal(s, "backends", len(after.Backends), 0)
	equal(s, "pages that the page map gives it", after.swap().Pages.Backends[backendName], 0)
	mapped, resident := after.arena()
	equal(s, "mapped bytes of its arena", mapped, 0)
	equal(s, "resident bytes of its arena", resident, 0)
	// By the kernel's account: nearly all that the arena had, or more. It and the page map may have grown since the first look.
	if arena == 0 || freed < arena*9/10 {
		s.t.Errorf("the arena had %d bytes; the daemon's shared memory shrank by %d", arena, freed)
	}
	for name, value := range s.daemon.metrics(s.ctx) {
		if strings.Contains(name, `="`+backendName) && value != 0 {
			s.t.Errorf("after the unload %s is %v", name, value)
		}
	}
}

// afterUnload: as if there had never been a backend.
func (s *scenario) afterUnload() {
	before, after := s.phase("zcache unloaded", always)
	equal(s, "loads + stores + invalidates", frontswapTotal(after.swap()), frontswapTotal(before.swap()))
	equal(s, "pages in backends", len(after.swap().Pages.Backends), 0)
	s.grew("pages written to storage", before.swap().Storage.PagesWritten, after.swap().Storage.PagesWritten)
	s.grew("pages read from storage", before.swap().Storage.PagesRead, after.swap().Storage.PagesRead)
}

// withFullBackend: loaded again, this time with too little room. That is not an error; storage has the rest.
func (s *scenario) withFullBackend() {
	loads := s.daemon.status(s.ctx).swap().Loads
	before, after := s.phase("small zcache loaded", func(s status) bool {
		return s.swap().Loads > loads && len(s.Backends) == 1 && s.outgrown() > 0
	})
	s.grew("stores", before.swap().SuccStores, after.swap().SuccStores)
	s.grew("loads", before.swap().Loads, after.swap().Loads)
	if len(after.Backends) != 1 {
		s.t.Fatalf("backends are %+v; want one", after.Backends)
	}
	s.grew("pages refused or evicted for want of room", 0, after.outgrown())
	if held, limit := after.Backends[0].Held, after.Backends[0].Limit; held > limit {
		s.t.Errorf("the backend holds %d bytes; its limit is %d", held, limit)
	}
}

// squeezed: the pool is made far smaller than it was, and told to keep what does not compress, while the guest swaps; later
// it gets room for everything. Pages leave in the order of their age, none is lost, and nobody waits for good.
func (s *scenario) squeezed() {
	s.daemon.tmemctl(s.ctx, "backend", "set", backendName, "max_pool="+tinyBackend, "min_pool=default", "codec=zstd", "incompressible=keep")
	moved := func(s status, movement string) uint64 { return s.Backends[0].Moved[movement] }
	start := s.daemon.status(s.ctx)
	before, after := s.phase("zcache squeezed", func(now status) bool {
		return moved(now, "evicted") > moved(start, "evicted") && moved(now, "kept_raw") > moved(start, "kept_raw") && now.swap().Loads > start.swap().Loads
	})
	s.grew("pages evicted", moved(start, "evicted"), moved(after, "evicted"))
	s.grew("pages kept raw", moved(start, "kept_raw"), moved(after, "kept_raw"))
	s.grew("loads", start.swap().Loads, after.swap().Loads)
	s.grew("pages read from storage", before.swap().Storage.PagesRead, after.swap().Storage.PagesRead)
	equal(s, "pages refused for their content", after.Backends[0].Refused["compress_poor"], start.Backends[0].Refused["compress_poor"])
	if held, limit := after.Backends[0].Held, after.Backends[0].Limit; limit != 1<<20 || held > limit {
		s.t.Errorf("the backend holds %d bytes; its limit is %d", held, limit)
	}
	s.daemon.tmemctl(s.ctx, "backend", "set", backendName, "max_pool="+roomyBackend, "codec=lz4")
	full := s.daemon.status(s.ctx).Backends[0].Refused["full"]
	began, after := s.phase("zcache given room", func(now status) bool { return now.swap().Loads > after.swap().Loads })
	s.grew("stores", began.swap().SuccStores, after.swap().SuccStores)
	equal(s, "pages refused for want of room", after.Backends[0].Refused["full"], full)
	equal(s, "refused stores", after.swap().FailedStores, began.swap().FailedStores)
}

// outgrown counts the pages that the first backend had no room for: refused, or moved on to make room.
func (s status) outgrown() uint64 {
	return s.Backends[0].Refused["full"] + s.Backends[0].Moved["evicted"]
}

// end: the guest verifies everything, drops most, swaps off the rest and verifies that; then the accounts are closed.
func (s *scenario) end() {
	before := s.daemon.status(s.ctx)
	stopped, err := s.machine.Stop(s.ctx)
	s.must(err)
	s.note("all pages verified after the rounds; most dropped")
	off, err := s.machine.Swapoff(s.ctx)
	s.must(err)
	swappedOff := s.daemon.status(s.ctx)
	last, err := s.machine.Detach(s.ctx)
	s.must(err)
	swap := swappedOff.swap()
	s.note("swapoff read back %d pages; detached; loads %d, invalidates %d; pages %+v",
		off.Counters.Sub(stopped.Counters).SwappedIn, swap.Loads, swap.Invalidates, swap.Pages)
	s.note("%d pages verified, %d bytes: 0 mismatches; %d swapped in, %d out",
		last.Counters.Verified, last.Counters.Verified*pageSize, last.Counters.SwappedIn, last.Counters.SwappedOut)

	s.grew("pages verified after swapoff", uint64(stopped.Counters.Verified), uint64(off.Counters.Verified))
	if lines := LogTrouble(last.Log, nil); len(lines) > 0 {
		s.t.Errorf("the guest's kernel complains:\n%s", strings.Join(lines, "\n"))
	}
	s.released(before.swap(), swap)
	s.closed()
	s.arrived(last.Counters.SwappedOut)
	s.daemon.stop()
}

// released: what the guest dropped the kernel discarded, in whole clusters: holes now, of which the backend knows nothing any more.
func (s *scenario) released(before, after export) {
	s.grew("invalidates", before.Invalidates, after.Invalidates)
	s.grew("holes", uint64(before.Pages.Hole), uint64(after.Pages.Hole))
}

// closed: nobody is attached any more, so the accounts must agree to the last page.
func (s *scenario) closed() {
	last := s.daemon.status(s.ctx)
	for ; len(last.Clients) > 0 && s.ctx.Err() == nil; last = s.daemon.status(s.ctx) {
		time.Sleep(50 * time.Millisecond) // QEMU closes the connection a moment after the guest has
	}
	swap := last.swap()
	total := swap.Pages.None + swap.Pages.Storage + swap.Pages.Hole
	for _, pages := range swap.Pages.Backends {
		total += pages
	}
	equal(s, "pages by owner, together", total, swap.Size/pageSize)
	for command, errors := range swap.Errors {
		equal(s, "errors of "+command, errors, 0)
	}
	equal(s, "storage and load errors", swap.Storage.ReadErrors+swap.Storage.WriteErrors+swap.Storage.PunchErrors+swap.LoadErrors, 0)
	if len(last.Backends) != 1 {
		s.t.Fatalf("backends are %+v; want one", last.Backends)
	}
	equal(s, "pages of the backend, by its own count", last.Backends[0].Pages, swap.Pages.Backends[backendName])
	metrics := s.daemon.metrics(s.ctx)
	for name, want := range map[string]uint64{
		`tmemd_frontswap_loads_total{export="swap"}`:         swap.Loads,
		`tmemd_frontswap_succ_stores_total{export="swap"}`:   swap.SuccStores,
		`tmemd_frontswap_failed_stores_total{export="swap"}`: swap.FailedStores,
		`tmemd_frontswap_invalidates_total{export="swap"}`:   swap.Invalidates,
		`tmemd_pages{export="swap",owner="zcache"}`:          uint64(swap.Pages.Backends[backendName]),
		`tmemd_pages{export="swap",owner="storage"}`:         uint64(swap.Pages.Storage),
		`tmemd_pages{export="swap",owner="hole"}`:            uint64(swap.Pages.Hole),
		`tmemd_pages{export="swap",owner="none"}`:            uint64(swap.Pages.None),
	} {
		value, there := metrics[name]
		if !there || value != float64(want) {
			s.t.Errorf("metric %s is %v (there: %t); the admin API says %d", name, value, there, want)
		}
	}
}

// arrived: tmemd was sent what the guest's kernel says that it swapped out, to the page, and the one page that mkswap wrote.
func (s *scenario) arrived(swappedOut int64) {
	bytes, there := s.daemon.metrics(s.ctx)[`tmemd_nbd_bytes_total{command="write",export="swap"}`]
	if !there {
		s.t.Error("no metric counts the bytes written")
	}
	equal(s, "bytes written", int64(bytes), (swappedOut+1)*pageSize)
}

// phase has the guest swap under a name until it has verified phasePages, and goes on for up to mostPages until
// tmemd has seen enough of them. It returns tmemd's status before and after.
func (s *scenario) phase(name string, enough func(status) bool) (before, after status) {
	s.t.Helper()
	before = s.daemon.status(s.ctx)
	began, err := s.machine.BeginPhase(s.ctx, name)
	s.must(err)
	last, err := s.machine.AwaitVerified(s.ctx, began, phasePages)
	s.must(err)
	after = s.daemon.status(s.ctx)
	for !enough(after) && last.Counters.Sub(began.Counters).Verified < mostPages {
		last, err = s.machine.AwaitVerified(s.ctx, last, phasePages/10)
		s.must(err)
		after = s.daemon.status(s.ctx)
	}
	work := last.Counters.Sub(began.Counters)
	swap := after.swap()
	s.note("phase %q: %d pages verified, %d swapped in, %d out; stores %d, refused %d, loads %d, invalidates %d; pages %+v", name,
		work.Verified, work.SwappedIn, work.SwappedOut, swap.SuccStores, swap.FailedStores, swap.Loads, swap.Invalidates, swap.Pages)
	s.grew("pages dropped", 0, uint64(work.Dropped))
	s.grew("pages swapped in", 0, uint64(work.SwappedIn))
	s.grew("pages swapped out", 0, uint64(work.SwappedOut))
	return before, after
}

func always(status) bool { return true }

func (s *scenario) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *scenario) note(format string, args ...any) {
	s.t.Helper()
	s.t.Logf("%4.0f s  "+format, append([]any{time.Since(s.began).Seconds()}, args...)...)
}

func (s *scenario) grew(what string, from, to uint64) {
	s.t.Helper()
	if to <= from {
		s.t.Errorf("%s: %d, then %d; want more", what, from, to)
	}
}

func equal[T comparable](s *scenario, what string, got, want T) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s: %v; want %v", what, got, want)
	}
}

// frontswapTotal is everything that frontswap counts for an export.
func frontswapTotal(e export) uint64 {
	return e.Loads + e.SuccStores + e.FailedStores + e.Invalidates
}

func cacheDir() string {
	return cmp.Or(os.Getenv("TMEMD_VM_CACHE"), filepath.Join("..", "..", ".cache", "vm"))
}

func seed(t *testing.T) uint64 {
	text := os.Getenv("TMEMD_VM_SEED")
	if text == "" {
		return rand.Uint64()
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("TMEMD_VM_SEED: %v", err)
	}
	return seed
}
