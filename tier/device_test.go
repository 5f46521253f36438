package tier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/frontswap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newFrontswap() *frontswap.Frontswap { return frontswap.New(quiet()) }

func openDevice(t testing.TB, s Storage, f *frontswap.Frontswap) *Device {
	t.Helper()
	d, err := Open(Config{Name: "test", ID: 1, Storage: s, Frontswap: f, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close device: %v", err)
		}
	})
	return d
}

func register(t testing.TB, f *frontswap.Frontswap, name string, b backends.Backend) {
	t.Helper()
	if err := f.Register(name, b); err != nil {
		t.Fatal(err)
	}
}

func mustWrite(t *testing.T, d *Device, p []byte, off int64) {
	t.Helper()
	if n, err := d.WriteAt(p, off); err != nil || n != len(p) {
		t.Fatalf("write %d bytes at %d: %d, %v", len(p), off, n, err)
	}
}

func mustRead(t *testing.T, d *Device, n int, off int64) []byte {
	t.Helper()
	p := bytes.Repeat([]byte{0xa5}, n)
	if got, err := d.ReadAt(p, off); err != nil || got != n {
		t.Fatalf("read %d bytes at %d: %d, %v", n, off, got, err)
	}
	return p
}

func TestRange(t *testing.T) {
	d := openDevice(t, newMemoryStorage(2), newFrontswap())
	p := make([]byte, 100)
	for _, off := range []int64{-1, 2*pageSize - 99, 2*pageSize + 1, 1 << 62, -1 << 63} {
		if _, err := d.ReadAt(p, off); !errors.Is(err, unix.EINVAL) {
			t.Errorf("read at %d: %v", off, err)
		}
		if _, err := d.WriteAt(p, off); !errors.Is(err, unix.EINVAL) {
			t.Errorf("write at %d: %v", off, err)
		}
		if err := d.Trim(off, 100); !errors.Is(err, unix.EINVAL) {
			t.Errorf("trim at %d: %v", off, err)
		}
		if err := d.WriteZeroes(off, 100, true); !errors.Is(err, unix.EINVAL) {
			t.Errorf("write zeroes at %d: %v", off, err)
		}
		if d.TryReadAt(p, off) || d.TryWriteAt(p, off) != 0 {
			t.Errorf("try at %d succeeded", off)
		}
	}
	if err := d.Trim(0, -5); !errors.Is(err, unix.EINVAL) {
		t.Errorf("trim of negative length: %v", err)
	}
	if _, err := d.ReadAt(p, 2*pageSize); !errors.Is(err, io.EOF) {
		t.Errorf("read at the end: %v, want EOF as io.ReaderAt says", err)
	}
	if n, err := d.ReadAt(nil, 2*pageSize); n != 0 || err != nil {
		t.Errorf("read nothing at the end: %d, %v", n, err)
	}
}

// TestPartsOfPages writes and zeroes pieces that start and end anywhere, with
// each sort of owner below them.
func TestPartsOfPages(t *testing.T) {
	for _, backend := range []string{"none", "takes", "refuses"} {
		for _, length := range []int{1, 511, 512, 4095, 4096, 4097, 9000, 300 * pageSize} {
			for _, start := range []int64{0, 1, 512, 4095, 4096, 255*pageSize + 17} {
				f := newFrontswap()
				d := openDevice(t, newMemoryStorage(600), f)
				model := make([]byte, 600*pageSize)
				if backend != "none" {
					b := &backendtest.Map{}
					if backend == "refuses" {
						b.OnStore = func(backends.Key, []byte) (backends.Refusal, error) { return backends.RefusedPoor, nil }
					}
					register(t, f, "b", b)
				}
				for i := range model {
					model[i] = byte(i>>12 + i)
				}
				mustWrite(t, d, model, 0)
				data := bytes.Repeat([]byte("new data "), length/9+1)[:length]
				mustWrite(t, d, data, start)
				copy(model[start:], data)
				zero := start + int64(length)/3
				if err := d.WriteZeroes(zero, int64(length)/2, true); err != nil {
					t.Fatal(err)
				}
				clear(model[zero:][:length/2])
				if got := mustRead(t, d, len(model), 0); !bytes.Equal(got, model) {
					t.Fatalf("backend %s: %d bytes at %d: wrong content", backend, length, start)
				}
				if got := mustRead(t, d, length, start); !bytes.Equal(got, model[start:][:length]) {
					t.Fatalf("backend %s: reading %d bytes at %d: wrong content", backend, length, start)
				}
			}
		}
	}
}

