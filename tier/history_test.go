package tier

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

// Tests for what went wrong in systems like this one; frontswap/INVARIANTS.md
// says where.

// TestSecondStoreTurnedAway: a backend has a page, and does not take its next
// version, for whatever reason. The old version must be gone for good: zswap
// wrote it over the new one later.
func TestSecondStoreTurnedAway(t *testing.T) {
	for name, way := range map[string]struct {
		refusal backends.Refusal
		err     error
		freeze  bool
	}{
		"refused":               {refusal: backends.RefusedPoor},
		"full":                  {refusal: backends.RefusedFull},
		"failed for the moment": {err: backends.ErrTransient},
		"failed":                {err: errInjected},
		"frozen":                {freeze: true},
	} {
		for _, then := range []string{"drain", "shrink", "writethrough", "load another"} {
			f, s := newFrontswap(), newMemoryStorage(10)
			d := openDevice(t, s, f)
			var turnAway atomic.Bool
			b := &backendtest.Map{OnStore: func(backends.Key, []byte) (backends.Refusal, error) {
				if turnAway.Load() {
					return way.refusal, way.err
				}
				return backends.Accepted, nil
			}}
			register(t, f, "b", b)
			mustWrite(t, d, pages(10, 1), 0)
			if turnAway.Store(!way.freeze); way.freeze {
				if err := f.Freeze("b", "test"); err != nil {
					t.Fatal(err)
				}
			}
			want := append(pages(10, 1)[:5*pageSize:5*pageSize], pages(1, 50)...)
			want = append(want, pages(10, 1)[6*pageSize:]...)
			mustWrite(t, d, pages(1, 50), 5*pageSize)
			turnAway.Store(false)
			if way.freeze {
				if err := f.Thaw("b"); err != nil {
					t.Fatal(err)
				}
			}
			if n := len(b.Keys()); n != 9 {
				t.Errorf("%s: the backend has %d pages, the stale one among them", name, n)
			}
			switch then {
			case "shrink":
				if _, err := f.Shrink(t.Context(), "b", 10); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			case "writethrough":
				d.SetWritethrough(WritethroughAsync)
				synced(t, d)
			case "load another":
				register(t, f, "another", &backendtest.Map{})
			}
			if got := mustRead(t, d, len(want), 0); !bytes.Equal(got, want) {
				t.Errorf("%s, then %s: wrong content", name, then)
			}
			for _, loaded := range f.Backends() {
				if _, err := f.Unregister(t.Context(), loaded.Name); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if !bytes.Equal(s.data, want) {
				t.Errorf("%s, then %s: wrong content on storage in the end", name, then)
			}
		}
	}
}

// TestReadAgain: a read that fails, and one that succeeds, leave the page where
// it is. With exclusive loads zswap lost the page of a fault that was taken twice.
func TestReadAgain(t *testing.T) {
	f := newFrontswap()
	d := openDevice(t, newMemoryStorage(10), f)
	var fail atomic.Bool
	b := &backendtest.Map{OnLoad: func(_ backends.Key, _ backends.Handle, dst []byte) error {
		if fail.CompareAndSwap(true, false) {
			copy(dst, "half of a page that could not be read")
			return backends.ErrTransient
		}
		return nil
	}}
	register(t, f, "b", b)
	want := pages(10, 1)
	mustWrite(t, d, want, 0)
	for range 3 {
		fail.Store(true)
		if _, err := d.ReadAt(make([]byte, pageSize), 3*pageSize); !errors.Is(err, backends.ErrTransient) {
			t.Errorf("a load that fails for the moment: %v", err)
		}
		for range 2 {
			if got := mustRead(t, d, len(want), 0); !bytes.Equal(got, want) {
				t.Error("wrong content")
			}
		}
	}
	if n := len(b.Keys()); n != 10 {
		t.Errorf("the backend has %d of 10 pages", n)
	}
}

// TestFirstWritesAtOnce: of several first writes of a page one is the last, and
// there is one copy. Xen made two objects, and found the wrong one later.
func TestFirstWritesAtOnce(t *testing.T) {
	f := newFrontswap()
	d := openDevice(t, newMemoryStorage(300), f)
	b := &backendtest.Map{}
	register(t, f, "b", b)
	const writers = 4
	for page := range int64(300) {
		var wg sync.WaitGroup
		for w := range uint64(writers) {
			wg.Go(func() {
				p := pages(1, 1000*w)
				if d.TryWriteAt(p, page*pageSize) == 0 {
					if _, err := d.WriteAt(p, page*pageSize); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		got, found := mustRead(t, d, pageSize, page*pageSize), false
		for w := range uint64(writers) {
			found = found || bytes.Equal(got, pages(1, 1000*w))
		}
		if !found {
			t.Fatalf("page %d is what nobody wrote", page)
		}
	}
	if n := len(b.Keys()); n != 300 {
		t.Errorf("%d copies of 300 pages", n)
	}
}

// TestCodecSwitches: pages that were written under one codec are read back under
// any other, while clients write and the codec is switched beneath them.
func TestCodecSwitches(t *testing.T) {
	f := newFrontswap()
	d := openDevice(t, newMemoryStorage(600), f)
	z, err := zcache.New(zcache.Config{Limit: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	register(t, f, "z", z)
	want := make([]byte, 600*pageSize)
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			if err := z.SetCodec([]zcache.Codec{zcache.Zstd, zcache.LZ4}[i%2]); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range uint64(3000) {
		page := int64(i * 37 % 600)
		p := pages(1, i)
		mustWrite(t, d, p, page*pageSize)
		copy(want[page*pageSize:], p)
		other := int64(i * 53 % 600)
		if got := mustRead(t, d, pageSize, other*pageSize); !bytes.Equal(got, want[other*pageSize:][:pageSize]) {
			t.Fatalf("page %d is not what was written", other)
		}
	}
	close(done)
	wg.Wait()
	if _, err := f.Unregister(t.Context(), "z"); err != nil {
		t.Fatal(err)
	}
	if got := mustRead(t, d, len(want), 0); !bytes.Equal(got, want) {
		t.Error("wrong content once the cache is unloaded")
	}
}
