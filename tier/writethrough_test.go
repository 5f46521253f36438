package tier

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

// synced waits until nothing is left to copy to storage.
func synced(t *testing.T, d *Device) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		missing := 0
		for page := range d.area.Pages() {
			d.area.RLock(page)
			if d.area.Unsynced(page) {
				missing++
			}
			d.area.RUnlock(page)
		}
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d pages are not copied to storage", missing)
		}
	}
}

func pages(n int, seed uint64) []byte {
	p := make([]byte, n*pageSize)
	for i := range n {
		backendtest.FillMixed(p[i*pageSize:][:pageSize], seed+uint64(i))
	}
	return p
}

// TestWritethroughCopies: in both modes storage gets what a backend takes, and
// an unload then needs no writes.
func TestWritethroughCopies(t *testing.T) {
	for _, mode := range []Writethrough{WritethroughAsync, WritethroughSync} {
		t.Run(mode.String(), func(t *testing.T) {
			f := newFrontswap()
			s := newMemoryStorage(600)
			d := openDevice(t, s, f)
			register(t, f, "b", &backendtest.Map{})
			want := pages(600, 1)
			mustWrite(t, d, want[:300*pageSize], 0) // before it is turned on
			d.SetWritethrough(mode)
			for page := 300; page < 600; page++ {
				if one := want[page*pageSize:][:pageSize]; d.TryWriteAt(one, int64(page)*pageSize) == 0 {
					mustWrite(t, d, one, int64(page)*pageSize)
				}
			}
			if mode == WritethroughSync && !bytes.Equal(s.data[300*pageSize:], want[300*pageSize:]) {
				t.Error("a write was answered before storage had it")
			}
			mustWrite(t, d, []byte("part"), 500*pageSize+100)
			copy(want[500*pageSize+100:], "part")
			synced(t, d)
			if !bytes.Equal(s.data, want) {
				t.Error("storage is not what backends have")
			}
			s.fault = func(op string, first, n uint64) error {
				t.Errorf("%s of %d pages at %d during an unload of synced pages", op, n, first)
				return nil
			}
			if _, err := f.Unregister(t.Context(), "b"); err != nil {
				t.Fatal(err)
			}
			s.fault = nil
			if got := mustRead(t, d, len(want), 0); !bytes.Equal(got, want) {
				t.Error("wrong content after the unload")
			}
		})
	}
}

func TestWritethroughOffLeavesStorageAlone(t *testing.T) {
	f := newFrontswap()
	s := newMemoryStorage(300)
	d := openDevice(t, s, f)
	register(t, f, "b", &backendtest.Map{})
	d.SetWritethrough(WritethroughAsync)
	mustWrite(t, d, pages(300, 1), 0)
	synced(t, d)
	d.SetWritethrough(WritethroughOff)
	s.fault = func(op string, first, n uint64) error {
		if op == "write" {
			t.Errorf("write of %d pages at %d with writethrough off", n, first)
		}
		return nil
	}
	mustWrite(t, d, pages(100, 7), 0)
	want := append(pages(100, 7), pages(300, 1)[100*pageSize:]...)
	if got := mustRead(t, d, len(want), 0); !bytes.Equal(got, want) {
		t.Error("wrong content")
	}
	s.fault = nil
}

// TestSyncedCopyStandsIn: a backend that fails is covered by storage, but only
// where storage has the newest.
func TestSyncedCopyStandsIn(t *testing.T) {
	f := newFrontswap()
	s := newMemoryStorage(10)
	d := openDevice(t, s, f)
	var broken atomic.Bool
	b := &backendtest.Map{OnLoad: func(backends.Key, backends.Handle, []byte) error {
		if broken.Load() {
			return backends.ErrCorrupt
		}
		return nil
	}}
	register(t, f, "b", b)
	d.SetWritethrough(WritethroughAsync)
	mustWrite(t, d, pages(10, 1), 0)
	synced(t, d)
	d.SetWritethrough(WritethroughOff)
	mustWrite(t, d, pages(1, 99), 3*pageSize)
	broken.Store(true)
	got := make([]byte, pageSize)
	for page := range int64(10) {
		_, err := d.ReadAt(got, page*pageSize)
		if page == 3 {
			if !errors.Is(err, backends.ErrCorrupt) {
				t.Errorf("a page that storage has an older copy of: %v", err)
			}
		} else if err != nil || !bytes.Equal(got, pages(1, 1+uint64(page))) {
			t.Errorf("page %d: %v, or wrong content", page, err)
		}
	}
	if n := d.Stats().Rescued; n != 9 {
		t.Errorf("%d pages counted as read from storage instead, want 9", n)
	}
	broken.Store(false)
}