func TestTrimDropsWholePagesOnly(t *testing.T) {
	f := newFrontswap()
	s := newMemoryStorage(10)
	d := openDevice(t, s, f)
	full := bytes.Repeat([]byte{7}, 10*pageSize)
	mustWrite(t, d, full, 0)
	if err := d.Trim(pageSize/2, 3*pageSize); err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(full)
	clear(want[pageSize : 3*pageSize])
	if got := mustRead(t, d, len(full), 0); !bytes.Equal(got, want) {
		t.Error("trim dropped other than the whole pages within")
	}
	if err := d.Trim(100, 50); err != nil {
		t.Fatal(err)
	}
	if got := mustRead(t, d, pageSize, 0); !bytes.Equal(got, want[:pageSize]) {
		t.Error("a trim within a page changed it")
	}
}

func TestPuncherGivesSpaceBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "storage")
	s, err := OpenFile(path, 1000*pageSize)
	if err != nil {
		t.Fatal(err)
	}
	d := openDevice(t, s, newFrontswap())
	mustWrite(t, d, bytes.Repeat([]byte{7}, 1000*pageSize), 0)
	if err := d.Trim(100*pageSize, 800*pageSize); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); s.Stats().PagesPunched < 800; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of 800 pages punched", s.Stats().PagesPunched)
		}
	}
	if got := s.Stats().AllocatedSize; got > 210*pageSize {
		t.Errorf("%d bytes are still allocated for 200 pages", got)
	}
}

func TestSettle(t *testing.T) {
	for _, noPunch := range []bool{false, true} {
		f := newFrontswap()
		s := newMemoryStorage(300)
		s.noPunch = noPunch
		d := openDevice(t, s, f)
		want := bytes.Repeat([]byte{7}, 300*pageSize)
		mustWrite(t, d, want, 0)
		register(t, f, "b", &backendtest.Map{})
		mustWrite(t, d, bytes.Repeat([]byte{8}, 20*pageSize), 100*pageSize)
		copy(want[100*pageSize:], bytes.Repeat([]byte{8}, 20*pageSize))
		// The client may forbid to let go of the space; it reads as zeros all the same.
		if err := d.WriteZeroes(10*pageSize, 5*pageSize, false); err != nil {
			t.Fatal(err)
		}
		clear(want[10*pageSize : 15*pageSize])
		if err := d.Trim(110*pageSize, 100*pageSize); err != nil {
			t.Fatal(err)
		}
		clear(want[110*pageSize : 210*pageSize])
		if _, err := f.Unregister(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		if err := d.Settle(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(s.data, want) {
			t.Errorf("punching impossible %v: storage is not the export after Settle", noPunch)
		}
		if s.syncs.Load() == 0 {
			t.Error("storage was not synced")
		}
	}
}

// TestFailedWriteKeepsOldPage: a page in a backend, a write that the backend
// refuses and storage cannot take: the client gets the error, and the page is
// still the last one that was acknowledged (T3).
func TestFailedWriteKeepsOldPage(t *testing.T) {
	f := newFrontswap()
	s := newMemoryStorage(10)
	d := openDevice(t, s, f)
	b := &backendtest.Map{Limit: 3}
	register(t, f, "b", b)
	old := backendtest.Page(backendtest.Text, 1)
	for page := range int64(3) {
		mustWrite(t, d, old, page*pageSize)
	}
	s.fault = func(op string, _, _ uint64) error {
		if op == "write" {
			return unix.ENOSPC
		}
		return nil
	}
	if _, err := d.WriteAt(backendtest.Page(backendtest.Text, 2), pageSize); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("write that nobody can take: %v", err)
	}
	if _, err := d.WriteAt([]byte("part"), pageSize+10); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("part of a page that nobody can take: %v", err)
	}
	if got := mustRead(t, d, pageSize, pageSize); !bytes.Equal(got, old) {
		t.Error("the failed write changed the page")
	}
	if _, err := f.Unregister(t.Context(), "b"); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a drain to full storage: %v", err)
	}
	if got := mustRead(t, d, pageSize, pageSize); !bytes.Equal(got, old) {
		t.Error("the failed drain lost the page")
	}
	s.fault = nil
	if _, err := f.Unregister(t.Context(), "b"); err != nil {
		t.Errorf("drain with room again: %v", err)
	}
	if got := mustRead(t, d, pageSize, pageSize); !bytes.Equal(got, old) {
		t.Error("the drain lost the page")
	}
}

