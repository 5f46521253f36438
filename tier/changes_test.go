package tier

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/frontswap"
)

// copyMarked copies every marked page to shadow, and returns how many.
func copyMarked(t *testing.T, l *Changes, shadow []byte) (copied uint64) {
	t.Helper()
	p := make([]byte, WordPages*pageSize)
	for first := uint64(0); first < l.Pages(); first += WordPages {
		marks := l.Take(first)
		for page := first; page < min(first+WordPages, l.Pages()); {
			if marks>>(page-first)&1 == 0 {
				page++
				continue
			}
			n, hole, err := l.Read(page, page+1, p)
			if err != nil || n != 1 {
				t.Errorf("read page %d: %d pages, %v", page, n, err)
				return copied
			}
			if hole {
				clear(p[:pageSize])
			}
			copy(shadow[page*pageSize:], p[:pageSize])
			page++
			copied++
		}
	}
	return copied
}

// TestChanges: a copy is made while clients write, trim and write parts of pages, and pages
// move between backends and storage. When they are held back and the rest is copied, it is
// the device, byte for byte.
func TestChanges(t *testing.T) {
	const pages, writers = 3*frontswap.BlockPages + 17, 4
	f := newFrontswap()
	d := openDevice(t, newMemoryStorage(pages), f)
	register(t, f, "b", &backendtest.Map{Limit: pages / 2})
	var clients sync.WaitGroup
	for w := range uint64(writers) {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(w, 5))
			p := make([]byte, 4*pageSize)
			for n := uint64(1); ; n++ {
				off := random.Int64N(pages-4) * pageSize
				length := (1 + random.Int64N(4)) * pageSize
				for i := int64(0); i < length; i += pageSize {
					backendtest.FillMixed(p[i:i+pageSize], n*writers+w)
				}
				var err error
				switch random.IntN(6) {
				case 0:
					err = d.Trim(off, length)
				case 1:
					binary.LittleEndian.PutUint64(p, n)
					_, err = d.WriteAt(p[:700], off+11)
				case 2:
					err = d.WriteZeroes(off+5, length, true)
				case 3:
					_, err = d.ReadAt(p[:length], off)
				default:
					n := d.TryWriteAt(p[:length], off)
					_, err = d.WriteAt(p[n:length], off+int64(n))
				}
				if errors.Is(err, ErrMoved) && errors.Is(err, unix.ESHUTDOWN) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	mover := make(chan struct{})
	var moving sync.WaitGroup
	moving.Go(func() {
		for {
			select {
			case <-mover:
				return
			default:
			}
			if _, err := f.Shrink(t.Context(), "b", 50); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for try := range 3 {
		l, err := d.LogChanges()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.LogChanges(); !errors.Is(err, ErrLogged) {
			t.Errorf("a second log: %v", err)
		}
		shadow := bytes.Repeat([]byte{0xa5}, pages*pageSize)
		if n := copyMarked(t, l, shadow); n != pages {
			t.Errorf("%d pages copied at first of %d", n, pages)
		}
		for range 5 {
			copyMarked(t, l, shadow)
		}
		l.Hold()
		copyMarked(t, l, shadow)
		if l.Left() != 0 {
			t.Errorf("%d pages changed although requests are held back", l.Left())
		}
		now := make([]byte, pages*pageSize)
		l.mark(0, pages)
		copyMarked(t, l, now)
		if at := firstDifference(now, shadow); at >= 0 {
			t.Fatalf("the copy differs in page %d", at/pageSize)
		}
		if d.TryReadAt(now[:pageSize], 0) || d.TryWriteAt(now[:pageSize], 0) != 0 {
			t.Error("a request was carried out that had to wait")
		}
		if try < 2 {
			l.Release()
			l.Stop()
			continue
		}
		l.Leave()
	}
	clients.Wait()
	close(mover)
	moving.Wait()
	for name, err := range map[string]error{
		"read": second(d.ReadAt(make([]byte, pageSize), 0)), "part": second(d.ReadAt(make([]byte, 10), 3)),
		"write": second(d.WriteAt(make([]byte, pageSize), 0)), "part of a write": second(d.WriteAt(make([]byte, 10), 3)),
		"zeroes": d.WriteZeroes(3, 10, false),
	} {
		if !errors.Is(err, ErrMoved) {
			t.Errorf("%s on a device that moved: %v", name, err)
		}
	}
}

func second(_ int, err error) error { return err }

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// TestChangeStoppedInTheMiddle: a write is stopped while its page is locked, where the page
// is marked and its word is not changed yet, or before there is a log. A copy that begins
// then has what was written, and Hold does not return before.
func TestChangeStoppedInTheMiddle(t *testing.T) {
	for _, where := range []string{"in a backend", "in storage"} {
		for _, when := range []string{"log first", "write first", "hold"} {
			t.Run(where+", "+when, func(t *testing.T) {
				reached, let := make(chan struct{}), make(chan struct{})
				stop := func() {
					close(reached)
					<-let
				}
				f := newFrontswap()
				memory := newMemoryStorage(64)
				var s Storage = memory
				if where == "in storage" {
					s = &watched{Storage: memory, before: stop}
				} else {
					register(t, f, "b", &backendtest.Map{OnStore: func(backends.Key, []byte) (backends.Refusal, error) {
						stop()
						return backends.Accepted, nil
					}})
				}
				d, err := Open(Config{Name: "swap", ID: 1, Storage: s, Empty: true, Frontswap: f, Log: quiet()})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := d.Close(); err != nil {
						t.Error(err)
					}
				})
				var l *Changes
				log := func() {
					if l, err = d.LogChanges(); err != nil {
						t.Fatal(err)
					}
				}
				if when != "write first" {
					log()
					l.Take(0)
				}
				want := backendtest.Page(backendtest.Structured, 3)
				written := make(chan error, 1)
				go func() {
					_, err := d.WriteAt(want, 5*pageSize)
					written <- err
				}()
				<-reached
				if when == "write first" {
					log()
				}
				if l.Take(0)&(1<<5) == 0 && when != "write first" {
					t.Error("the page is not marked while it is being written")
				}
				done := make(chan error, 1)
				got := make([]byte, pageSize)
				go func() {
					if when == "hold" {
						l.Hold()
					}
					n, hole, err := l.Read(5, 6, got)
					if err == nil && (hole || n != 1) {
						err = errors.New("it is a hole")
					}
					done <- err
				}()
				select {
				case <-done:
					t.Error("the page was read while it was being written")
				case <-time.After(20 * time.Millisecond): // only a wrong copy is quicker
				}
				close(let)
				if err := <-done; err != nil || !bytes.Equal(got, want) {
					t.Errorf("the copy is not what was written: %v", err)
				}
				if when == "hold" {
					l.Release()
				}
				if err := <-written; err != nil {
					t.Error(err)
				}
				l.Stop()
			})
		}
	}
}

// TestLoggedRequestsDoNotAllocate: while a device is copied, too.
func TestLoggedRequestsDoNotAllocate(t *testing.T) {
	d := openDevice(t, newMemoryStorage(600), newFrontswap())
	l, err := d.LogChanges()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Stop()
	p := make([]byte, 40*pageSize)
	for name, request := range map[string]func(){
		"write": func() { d.WriteAt(p, 3*pageSize) },
		"part":  func() { d.WriteAt(p[:700], 5) },
		"trim":  func() { d.Trim(300*pageSize, 100*pageSize) },
		"take":  func() { l.Take(0) },
	} {
		if n := testing.AllocsPerRun(200, request); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
