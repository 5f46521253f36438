package tier

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/backendtest"
)

// memoryStorage is storage in a byte slice, without a lock: the race detector
// finds any two operations on a page that T4 forbids. Faults are drawn from a
// counter, so that a seed gives the same faults for the same operations.
type memoryStorage struct {
	data    []byte // of the most pages that it will have
	pages   atomic.Uint64
	device  bool // like a block device: what Resize gains has what was there
	syncs   atomic.Int64
	noPunch bool
	fault   func(op string, first, n uint64) error // may be nil; called first
}

func newMemoryStorage(pages uint64) *memoryStorage {
	return newResizableStorage(pages, pages)
}

// newResizableStorage is storage that can be resized to up to most pages.
func newResizableStorage(pages, most uint64) *memoryStorage {
	m := &memoryStorage{data: make([]byte, most*pageSize)}
	m.pages.Store(pages)
	return m
}

// Resize puts garbage where a device has something of its own, or of long ago.
func (m *memoryStorage) Resize(pages uint64) (bool, error) {
	if err := m.check("resize", pages, 0); err != nil {
		return false, err
	}
	if pages > uint64(len(m.data)/pageSize) {
		return false, ErrTooSmall
	}
	beyond := m.data[min(pages, m.Pages())*pageSize : max(pages, m.Pages())*pageSize]
	for i := range beyond {
		beyond[i] = 0
		if m.device {
			beyond[i] = 0xdd
		}
	}
	m.pages.Store(pages)
	return !m.device, nil
}

func (m *memoryStorage) check(op string, first, n uint64) error {
	if m.fault != nil {
		return m.fault(op, first, n)
	}
	return nil
}

func (m *memoryStorage) Pages() uint64 { return m.pages.Load() }

func (m *memoryStorage) ReadPages(first uint64, p []byte) error {
	if err := m.check("read", first, uint64(len(p)/pageSize)); err != nil {
		return err
	}
	copy(p, m.data[first*pageSize:])
	return nil
}

func (m *memoryStorage) WritePages(first uint64, p []byte) error {
	if err := m.check("write", first, uint64(len(p)/pageSize)); err != nil {
		return err
	}
	copy(m.data[first*pageSize:], p)
	return nil
}

func (m *memoryStorage) PunchPages(first, n uint64) error {
	if m.noPunch {
		return ErrNoPunch
	}
	if err := m.check("punch", first, n); err != nil {
		return err
	}
	clear(m.data[first*pageSize : (first+n)*pageSize])
	return nil
}

func (m *memoryStorage) Sync() error         { m.syncs.Add(1); return m.check("sync", 0, 0) }
func (m *memoryStorage) Stats() StorageStats { return StorageStats{Path: "memory"} }
func (m *memoryStorage) Close() error        { return nil }

func TestFileRoundTrip(t *testing.T) {
	for _, aligned := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "storage")
		s, err := OpenFile(path, 100*pageSize)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, 70*pageSize)
		for i := range 70 {
			backendtest.FillMixed(want[i*pageSize:][:pageSize], uint64(i)+1)
		}
		if err := s.WritePages(7, placed(want, aligned)); err != nil {
			t.Fatal(err)
		}
		got := placed(make([]byte, 90*pageSize), aligned)
		if err := s.ReadPages(0, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[7*pageSize:77*pageSize], want) || !bytes.Equal(got[:7*pageSize], make([]byte, 7*pageSize)) {
			t.Errorf("aligned %v: what is read is not what was written", aligned)
		}
		before := s.Stats()
		if err := s.PunchPages(10, 60); err != nil {
			t.Fatal(err)
		}
		if err := s.ReadPages(0, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[10*pageSize:70*pageSize], make([]byte, 60*pageSize)) || !bytes.Equal(got[7*pageSize:10*pageSize], want[:3*pageSize]) {
			t.Errorf("aligned %v: a punched page is not zero, or a neighbour is", aligned)
		}
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		after := s.Stats()
		if after.AllocatedSize > before.AllocatedSize-60*pageSize {
			t.Errorf("punching 60 pages left %d of %d bytes allocated", after.AllocatedSize, before.AllocatedSize)
		}
		if after.PagesWritten != 70 || after.PagesRead != 180 || after.PagesPunched != 60 {
			t.Errorf("counted %+v", after)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		// Opened again, longer: the content is still there.
		if s, err = OpenFile(path, 200*pageSize); err != nil {
			t.Fatal(err)
		}
		if err := s.ReadPages(7, got[:pageSize]); err != nil || !bytes.Equal(got[:pageSize], want[:pageSize]) {
			t.Errorf("opened again: %v, or other content", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// placed copies p to memory that is, or is not, aligned to pages.
func placed(p []byte, aligned bool) []byte {
	room := make([]byte, len(p)+2*pageSize)
	start := int(-uintptr(unsafe.Pointer(&room[0])) % pageSize)
	if !aligned {
		start += 28 // where a request's payload lies
	}
	copy(room[start:], p)
	return room[start:][:len(p):len(p)]
}

func TestOpenFileRefuses(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, make([]byte, 3*pageSize), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, path string
		size       int64
		want       string
	}{
		{"size of zero", filepath.Join(dir, "a"), 0, "not a positive multiple of 4096"},
		{"odd size", filepath.Join(dir, "a"), 5000, "not a positive multiple of 4096"},
		{"no folder", filepath.Join(dir, "none", "a"), pageSize, "no such file or directory"},
		{"a folder", dir, pageSize, "is a directory"},
		{"longer file", long, pageSize, "the file has 12288 bytes, more than the 4096"},
		{"character device", "/dev/null", pageSize, "neither a file nor a block device"},
	}
	for _, c := range cases {
		s, err := OpenFile(c.path, c.size)
		if err == nil {
			s.Close()
			t.Errorf("%s: opened", c.name)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %q, want %q in it", c.name, err, c.want)
		}
	}
	if st, err := os.Stat(long); err != nil || st.Size() != 3*pageSize {
		t.Error("a refused file was changed")
	}
}

// TestFileErrorsKeepTheirErrno: what storage says reaches the client as its errno.
func TestFileErrorsKeepTheirErrno(t *testing.T) {
	s, err := OpenFile(filepath.Join(t.TempDir(), "storage"), 10*pageSize)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	err = s.WritePages(0, make([]byte, pageSize))
	if !errors.Is(err, os.ErrClosed) || s.Stats().WriteErrors != 1 {
		t.Errorf("write to closed storage: %v, %d errors counted", err, s.Stats().WriteErrors)
	}
	var errno unix.Errno
	full := newMemoryStorage(1)
	full.fault = func(string, uint64, uint64) error { return unix.ENOSPC }
	d := openDevice(t, full, newFrontswap())
	if _, err := d.WriteAt([]byte("x"), 0); !errors.As(err, &errno) || errno != unix.ENOSPC {
		t.Errorf("write to full storage: got %v", err)
	}
}
