package backendtest_test

import (
	"context"
	"errors"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

func TestHosted(t *testing.T) {
	backendtest.RunHosted(t, func(*testing.T) backends.Backend { return &backendtest.Map{Limit: 300} })
}

// TestHostEvicts expects second chances, and that evicted pages can be read.
func TestHostEvicts(t *testing.T) {
	m := &backendtest.Map{}
	h := &backendtest.Host{Backend: m}
	if err := h.Open(1, 8); err != nil {
		t.Fatal(err)
	}
	for page := range uint64(8) {
		if _, err := h.Write(backends.Key{Export: 1, Page: page}, backendtest.Mixed(page)); err != nil {
			t.Fatal(err)
		}
	}
	for want := uint64(8); want > 0; want -= 2 {
		if moved, err := h.Evict(context.Background(), 2); moved != 2 || err != nil {
			t.Fatalf("Evict(2): %d, %v", moved, err)
		}
		if pages := m.Stats().Pages; pages != want-2 {
			t.Fatalf("%d pages left, want %d", pages, want-2)
		}
		if err := h.Check(1); err != nil {
			t.Fatal(err)
		}
	}
	h.OnEvict = func() error { return errors.New("no space") }
	if _, err := h.Evict(context.Background(), 2); err == nil {
		t.Error("Evict succeeded with a storage that fails")
	}
	h.Close(1)
	if err := errors.Join(m.Close(), m.Misuse()); err != nil {
		t.Error(err)
	}
}

// TestHostRehandle expects that only the page that has the handle gets another.
func TestHostRehandle(t *testing.T) {
	m := &backendtest.Map{}
	h := &backendtest.Host{Backend: m}
	if err := h.Open(1, 8); err != nil {
		t.Fatal(err)
	}
	key, page := backends.Key{Export: 1, Page: 3}, backendtest.Mixed(3)
	if _, err := h.Write(key, page); err != nil {
		t.Fatal(err)
	}
	old, _ := h.Held(key)
	next := func() (backends.Handle, bool) {
		handle, _, err := m.Store(key, page)
		return handle, err == nil
	}
	for _, wrong := range []struct {
		key    backends.Key
		handle backends.Handle
	}{{key, old + 1}, {backends.Key{Export: 1, Page: 4}, old}, {backends.Key{Export: 2, Page: 3}, old}, {backends.Key{Export: 1, Page: 8}, old}} {
		if h.Rehandle(wrong.key, wrong.handle, next) {
			t.Errorf("Rehandle of %+v succeeded", wrong)
		}
	}
	if h.Rehandle(key, old, func() (backends.Handle, bool) { return 0, false }) {
		t.Error("Rehandle succeeded with nothing to replace the handle")
	}
	if !h.Rehandle(key, old, next) {
		t.Fatal("Rehandle failed")
	}
	m.Invalidate(key, old)
	if err := h.Check(1); err != nil {
		t.Error(err)
	}
	h.Close(1)
	if err := errors.Join(m.Close(), m.Misuse()); err != nil {
		t.Error(err)
	}
}

// TestHostFindsLies reads through a backend that gives other bytes.
func TestHostFindsLies(t *testing.T) {
	m := &backendtest.Map{OnLoad: func(_ backends.Key, _ backends.Handle, dst []byte) error { dst[77] ^= 1; return nil }}
	h := &backendtest.Host{Backend: m}
	if err := h.Open(1, 8); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Write(backends.Key{Export: 1}, backendtest.Mixed(3)); err != nil {
		t.Fatal(err)
	}
	if h.Check(1) == nil {
		t.Error("a flipped bit was not found out")
	}
}
