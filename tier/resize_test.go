package tier

import (
	"bytes"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/backendtest"
)

// TestResize grows and shrinks a device with storage of each sort: what it
// gains reads as zeros, whatever was there before.
func TestResize(t *testing.T) {
	for name, device := range map[string]bool{"file": false, "block device": true} {
		for _, empty := range []bool{true, false} {
			f := newFrontswap()
			s := newResizableStorage(300, 3000)
			s.device = device
			d, err := Open(Config{Name: "test", ID: 1, Storage: s, Empty: empty, Frontswap: f, Log: quiet()})
			if err != nil {
				t.Fatal(err)
			}
			register(t, f, "b", &backendtest.Map{Limit: 100})
			want := make([]byte, 3000*pageSize)
			put := func(first, n int, seed uint64) {
				p := pages(n, seed)
				mustWrite(t, d, p, int64(first)*pageSize)
				copy(want[first*pageSize:], p)
			}
			check := func(pages int) {
				t.Helper()
				if size, _ := d.Size(); size != int64(pages)*pageSize {
					t.Fatalf("%s, empty %v: %d bytes, want %d pages", name, empty, size, pages)
				}
				if got := mustRead(t, d, pages*pageSize, 0); !bytes.Equal(got, want[:pages*pageSize]) {
					t.Fatalf("%s, empty %v: wrong content with %d pages", name, empty, pages)
				}
				if _, err := d.ReadAt(make([]byte, pageSize), int64(pages)*pageSize+1); !errors.Is(err, unix.EINVAL) {
					t.Errorf("read beyond the end: %v", err)
				}
			}
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			put(250, 50, 1)
			must(d.Resize(2000*pageSize, false))
			check(2000)
			put(280, 300, 2) // across the old end, more than the backend takes
			check(2000)
			must(d.Resize(3000*pageSize, false))
			put(2990, 10, 3)
			check(3000)
			var content *ContentError
			if err := d.Resize(1000*pageSize, false); !errors.As(err, &content) || content.Pages < 10 {
				t.Fatalf("%s, empty %v: shrinking what has content: %v", name, empty, err)
			}
			check(3000)
			must(d.Trim(1000*pageSize, 2000*pageSize))
			clear(want[1000*pageSize:])
			must(d.Resize(1000*pageSize, false)) // nothing but holes now
			check(1000)
			must(d.Resize(3000*pageSize, false))
			check(3000)
			put(1500, 100, 4)
			must(d.Resize(500*pageSize, true))
			clear(want[500*pageSize:])
			check(500)
			must(d.Resize(3000*pageSize, true))
			check(3000)
			if _, err := f.Unregister(t.Context(), "b"); err != nil {
				t.Fatal(err)
			}
			must(d.Settle())
			if !bytes.Equal(s.data, want) {
				t.Errorf("%s, empty %v: storage is not the device in the end", name, empty)
			}
			must(d.Close())
		}
	}
}

// TestResizeFails: after an error the device is what it was.
func TestResizeFails(t *testing.T) {
	f := newFrontswap()
	s := newResizableStorage(100, 200)
	d := openDevice(t, s, f)
	want := pages(100, 1)
	mustWrite(t, d, want, 0)
	for _, size := range []int64{0, -pageSize, 5, 100*pageSize + 1} {
		if err := d.Resize(size, true); !errors.Is(err, unix.EINVAL) {
			t.Errorf("resize to %d: %v", size, err)
		}
	}
	if err := d.Resize(300*pageSize, false); !errors.Is(err, ErrTooSmall) {
		t.Errorf("more than storage has: %v", err)
	}
	s.fault = func(op string, _, _ uint64) error {
		if op == "resize" {
			return unix.EIO
		}
		return nil
	}
	if err := d.Resize(150*pageSize, false); !errors.Is(err, unix.EIO) {
		t.Errorf("grow: %v", err)
	}
	if got := mustRead(t, d, 100*pageSize, 0); !bytes.Equal(got, want) {
		t.Error("a growth that failed changed content")
	}
	if err := d.Resize(60*pageSize, true); !errors.Is(err, unix.EIO) {
		t.Errorf("shrink: %v", err)
	}
	clear(want[60*pageSize:])
	if got := mustRead(t, d, 100*pageSize, 0); !bytes.Equal(got, want) {
		t.Error("after a shrink that failed the rest is not zeros")
	}
	mustWrite(t, d, pages(1, 9), 99*pageSize)
}

// TestResizeFile is a real file: it has the length of the device.
func TestResizeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "storage")
	s, err := OpenFile(path, 300*pageSize)
	if err != nil {
		t.Fatal(err)
	}
	d := openDevice(t, s, newFrontswap())
	want := pages(300, 1)
	mustWrite(t, d, want, 0)
	for _, n := range []int{1000, 200, 400} {
		if err := d.Resize(int64(n)*pageSize, true); err != nil {
			t.Fatal(err)
		}
		size, err := s.file.Seek(0, 2)
		if err != nil || size != int64(n)*pageSize || s.Pages() != uint64(n) {
			t.Errorf("the file has %d bytes, %v; want %d pages", size, err, n)
		}
	}
	clear(want[200*pageSize:])
	if got := mustRead(t, d, 400*pageSize, 0); !bytes.Equal(got[:300*pageSize], want) || !bytes.Equal(got[300*pageSize:], make([]byte, 100*pageSize)) {
		t.Error("wrong content")
	}
}

// TestShrinkWaitsForPuncher: storage does not get shorter under a punch that is
// at work beyond the new end. The race detector watches the storage.
func TestShrinkWaitsForPuncher(t *testing.T) {
	s := newResizableStorage(600, 600)
	d := openDevice(t, s, newFrontswap())
	mustWrite(t, d, pages(600, 1), 0)
	punching, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.fault = func(op string, _, _ uint64) error {
		if op == "punch" {
			once.Do(func() { close(punching); <-goOn })
		}
		return nil
	}
	if err := d.Trim(300*pageSize, 300*pageSize); err != nil {
		t.Fatal(err)
	}
	<-punching
	done := make(chan error, 1)
	go func() { done <- d.Resize(300*pageSize, false) }()
	select {
	case err := <-done:
		t.Errorf("the device got shorter under a punch: %v", err)
		done <- err
	case <-time.After(20 * time.Millisecond): // long enough to go wrong in most runs
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