func TestTry(t *testing.T) {
	f := newFrontswap()
	d := openDevice(t, newMemoryStorage(10), f)
	page := backendtest.Page(backendtest.Structured, 1)
	got := make([]byte, pageSize)
	if d.TryWriteAt(page, 0) != 0 || d.TryReadAt(got, 0) {
		t.Error("storage was touched by a caller that must not wait")
	}
	register(t, f, "b", &backendtest.Map{Limit: 2})
	if d.TryWriteAt(page, 0) != pageSize || !d.TryReadAt(got, 0) || !bytes.Equal(got, page) {
		t.Error("a page in local memory is not served at once")
	}
	if d.TryWriteAt(page[:100], 0) != 0 || d.TryReadAt(got[:100], 0) {
		t.Error("a part of a page was served at once")
	}
	if err := d.Trim(pageSize, pageSize); err != nil {
		t.Fatal(err)
	}
	if !d.TryReadAt(got, pageSize) || !bytes.Equal(got, make([]byte, pageSize)) {
		t.Error("a hole is not served at once")
	}
	if n := d.TryWriteAt(bytes.Repeat(page, 3), 2*pageSize); n != pageSize {
		t.Errorf("%d bytes of three pages fit beside one in a backend for two", n)
	}
	d.area.Lock(0)
	if d.TryReadAt(got, 0) || d.TryWriteAt(page, 0) != 0 {
		t.Error("a locked page did not send the caller away")
	}
	d.area.Unlock(0)
	if c := d.Stats().Area.Counters; c.FailedStores != 0 || c.Loads != 1 {
		t.Errorf("counters after tries: %+v", c)
	}
	remote := newFrontswap()
	d2 := openDevice(t, newMemoryStorage(10), remote)
	register(t, remote, "r", &backendtest.Map{Remote: true})
	mustWrite(t, d2, page, 0)
	if d2.TryWriteAt(page, 0) != 0 || d2.TryReadAt(got, 0) {
		t.Error("a remote backend was asked by a caller that must not wait")
	}
}