// TestWritethroughSyncWithoutStorage: backends take what storage cannot, the
// client does not notice, and the copy follows when storage works again.
func TestWritethroughSyncWithoutStorage(t *testing.T) {
	f := newFrontswap()
	s := newMemoryStorage(10)
	d := openDevice(t, s, f)
	register(t, f, "b", &backendtest.Map{Limit: 5})
	d.SetWritethrough(WritethroughSync)
	var full atomic.Bool
	full.Store(true)
	s.fault = func(op string, _, _ uint64) error {
		if op == "write" && full.Load() {
			return unix.ENOSPC
		}
		return nil
	}
	want := pages(5, 1)
	mustWrite(t, d, want, 0)
	if _, err := d.WriteAt(pages(1, 9), 7*pageSize); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a page that nobody can take: %v", err)
	}
	full.Store(false)
	synced(t, d)
	if !bytes.Equal(s.data[:5*pageSize], want) {
		t.Error("the copy did not follow")
	}
}

func TestParseWritethrough(t *testing.T) {
	for _, mode := range []Writethrough{WritethroughOff, WritethroughAsync, WritethroughSync} {
		if got, err := ParseWritethrough(mode.String()); got != mode || err != nil {
			t.Errorf("%s: %v, %v", mode, got, err)
		}
	}
	if _, err := ParseWritethrough("on"); err == nil {
		t.Error("\"on\" was accepted")
	}
}

// TestFailedWriteOverSyncedPage: storage had a copy of a page that a backend has,
// and tore it when a later write failed. From then on it must not stand in for
// the backend, nor save a drain the work.
func TestFailedWriteOverSyncedPage(t *testing.T) {
	f := newFrontswap()
	s := newMemoryStorage(10)
	d := openDevice(t, s, f)
	var refuse, fail, broken atomic.Bool
	b := &backendtest.Map{
		OnStore: func(backends.Key, []byte) (backends.Refusal, error) {
			if refuse.Load() {
				return backends.RefusedFull, nil
			}
			return backends.Accepted, nil
		},
		OnLoad: func(backends.Key, backends.Handle, []byte) error {
			if broken.Load() {
				return backends.ErrCorrupt
			}
			return nil
		},
	}
	register(t, f, "b", b)
	d.SetWritethrough(WritethroughAsync)
	want := pages(10, 1)
	mustWrite(t, d, want, 0)
	synced(t, d)
	d.SetWritethrough(WritethroughOff)
	s.fault = func(op string, first, _ uint64) error {
		if op == "write" && fail.Load() {
			copy(s.data[first*pageSize:], "torn")
			return unix.EIO
		}
		return nil
	}
	refuse.Store(true)
	fail.Store(true)
	if _, err := d.WriteAt(pages(1, 50), 4*pageSize); !errors.Is(err, unix.EIO) {
		t.Fatalf("a write that nobody can take: %v", err)
	}
	fail.Store(false)
	if got := mustRead(t, d, len(want), 0); !bytes.Equal(got, want) {
		t.Error("the failed write changed the page")
	}
	broken.Store(true)
	if _, err := d.ReadAt(make([]byte, pageSize), 4*pageSize); !errors.Is(err, backends.ErrCorrupt) {
		t.Errorf("a page of which storage has a torn copy: %v", err)
	}
	broken.Store(false)
	if _, err := f.Unregister(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if got := mustRead(t, d, len(want), 0); !bytes.Equal(got, want) {
		t.Error("the drain left what the failed write tore")
	}
}
