package cleancache

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newPoolOf(t *testing.T, c *Cleancache, id uint32, pages uint64) *Pool {
	t.Helper()
	p, err := c.InitFS(FSConfig{Name: "disk", ID: id, Pages: pages})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newMap makes a backend that reports what breaks the contract.
func newMap(t testing.TB, m *backendtest.Map) *backendtest.Map {
	t.Cleanup(func() {
		if err := m.Misuse(); err != nil {
			t.Errorf("misuse of a backend: %v", err)
		}
	})
	return m
}

func follow(c *Cleancache, active ...backends.Backend) {
	var named []backends.Named
	for _, b := range active {
		named = append(named, backends.Named{Name: b.Kind(), Backend: b})
	}
	c.Follow(named)
}

// unload is what frontswap does with a backend in the end.
func unload(t testing.TB, c *Cleancache, b backends.Backend, left ...backends.Backend) {
	t.Helper()
	follow(c, left...)
	c.Leave(b)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func end(t testing.TB, p *Pool) {
	t.Helper()
	if err := p.InvalidateFS(); err != nil {
		t.Error(err)
	}
}

func put(p *Pool, page, seed uint64) {
	p.RLock(page)
	defer p.RUnlock(page)
	p.PutPage(page, backendtest.Mixed(seed))
}

func invalidate(p *Pool, page uint64) {
	p.Lock(page)
	defer p.Unlock(page)
	p.InvalidatePage(page)
}

// get says whether it is a hit, and checks what comes.
func get(t testing.TB, p *Pool, page, seed uint64) bool {
	t.Helper()
	dst := make([]byte, backends.PageSize)
	p.RLock(page)
	defer p.RUnlock(page)
	if !p.GetPage(page, dst) {
		return false
	}
	if !bytes.Equal(dst, backendtest.Mixed(seed)) {
		t.Fatalf("page %d has other bytes", page)
	}
	return true
}

// TestLazyInit: disks are served before any backend is there, and one that comes back
// comes back empty.
func TestLazyInit(t *testing.T) {
	c := New(quiet())
	p := newPoolOf(t, c, 1, 100)
	put(p, 5, 5)
	if get(t, p, 5, 5) {
		t.Fatal("a hit without a backend")
	}
	invalidate(p, 5)
	a := newMap(t, &backendtest.Map{Name: "a"})
	follow(c, a)
	if get(t, p, 5, 5) {
		t.Fatal("what was put before the backend came is there")
	}
	put(p, 5, 5)
	if !get(t, p, 5, 5) {
		t.Fatal("a miss after a put")
	}
	later := newPoolOf(t, c, 2, 100)
	put(later, 5, 6)
	if !get(t, later, 5, 6) || !get(t, p, 5, 5) {
		t.Fatal("two disks are in each other's way")
	}
	unload(t, c, a)
	if get(t, p, 5, 5) || get(t, later, 5, 6) {
		t.Fatal("a hit after the backend was unloaded")
	}
	again := newMap(t, &backendtest.Map{Name: "a"})
	follow(c, again)
	if get(t, p, 5, 5) {
		t.Fatal("a backend that came back has pages")
	}
	want := Counters{SuccGets: 2, FailedGets: 4, Puts: 2, Invalidates: 1}
	if got := p.Stats().Counters; got != want {
		t.Errorf("counters are %+v, want %+v", got, want)
	}
	end(t, p)
	end(t, later)
	unload(t, c, again)
}

// TestReplaceAndFreeze: a frozen backend serves what it has and gets nothing; one that
// is replaced serves until it leaves.
func TestReplaceAndFreeze(t *testing.T) {
	c := New(quiet())
	p := newPoolOf(t, c, 1, 100)
	a, b := newMap(t, &backendtest.Map{Name: "a"}), newMap(t, &backendtest.Map{Name: "b"})
	follow(c, a)
	put(p, 1, 1)
	follow(c) // frozen
	put(p, 2, 2)
	if !get(t, p, 1, 1) || get(t, p, 2, 2) {
		t.Error("a frozen backend does not serve, or takes pages")
	}
	follow(c, b) // being replaced
	put(p, 3, 3)
	if got := p.Stats().Backends; got["a"] != 1 || got["b"] != 1 {
		t.Errorf("backends have %v, want a page each", got)
	}
	unload(t, c, a, b)
	if get(t, p, 1, 1) || !get(t, p, 3, 3) {
		t.Error("a page of a backend that left, or none of the one that came")
	}
	end(t, p)
	unload(t, c, b)
}

// TestOrder: the next backend is asked for what one refuses.
func TestOrder(t *testing.T) {
	c := New(quiet())
	p := newPoolOf(t, c, 1, 100)
	a := newMap(t, &backendtest.Map{Name: "a", OnStore: func(key backends.Key, _ []byte) (backends.Refusal, error) {
		if key.Page%2 == 0 {
			return backends.RefusedOnce, nil
		}
		return backends.Accepted, nil
	}})
	b := newMap(t, &backendtest.Map{Name: "b", Limit: 3})
	follow(c, a, b)
	for page := range uint64(20) {
		put(p, page, page)
	}
	if got := p.Stats().Backends; got["a"] != 10 || len(b.Keys()) != 3 {
		t.Errorf("backends have %v, and b %d, want 10 and 3", got, len(b.Keys()))
	}
	hits := 0
	for page := range uint64(20) {
		if get(t, p, page, page) {
			hits++
		}
	}
	if hits != 13 {
		t.Errorf("%d hits, want 13", hits)
	}
	end(t, p)
	unload(t, c, a, b)
	unload(t, c, b)
}

// TestModes: an exclusive hit takes the page away, an inclusive one does not.
func TestModes(t *testing.T) {
	c := New(quiet())
	p := newPoolOf(t, c, 1, 100)
	b := newMap(t, &backendtest.Map{})
	follow(c, b)
	dst := make([]byte, backends.PageSize)
	for _, mode := range []Mode{Inclusive, Exclusive, Inclusive} {
		p.SetMode(mode)
		stays := mode == Inclusive
		put(p, 1, 1)
		if !get(t, p, 1, 1) || get(t, p, 1, 1) != stays {
			t.Errorf("%v: the second get is %v", mode, !stays)
		}
		put(p, 2, 2)
		p.RLock(2)
		for range 2 {
			if !p.TryGetPage(2, dst) {
				t.Errorf("%v: TryGetPage takes the page away", mode)
			}
		}
		p.RUnlock(2)
		p.GotPages(2, 1)
		if get(t, p, 2, 2) != stays {
			t.Errorf("%v: after GotPages a get is %v", mode, !stays)
		}
		if got, err := ParseMode(mode.String()); got != mode || err != nil {
			t.Errorf("ParseMode(%v) = %v, %v", mode, got, err)
		}
	}
	if _, err := ParseMode("both"); err == nil {
		t.Error("a mode that there is not was parsed")
	}
	end(t, p)
	unload(t, c, b)
}

// TestInvalidate: a range goes, its neighbours stay, whatever part of the index was
// never used.
func TestInvalidate(t *testing.T) {
	const pages = 1 << 22
	c := New(quiet())
	p := newPoolOf(t, c, 1, pages)
	b := newMap(t, &backendtest.Map{})
	follow(c, b)
	there := []uint64{0, 1, 511, 512, 513, 32767, 32768, 40000, 1 << 20, pages - 1}
	for _, page := range there {
		put(p, page, page)
	}
	p.InvalidateInode(1, 513)
	p.InvalidateInode(32768, 1<<20)
	for _, page := range there {
		want := page == 0 || page == 513 || page == 32767 || page >= 1<<20
		if get(t, p, page, page) != want {
			t.Errorf("page %d: a hit is %v", page, !want)
		}
	}
	if n := p.Stats().Invalidates; n != 0 {
		t.Errorf("a range counts as %d invalidates", n)
	}
	if used := p.Stats().Memory.Resident; used > 10*systemPage {
		t.Errorf("the index takes %d bytes for %d pages", used, len(there))
	}
	end(t, p)
	if n := len(b.Keys()); n != 0 {
		t.Errorf("%d pages are left", n)
	}
	unload(t, c, b)
}

// TestBackendErrs: whatever a backend fails with is a miss; only one that is broken
// gets no more pages, until it was away.
func TestBackendErrs(t *testing.T) {
	failure := errors.New("broken")
	for name, test := range map[string]struct {
		err   error
		again bool
	}{
		"forgotten": {backends.ErrGone, true},
		"damaged":   {backends.ErrCorrupt, true},
		"away":      {backends.ErrTransient, true},
		"broken":    {failure, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := New(quiet())
			p := newPoolOf(t, c, 1, 100)
			fails := false
			b := newMap(t, &backendtest.Map{OnLoad: func(backends.Key, backends.Handle, []byte) error {
				if fails {
					return test.err
				}
				return nil
			}})
			follow(c, b)
			put(p, 1, 1)
			fails = true
			if get(t, p, 1, 1) {
				t.Error("a failed load is a hit")
			}
			fails = false
			if get(t, p, 1, 1) {
				t.Error("C4: after a miss there is a hit without a put")
			}
			put(p, 1, 1)
			if get(t, p, 1, 1) != test.again {
				t.Errorf("it gets pages: %v", !test.again)
			}
			follow(c)
			follow(c, b)
			put(p, 2, 2)
			if !get(t, p, 2, 2) {
				t.Error("after a thaw it gets no pages")
			}
			end(t, p)
			unload(t, c, b)
		})
	}
	t.Run("store", func(t *testing.T) {
		c := New(quiet())
		p := newPoolOf(t, c, 1, 100)
		b := newMap(t, &backendtest.Map{OnStore: func(backends.Key, []byte) (backends.Refusal, error) { return 0, failure }})
		follow(c, b)
		put(p, 1, 1)
		if get(t, p, 1, 1) || len(*c.active.Load()) != 0 {
			t.Error("a backend that cannot store is asked on")
		}
		end(t, p)
		unload(t, c, b)
	})
	t.Run("init", func(t *testing.T) {
		c := New(quiet())
		b := newMap(t, &backendtest.Map{OnInit: func(e backends.Export) error {
			if !e.Ephemeral || e.Host == nil {
				t.Errorf("initialised as %+v", e)
			}
			return failure
		}})
		follow(c, b)
		p := newPoolOf(t, c, 1, 100)
		put(p, 1, 1)
		if get(t, p, 1, 1) {
			t.Error("a hit in a backend that refused the disk")
		}
		end(t, p)
		unload(t, c, b)
	})
}

func TestInitFSFails(t *testing.T) {
	c := New(quiet())
	p := newPoolOf(t, c, 1, 100)
	for name, config := range map[string]FSConfig{
		"taken":    {Name: "b", ID: 1, Pages: 10},
		"empty":    {Name: "b", ID: 2},
		"too long": {Name: "b", ID: 2, Pages: backends.MaxPages + 1},
	} {
		if _, err := c.InitFS(config); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	end(t, p)
}

func TestShared(t *testing.T) {
	c := New(quiet())
	b := newMap(t, &backendtest.Map{})
	follow(c, b)
	id, err := ParseUUID("01234567-89ab-cdef-FEDC-BA9876543210")
	if err != nil {
		t.Fatal(err)
	}
	config := FSConfig{Name: "base", ID: 1, Pages: 100}
	if _, err := c.InitSharedFS(id, config); !errors.Is(err, ErrNotAuthorised) {
		t.Fatalf("a name that was not authorised: %v", err)
	}
	c.Authorise(id)
	one, err := c.InitSharedFS(id, config)
	if err != nil {
		t.Fatal(err)
	}
	other, err := c.InitSharedFS(id, FSConfig{Name: "clone", ID: 2, Pages: 100})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.InitSharedFS(id, FSConfig{Name: "longer", ID: 3, Pages: 101}); err == nil {
		t.Error("a disk of another size shares pages")
	}
	put(one, 7, 7)
	put(other, 7, 7)
	if !get(t, other, 7, 7) || len(b.Keys()) != 1 {
		t.Errorf("the page is there %d times", len(b.Keys()))
	}
	if users := one.Stats().Users; users != 2 {
		t.Errorf("%d users", users)
	}
	end(t, one)
	if !get(t, other, 7, 7) {
		t.Error("the pages went with the first user")
	}
	end(t, other)
	if len(b.Keys()) != 0 {
		t.Error("pages are left behind the last user")
	}
	again, err := c.InitSharedFS(id, config)
	if err != nil || get(t, again, 7, 7) {
		t.Errorf("opened anew it has pages, or fails: %v", err)
	}
	end(t, again)
	unload(t, c, b)
}

func TestParseUUID(t *testing.T) {
	for _, text := range []string{"0123456789abcdefFEDCBA9876543210", "01234567-89AB-CDEF-fedc-ba9876543210"} {
		id, err := ParseUUID(text)
		if err != nil || id.String() != "01234567-89ab-cdef-fedc-ba9876543210" {
			t.Errorf("ParseUUID(%q) = %v, %v", text, id, err)
		}
	}
	for _, text := range []string{"", "0123456789abcdeffedcba987654321", "0123456789abcdeffedcba98765432100", "g123456789abcdeffedcba9876543210",
		"0123-456789abcdeffedcba987654-3210-00", "012345678-9ab-cdef-fedc-ba9876543210"} {
		if id, err := ParseUUID(text); err == nil || id != (UUID{}) {
			t.Errorf("ParseUUID(%q) = %v, %v", text, id, err)
		}
	}
}