// TestConcurrentParts has writers share a page: nobody's bytes get lost (T2).
func TestConcurrentParts(t *testing.T) {
	f := newFrontswap()
	d := openDevice(t, newMemoryStorage(4), f)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for round := range 200 {
				mine := bytes.Repeat([]byte{byte(w<<4 | round&15)}, 1000)
				off := int64(w) * 2000
				if _, err := d.WriteAt(mine, off); err != nil {
					t.Error(err)
				}
				got := make([]byte, 1000)
				if _, err := d.ReadAt(got, off); err != nil || !bytes.Equal(got, mine) {
					t.Errorf("writer %d, round %d: %v, or bytes lost", w, round, err)
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 30 {
			name := fmt.Sprint("b", i)
			register(t, f, name, &backendtest.Map{})
			if _, err := f.Unregister(t.Context(), name); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
}

func TestRequestsDoNotAllocate(t *testing.T) {
	f := newFrontswap()
	s, err := OpenFile(filepath.Join(t.TempDir(), "storage"), 600*pageSize)
	if err != nil {
		t.Fatal(err)
	}
	d := openDevice(t, s, f)
	p := make([]byte, 40*pageSize)
	requests := map[string]func(){
		"storage write": func() { d.WriteAt(p, 3*pageSize) },
		"storage read":  func() { d.ReadAt(p, 3*pageSize) },
		"trim":          func() { d.Trim(300*pageSize, 100*pageSize) },
		"part":          func() { d.WriteAt(p[:700], 5) },
		"sync":          func() { d.Sync() },
	}
	for name, request := range requests {
		if n := testing.AllocsPerRun(200, request); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestExtents(t *testing.T) {
	f := newFrontswap()
	d := openDevice(t, newMemoryStorage(20), f)
	mustWrite(t, d, bytes.Repeat([]byte{1}, 3*pageSize), 2*pageSize)
	register(t, f, "b", &backendtest.Map{})
	mustWrite(t, d, bytes.Repeat([]byte{1}, 2*pageSize), 4*pageSize)
	if err := d.Trim(8*pageSize, 4*pageSize); err != nil {
		t.Fatal(err)
	}
	type run struct {
		length int64
		hole   bool
		owner  uint32
	}
	extents := func(off, length int64, most int) (got []run) {
		err := d.Extents(off, length, func(length int64, hole bool, owner uint32) bool {
			got = append(got, run{length, hole, owner})
			return len(got) < most
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	want := []run{{2 * pageSize, false, 0}, {2 * pageSize, false, 1}, {2 * pageSize, false, 3},
		{2 * pageSize, false, 0}, {4 * pageSize, true, 2}, {8 * pageSize, false, 0}}
	if got := extents(0, 20*pageSize, 100); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := extents(3*pageSize+100, 2*pageSize, 100); !slices.Equal(got, []run{{pageSize - 100, false, 1}, {pageSize + 100, false, 3}}) {
		t.Errorf("a range within pages: got %v", got)
	}
	if got := extents(0, 20*pageSize, 1); len(got) != 1 {
		t.Errorf("%d runs reported after one was enough", len(got))
	}
	if err := d.Extents(19*pageSize, 2*pageSize, nil); !errors.Is(err, unix.EINVAL) {
		t.Errorf("beyond the end: %v", err)
	}
}

// TestEmptyStorage: what nobody wrote on empty storage is a hole, served
// without a look at storage, before and after something else was written.
func TestEmptyStorage(t *testing.T) {
	s := newMemoryStorage(10)
	f := newFrontswap()
	d, err := Open(Config{Name: "test", ID: 1, Storage: s, Empty: true, Frontswap: f, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	page := backendtest.Page(backendtest.Text, 1)
	mustWrite(t, d, page, pageSize)
	s.fault = func(op string, first, n uint64) error {
		if first != 1 || n != 1 {
			t.Errorf("%s of %d pages at %d", op, n, first)
		}
		return nil
	}
	want := slices.Concat(make([]byte, pageSize), page, make([]byte, 8*pageSize))
	if got := mustRead(t, d, 10*pageSize, 0); !bytes.Equal(got, want) {
		t.Error("wrong content")
	}
	if !d.TryReadAt(make([]byte, pageSize), 0) {
		t.Error("an unwritten page is not served at once")
	}
	if s := d.Stats().Area; s.None != 9 || s.Storage != 1 || s.Hole != 0 {
		t.Errorf("pages by owner: %+v", s)
	}
}

// TestPuncherHoldsNobodyUp: while storage takes for ever to punch, a trim of the
// same pages and a store that a backend takes go on. Writes to storage wait, of
// a client and of a drain alike: the punch would take them away.
func TestPuncherHoldsNobodyUp(t *testing.T) {
	f := newFrontswap()
	s := newMemoryStorage(10)
	d := openDevice(t, s, f)
	punching, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.fault = func(op string, _, _ uint64) error {
		if op == "punch" {
			once.Do(func() { close(punching); <-goOn })
		}
		return nil
	}
	for range 2 {
		if err := d.Trim(0, 10*pageSize); err != nil {
			t.Fatal(err)
		}
		<-punching
	}
	b := &backendtest.Map{Limit: 3}
	register(t, f, "b", b)
	want := pages(4, 1)
	mustWrite(t, d, want[:3*pageSize], 4*pageSize)
	done := make(chan error, 2)
	go func() {
		_, err := d.WriteAt(want[3*pageSize:], 7*pageSize) // the backend is full
		done <- err
	}()
	go func() {
		_, err := f.Unregister(context.Background(), "b")
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("a write to storage did not wait for the punch: %v", err)
	case <-time.After(20 * time.Millisecond): // long enough to go wrong in most runs
	}
	close(goOn)
	if err := errors.Join(<-done, <-done); err != nil {
		t.Error(err)
	}
	if got := mustRead(t, d, 4*pageSize, 4*pageSize); !bytes.Equal(got, want) {
		t.Error("the punch took pages that were written")
	}
}

// vastStorage takes writes anywhere and keeps none.
type vastStorage struct {
	*memoryStorage
	pages uint64
}

func (s vastStorage) Pages() uint64                  { return s.pages }
func (vastStorage) WritePages(uint64, []byte) error  { return nil }
func (vastStorage) PunchPages(first, n uint64) error { return nil }

// A whole new export is asked about and trimmed without memory for its map.
func TestUntouchedMapStaysUntouched(t *testing.T) {
	const pages = 1 << 26 // 256 GiB
	d, err := Open(Config{Name: "test", ID: 1, Storage: vastStorage{newMemoryStorage(1), pages}, Empty: true, Frontswap: newFrontswap(), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	resident := func() int64 { return d.Stats().Area.Memory.Resident }
	before := resident()
	seen := int64(0)
	err = d.Extents(0, pages*pageSize, func(length int64, hole bool, _ uint32) bool {
		seen += length
		return hole
	})
	if err != nil || seen != pages*pageSize {
		t.Errorf("extents end at %d (%v)", seen, err)
	}
	if err := d.Trim(0, pages*pageSize); err != nil {
		t.Error(err)
	}
	if grown := resident() - before; grown != 0 {
		t.Errorf("the map took %d bytes", grown)
	}
	if _, err := d.WriteAt(make([]byte, pageSize), 12345*pageSize); err != nil {
		t.Fatal(err)
	}
	var lengths []int64
	err = d.Extents(0, pages*pageSize, func(length int64, hole bool, owner uint32) bool {
		lengths = append(lengths, length)
		return true
	})
	want := []int64{12345 * pageSize, pageSize, (pages - 12346) * pageSize}
	if err != nil || !slices.Equal(lengths, want) {
		t.Errorf("extents of one page in nothing: %v, want %v (%v)", lengths, want, err)
	}
	if grown := resident() - before; grown > 3*pageSize {
		t.Errorf("the map took %d bytes for one page", grown)
	}
}
