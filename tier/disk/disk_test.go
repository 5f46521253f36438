package disk

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/tier"
)

var _ nbd.Device = (*Device)(nil)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// fixture is a device with what is below it.
type fixture struct {
	*Device
	storage *volatile
	cache   *cleancache.Cleancache
	backend *backendtest.Map
}

func newFixture(t testing.TB, pages int, readOnly bool) *fixture {
	t.Helper()
	f := &fixture{storage: newVolatile(pages), cache: cleancache.New(quiet()), backend: &backendtest.Map{}}
	f.cache.Follow([]backends.Named{{Name: "map", Backend: f.backend}})
	f.Device = open(t, f.cache, f.storage, readOnly)
	t.Cleanup(func() {
		if err := errors.Join(f.Close(), f.storage.misused()); err != nil {
			t.Error(err)
		}
		f.cache.Leave(f.backend)
		if err := errors.Join(f.backend.Close(), f.backend.Misuse()); err != nil {
			t.Error(err)
		}
	})
	return f
}

func open(t testing.TB, c *cleancache.Cleancache, storage tier.Storage, readOnly bool) *Device {
	t.Helper()
	pool, err := c.InitFS(cleancache.FSConfig{Name: "disk", ID: 1, Pages: storage.Pages()})
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(Config{Name: "disk", Storage: storage, Pool: pool, ReadOnly: readOnly})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (f *fixture) write(t testing.TB, p []byte, off int64) {
	t.Helper()
	if n, err := f.WriteAt(p, off); n != len(p) || err != nil {
		t.Fatalf("WriteAt: %d, %v", n, err)
	}
}

func (f *fixture) check(t testing.TB, want []byte, off int64) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := f.ReadAt(got, off); n != len(got) || err != nil {
		t.Fatalf("ReadAt: %d, %v", n, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%d bytes at %d are not what was written", len(want), off)
	}
}

// TestFill: the first read asks storage, the second does not; a write makes the next
// one ask again.
func TestFill(t *testing.T) {
	f := newFixture(t, 600, false)
	data := bytes.Join([][]byte{backendtest.Mixed(1), backendtest.Mixed(2), backendtest.Mixed(3)}, nil)
	const at = 255 * pageSize // over the end of a block
	f.write(t, data, at)
	f.check(t, data, at)
	asked := f.storage.readRequests()
	if asked != 2 {
		t.Errorf("storage was asked %d times for two blocks", asked)
	}
	f.check(t, data, at)
	f.check(t, data[100:5000], at+100)
	p := make([]byte, len(data))
	if !f.TryReadAt(p, at) || !bytes.Equal(p, data) {
		t.Error("TryReadAt does not give what is cached")
	}
	if got := f.storage.readRequests(); got != asked {
		t.Errorf("storage was asked for what is cached")
	}
	f.write(t, []byte{7}, at+pageSize+9)
	data[pageSize+9] = 7
	if f.TryReadAt(p, at) {
		t.Error("what was written is still cached")
	}
	f.check(t, data, at)
	want := cleancache.Counters{SuccGets: 3 + 2 + 3 + 1 + 2, FailedGets: 3 + 1, Puts: 3 + 1, Invalidates: 3 + 1}
	if got := f.Stats().Cache.Counters; got != want {
		t.Errorf("counters are %+v, want %+v", got, want)
	}
}

// TestMerge: pages that are cached between pages that are not do not make storage be
// asked for each.
func TestMerge(t *testing.T) {
	f := newFixture(t, 256, false)
	whole := make([]byte, 256*pageSize)
	for page := range 256 {
		backendtest.FillMixed(whole[page*pageSize:][:pageSize], uint64(page))
	}
	f.write(t, whole, 0)
	for page := int64(0); page < 100; page += 2 {
		f.check(t, whole[page*pageSize:][:pageSize], page*pageSize)
	}
	f.check(t, whole[150*pageSize:][:80*pageSize], 150*pageSize)
	before := f.storage.readRequests()
	f.check(t, whole, 0)
	if n := f.storage.readRequests() - before; n != 2 {
		t.Errorf("storage was asked %d times, want once before and once behind the 80 pages", n)
	}
	before = f.storage.readRequests()
	f.check(t, whole, 0)
	if n := f.storage.readRequests() - before; n != 0 {
		t.Errorf("storage was asked %d times for what is cached", n)
	}
}

func TestZeroAndTrim(t *testing.T) {
	for _, noPunch := range []bool{false, true} {
		f := newFixture(t, 600, false)
		f.storage.noPunch = noPunch
		mirror := make([]byte, 600*pageSize)
		for page := range 600 {
			backendtest.FillMixed(mirror[page*pageSize:][:pageSize], uint64(page))
		}
		f.write(t, mirror, 0)
		f.check(t, mirror, 0)
		for _, test := range []struct{ off, length int64 }{
			{512, 1024}, {5000, 20000}, {pageSize, pageSize}, {250 * pageSize, 300 * pageSize}, {100*pageSize + 4095, 2}, {9, 0},
		} {
			for _, punch := range []bool{false, true} {
				if err := f.WriteZeroes(test.off, test.length, punch); err != nil {
					t.Fatal(err)
				}
				clear(mirror[test.off:][:test.length])
				f.check(t, mirror, 0)
			}
		}
		f.write(t, backendtest.Mixed(5), 7*pageSize)
		copy(mirror[7*pageSize:], backendtest.Mixed(5))
		f.check(t, mirror, 0)
		if err := f.Trim(7*pageSize-100, 2*pageSize+99); err != nil { // page 7 is the only whole one
			t.Fatal(err)
		}
		if !noPunch {
			clear(mirror[7*pageSize:][:pageSize])
		}
		f.check(t, mirror, 0)
	}
}

func TestPrefetch(t *testing.T) {
	f := newFixture(t, 300, false)
	data := make([]byte, 300*pageSize)
	for page := range 300 {
		backendtest.FillMixed(data[page*pageSize:][:pageSize], uint64(page))
	}
	f.write(t, data, 0)
	f.check(t, data[20*pageSize:][:pageSize], 20*pageSize)
	if err := f.Prefetch(pageSize-1, 270*pageSize); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 271*pageSize)
	if !f.TryReadAt(p, 0) || !bytes.Equal(p, data[:len(p)]) {
		t.Error("what was prefetched is not cached")
	}
	if f.TryReadAt(p[:pageSize], 271*pageSize) {
		t.Error("more was prefetched than asked for")
	}
	before := f.storage.readRequests()
	if err := f.Prefetch(0, 271*pageSize); err != nil || f.storage.readRequests() != before {
		t.Errorf("storage was asked for what is cached: %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	f := newFixture(t, 10, true)
	f.check(t, make([]byte, 10*pageSize), 0)
	for name, do := range map[string]func() error{
		"write":  func() error { _, err := f.WriteAt(make([]byte, 512), 0); return err },
		"trim":   func() error { return f.Trim(0, pageSize) },
		"zeroes": func() error { return f.WriteZeroes(0, pageSize, true) },
	} {
		if err := do(); !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v, want EPERM", name, err)
		}
	}
	if err := f.Sync(); err != nil || f.storage.syncs != 0 || len(f.storage.pending) != 0 {
		t.Errorf("storage was synced %d times, %d pages changed: %v", f.storage.syncs, len(f.storage.pending), err)
	}
}

func TestRange(t *testing.T) {
	f := newFixture(t, 10, false)
	const size = 10 * pageSize
	p := make([]byte, pageSize)
	if n, err := f.ReadAt(p, size); n != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	for _, off := range []int64{-1, size - 1, size + 1, 1<<63 - 1} {
		_, r := f.ReadAt(p, off)
		_, w := f.WriteAt(p, off)
		for name, err := range map[string]error{
			"read": r, "write": w, "trim": f.Trim(off, pageSize), "zeroes": f.WriteZeroes(off, pageSize, true),
			"prefetch": f.Prefetch(off, pageSize), "extents": f.Extents(off, pageSize, nil),
		} {
			if !errors.Is(err, unix.EINVAL) {
				t.Errorf("%s at %d: %v, want EINVAL", name, off, err)
			}
		}
		if f.TryReadAt(p, off) {
			t.Errorf("TryReadAt at %d succeeds", off)
		}
	}
	if n := f.TryWriteAt(p, 0); n != 0 {
		t.Errorf("TryWriteAt stored %d bytes", n)
	}
	_ = f.Extents(100, 5000, func(length int64, hole bool, owner uint32) bool {
		if length != 5000 || hole || owner != 1 {
			t.Errorf("an extent of %d, a hole: %v, of %d", length, hole, owner)
		}
		return true
	})
}

// TestWriteFails: after a write that failed, reads give what storage has.
func TestWriteFails(t *testing.T) {
	f := newFixture(t, 10, false)
	f.write(t, backendtest.Mixed(1), 0)
	f.check(t, backendtest.Mixed(1), 0)
	failure := errors.New("no such luck")
	f.storage.onWrite = func(uint64) error { return failure }
	for _, p := range [][]byte{backendtest.Mixed(2), {1, 2, 3}} {
		if _, err := f.WriteAt(p, 0); !errors.Is(err, failure) {
			t.Errorf("WriteAt: %v", err)
		}
		if f.TryReadAt(make([]byte, pageSize), 0) {
			t.Error("D4: a page is cached after a write that failed")
		}
		f.check(t, backendtest.Mixed(1), 0)
	}
	f.storage.onWrite = nil
}

// TestHitAllocates: a hit served in place, and a miss, allocate nothing.
func TestHitAllocates(t *testing.T) {
	b, err := zcache.New(zcache.Config{Limit: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	c := cleancache.New(quiet())
	c.Follow([]backends.Named{{Name: "zcache", Backend: b}})
	d := open(t, c, newVolatile(1000), false)
	p := backendtest.Page(backendtest.Structured, 1)
	for page := range int64(1000) {
		if _, err := d.WriteAt(p, page*pageSize); err != nil {
			t.Fatal(err)
		}
	}
	d.own.storage.(*volatile).onRead = nil
	page := int64(0)
	n := testing.AllocsPerRun(400, func() {
		off := page * pageSize
		page++
		if d.TryReadAt(p, off) {
			t.Error("a hit before the read")
		}
		if _, err := d.ReadAt(p, off); err != nil {
			t.Error(err)
		}
		if !d.TryReadAt(p, off) {
			t.Error("a miss after the read")
		}
		if _, err := d.ReadAt(p[:512], off+512); err != nil {
			t.Error(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	c.Leave(b)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// TestImage is a device on a file: what is written is there, what is read only stays.
func TestImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	content := bytes.Repeat(backendtest.Mixed(3), 10)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	c := cleancache.New(quiet())
	image, err := tier.OpenImage(path, false)
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, c, image, false)
	if _, err := tier.OpenImage(path, true); !errors.Is(err, tier.ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	if _, err := d.WriteAt([]byte("hello"), 5000); err != nil {
		t.Fatal(err)
	}
	copy(content[5000:], "hello")
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		t.Fatal(err)
	}
	one, err := tier.OpenImage(path, true)
	if err != nil {
		t.Fatal(err)
	}
	other, err := tier.OpenImage(path, true)
	if err != nil {
		t.Fatalf("read only twice: %v", err)
	}
	if _, err := tier.OpenImage(path, false); !errors.Is(err, tier.ErrInUse) {
		t.Errorf("written while it is read only for another: %v", err)
	}
	d = open(t, c, one, true)
	got := make([]byte, len(content))
	if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the image has other bytes: %v", err)
	}
	if err := errors.Join(d.Close(), other.Close()); err != nil {
		t.Error(err)
	}
	for name, size := range map[string]int64{"empty": 0, "odd": pageSize + 512} {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		if s, err := tier.OpenImage(path, true); err == nil {
			t.Errorf("%s: opened with %d pages", name, s.Pages())
		}
	}
	if _, err := tier.OpenImage(path+"2", false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}
