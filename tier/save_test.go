package tier

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/packed"
)

// saveAll decodes what Save gives.
func saveAll(t *testing.T, d *Device) (pages map[uint64][]byte, err error) {
	t.Helper()
	decoder, err := packed.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	pages = map[uint64][]byte{}
	next := uint64(0)
	err = d.Save(t.Context(), func(page uint64, p backends.Packed) error {
		if page < next {
			t.Errorf("page %d comes after page %d", page, next-1)
		}
		next = page + 1
		pages[page] = make([]byte, pageSize)
		return decoder.Decode(p, pages[page])
	})
	return pages, err
}

// TestSave: pages of a backend and of storage, with neither holes nor zeros, as they are.
func TestSave(t *testing.T) {
	f := newFrontswap()
	d := openDevice(t, newMemoryStorage(600), f)
	mustWrite(t, d, backendtest.Page(backendtest.Text, 1), 0)
	mustWrite(t, d, make([]byte, 3*pageSize), 4*pageSize) // zeros on storage
	mustWrite(t, d, backendtest.Page(backendtest.Random, 2), 599*pageSize)
	register(t, f, "b", &backendtest.Map{})
	mustWrite(t, d, backendtest.Page(backendtest.Structured, 3), 255*pageSize)
	mustWrite(t, d, backendtest.Page(backendtest.Structured, 4), 256*pageSize)
	if err := d.Trim(256*pageSize, pageSize); err != nil {
		t.Fatal(err)
	}
	pages, err := saveAll(t, d)
	if err != nil || len(pages) != 3 || !bytes.Equal(pages[0], backendtest.Page(backendtest.Text, 1)) ||
		!bytes.Equal(pages[255], backendtest.Page(backendtest.Structured, 3)) || !bytes.Equal(pages[599], backendtest.Page(backendtest.Random, 2)) {
		t.Errorf("%d pages, %v", len(pages), err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := errors.New("enough")
	cancel(ended)
	if err := d.Save(ctx, func(uint64, backends.Packed) error { return nil }); !errors.Is(err, ended) {
		t.Errorf("it goes on: %v", err)
	}
}

// TestSaveDamaged: a page that a backend cannot deliver is taken from storage if that has
// the same, and fails otherwise: nothing is left out in silence.
func TestSaveDamaged(t *testing.T) {
	damaged := uint64(600)
	open := func() *Device {
		f := newFrontswap()
		d := openDevice(t, newMemoryStorage(600), f)
		register(t, f, "b", &backendtest.Map{OnLoad: func(key backends.Key, _ backends.Handle, _ []byte) error {
			if key.Page == damaged {
				return backends.ErrCorrupt
			}
			return nil
		}})
		return d
	}
	with, without := open(), open()
	with.SetWritethrough(WritethroughSync)
	mustWrite(t, with, backendtest.Page(backendtest.Text, 1), 7*pageSize)
	mustWrite(t, without, backendtest.Page(backendtest.Text, 2), 8*pageSize)
	damaged = 7
	if pages, err := saveAll(t, with); err != nil || len(pages) != 1 || !bytes.Equal(pages[7], backendtest.Page(backendtest.Text, 1)) || with.Stats().Rescued != 1 {
		t.Errorf("storage has it: %d pages, %v", len(pages), err)
	}
	damaged = 8
	if _, err := saveAll(t, without); !errors.Is(err, backends.ErrCorrupt) {
		t.Errorf("storage has it not: %v", err)
	}
}

// TestRestorer: pages go to the first backend that takes them, and else to storage; what is
// no page goes nowhere.
func TestRestorer(t *testing.T) {
	f := newFrontswap()
	s := newMemoryStorage(600)
	d := openDevice(t, s, f)
	register(t, f, "b", &backendtest.Map{Limit: 1})
	r, err := d.NewRestorer()
	if err != nil {
		t.Fatal(err)
	}
	first, second := backendtest.Page(backendtest.Text, 1), backendtest.Page(backendtest.Text, 2)
	for page, content := range map[uint64][]byte{0: first, 599: second} {
		if err := r.Page(page, packed.Raw(content, new([4]byte))); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(mustRead(t, d, pageSize, 0), first) || !bytes.Equal(mustRead(t, d, pageSize, 599*pageSize), second) {
		t.Error("pages are not what was restored")
	}
	if stats := d.Stats().Area; stats.Backends["b"] != 1 || stats.Storage != 1 {
		t.Errorf("%+v", stats)
	}
	for _, backend := range []bool{true, false} {
		wrong := packed.Raw(first, new([4]byte))
		wrong.Sum++
		if err := r.Page(5, wrong); !errors.Is(err, backends.ErrCorrupt) {
			t.Errorf("with a backend %v: %v", backend, err)
		}
		if _, err := f.Unregister(t.Context(), "b"); err != nil && backend {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(mustRead(t, d, pageSize, 5*pageSize), make([]byte, pageSize)) {
		t.Error("what is no page is there")
	}
	if err := r.Page(600, packed.Raw(first, new([4]byte))); !errors.Is(err, ErrRange) {
		t.Errorf("beyond the end: %v", err)
	}
	if err := d.Empty(); err != nil {
		t.Error(err)
	}
	if n := d.Contents(); n != 0 {
		t.Errorf("%d pages are left in an empty device", n)
	}
}
