package tier

import (
	"path/filepath"
	"testing"

	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/latency"
)

// TestLiveAndStale: what a backend took over is stale on storage, unless it is kept there on
// purpose, or nobody knows what storage has.
func TestLiveAndStale(t *testing.T) {
	s, err := OpenFile(filepath.Join(t.TempDir(), "swap.img"), 64*pageSize)
	if err != nil {
		t.Fatal(err)
	}
	f := newFrontswap()
	d, err := Open(Config{Name: "test", ID: 1, Storage: s, Empty: true, Frontswap: f, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	write := func(first, n int64) {
		t.Helper()
		mustWrite(t, d, make([]byte, n*pageSize), first*pageSize)
	}
	expect := func(live, stale int64) {
		t.Helper()
		if got := d.Stats(); got.LiveSize != live*pageSize || got.StaleSize != stale*pageSize {
			t.Errorf("%d and %d bytes, want %d and %d pages", got.LiveSize, got.StaleSize, live, stale)
		}
	}
	expect(0, 0)
	write(0, 40)
	expect(40, 0)
	register(t, f, "map", &backendtest.Map{})
	write(0, 16)
	expect(24, 16)
	write(40, 8) // storage never has these
	expect(24, 16)
	d.empty = false // nobody asked for the last 16 pages yet: storage may have them
	expect(40, 0)
	d.empty = true
	d.SetWritethrough(WritethroughSync)
	write(0, 16)
	if got := d.Stats(); got.StaleSize != 0 || got.LiveSize < 40*pageSize {
		t.Errorf("writethrough: %d and %d bytes", got.LiveSize, got.StaleSize)
	}
}

// TestStorageTimes: each operation that waits for a device is counted.
func TestStorageTimes(t *testing.T) {
	s, err := OpenFile(filepath.Join(t.TempDir(), "swap.img"), 1024*pageSize)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p := make([]byte, pageSize)
	want := uint64(0)
	for page := range uint64(1024) {
		if s.direct || latency.Sampled(page) {
			want++
		}
		if err := s.WritePages(page, p); err != nil {
			t.Fatal(err)
		}
		if err := s.ReadPages(page, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	got := s.Stats()
	if got.Reads.Count() != want || got.Writes.Count() != want || got.Syncs.Count() != 1 || want == 0 || got.Writes.Sum <= 0 {
		t.Errorf("%d reads, %d writes, %d syncs, want %d: %+v", got.Reads.Count(), got.Writes.Count(), got.Syncs.Count(), want, got)
	}
}
