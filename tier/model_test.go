package tier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/frontswap"
)

// faults makes every n-th operation fail, or none if every is 0. Operations of
// drains count too, so which request is hit depends on the moment.
type faults struct{ every, count atomic.Int64 }

func (f *faults) next() bool {
	every := f.every.Load()
	return every > 0 && f.count.Add(1)%every == 0
}

// model holds a device against a plain byte slice. Backends come and go beside
// the requests; storage and backends fail and refuse.
type model struct {
	t       *rapid.T
	f       *frontswap.Frontswap
	d       *Device
	bytes   []byte
	storage faults
	backend faults

	// life is the load or unload under way beside the requests.
	life   sync.WaitGroup
	loaded map[string]bool // by name; touched by no life under way
	used   []*backendtest.Map
	made   int
}

// The device begins with modelPages and is resized between least and most.
const (
	modelPages = 2*frontswap.BlockPages + 30
	leastPages = frontswap.BlockPages + 3
	mostPages  = 4*frontswap.BlockPages + 10
)

func newModel(t *rapid.T) *model {
	m := &model{t: t, f: newFrontswap(), bytes: make([]byte, modelPages*pageSize), loaded: map[string]bool{}}
	s := newResizableStorage(modelPages, mostPages)
	s.device = rapid.Bool().Draw(t, "block device")
	s.fault = func(op string, _, _ uint64) error {
		if op != "sync" && m.storage.next() {
			return unix.EIO
		}
		return nil
	}
	empty := rapid.Bool().Draw(t, "empty")
	d, err := Open(Config{Name: "model", ID: 1, Storage: s, Empty: empty, Frontswap: m.f, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	m.d = d
	return m
}

// span draws a range of any alignment: mostly short, sometimes whole pages,
// sometimes most of the device.
func (m *model) span() (off, length int64) {
	size := int64(len(m.bytes))
	off = rapid.Int64Range(0, size-1).Draw(m.t, "off")
	limit := rapid.SampledFrom([]int64{600, 3 * pageSize, 40 * pageSize, size}).Draw(m.t, "limit")
	length = rapid.Int64Range(1, limit).Draw(m.t, "length")
	if rapid.Bool().Draw(m.t, "whole pages") {
		off, length = off&^(pageSize-1), (length+pageSize-1)&^(pageSize-1)
	}
	return off, min(length, size-off)
}

// content draws what is written: real-looking pages, cut to length.
func (m *model) content(length int64) []byte {
	seed := rapid.Uint64Range(0, 1<<20).Draw(m.t, "seed")
	p := make([]byte, (length+pageSize-1)/pageSize*pageSize)
	for i := 0; i < len(p); i += pageSize {
		backendtest.FillMixed(p[i:i+pageSize], seed+uint64(i))
	}
	return p[:length]
}

func (m *model) write(*rapid.T) {
	off, length := m.span()
	p := m.content(length)
	// As the server does; what was taken at once is there for good.
	n := int64(m.d.TryWriteAt(p, off))
	copy(m.bytes[off:], p[:n])
	_, err := m.d.WriteAt(p[n:], off+n)
	m.changed(err, off+n, length-n, func(b []byte) { copy(b, p[n:]) })
}

func (m *model) zero(*rapid.T) {
	off, length := m.span()
	err := m.d.WriteZeroes(off, length, rapid.Bool().Draw(m.t, "punch"))
	m.changed(err, off, length, func(b []byte) { clear(b) })
}

// changed brings the slice up to date after a request that changed a range. If
// the request failed, each page may be as it was or as it would be, but nothing
// else: what it is, is read with the faults off.
func (m *model) changed(err error, off, length int64, change func([]byte)) {
	old := bytes.Clone(m.bytes[off : off+length])
	change(m.bytes[off : off+length])
	if err == nil {
		return
	}
	if !errors.Is(err, unix.EIO) && !errors.Is(err, errInjected) {
		m.t.Fatalf("a request failed with an error that nobody injected: %v", err)
	}
	got := make([]byte, length)
	m.quietly(func() {
		if _, err := m.d.ReadAt(got, off); err != nil {
			m.t.Fatalf("read after a failed request: %v", err)
		}
	})
	for at := int64(0); at < length; {
		end := min(length, (off+at)&^(pageSize-1)+pageSize-off)
		page := got[at:end]
		if !bytes.Equal(page, old[at:end]) && !bytes.Equal(page, m.bytes[off+at:off+end]) {
			m.t.Fatalf("page %d is neither old nor new after a failed request", (off+at)/pageSize)
		}
		copy(m.bytes[off+at:], page)
		at = end
	}
}

// quietly runs do without faults.
func (m *model) quietly(do func()) {
	s, b := m.storage.every.Swap(0), m.backend.every.Swap(0)
	do()
	m.storage.every.Store(s)
	m.backend.every.Store(b)
}

func (m *model) read(*rapid.T) {
	off, length := m.span()
	got := make([]byte, length)
	if !rapid.Bool().Draw(m.t, "try") || !m.d.TryReadAt(got, off) {
		if _, err := m.d.ReadAt(got, off); err != nil {
			if !errors.Is(err, unix.EIO) && !errors.Is(err, errInjected) {
				m.t.Fatalf("read failed with an error that nobody injected: %v", err)
			}
			return
		}
	}
	m.compare(got, off)
}

func (m *model) compare(got []byte, off int64) {
	want := m.bytes[off : off+int64(len(got))]
	for i := range got {
		if got[i] != want[i] {
			m.t.Fatalf("byte %d (page %d): read %#x, want %#x", off+int64(i), (off+int64(i))/pageSize, got[i], want[i])
		}
	}
}

func (m *model) trim(*rapid.T) {
	off, length := m.span()
	if err := m.d.Trim(off, length); err != nil {
		m.t.Fatalf("trim: %v", err)
	}
	if first, last := (off+pageSize-1)&^(pageSize-1), (off+length)&^(pageSize-1); last > first {
		clear(m.bytes[first:last])
	}
}

func (m *model) flush(*rapid.T) {
	if err := m.d.Sync(); err != nil {
		m.t.Fatalf("flush: %v", err)
	}
}

var errInjected = errors.New("injected")

func (m *model) load(*rapid.T) {
	m.life.Wait()
	if len(m.loaded) >= 4 {
		return
	}
	m.made++
	name := fmt.Sprint("b", m.made)
	b := m.newBackend()
	m.loaded[name] = true
	m.life.Go(func() {
		if err := m.f.Register(name, b); err != nil {
			panic(err)
		}
	})
}

// newBackend draws a real zcache of some size, or a map that refuses, errs on
// loads, and now and then fails for good.
func (m *model) newBackend() backends.Backend {
	if rapid.Bool().Draw(m.t, "zcache") {
		z, err := zcache.New(zcache.Config{Limit: rapid.SampledFrom([]int64{1 << 18, 1 << 22}).Draw(m.t, "pool")})
		if err != nil {
			m.t.Fatal(err)
		}
		return z
	}
	b := &backendtest.Map{Remote: rapid.IntRange(0, 3).Draw(m.t, "remote") == 0, Limit: rapid.IntRange(0, 300).Draw(m.t, "limit")}
	b.OnStore = func(key backends.Key, _ []byte) (backends.Refusal, error) {
		switch {
		case key.Page%11 == 5:
			return backends.RefusedPoor, nil
		case m.backend.next():
			return 0, errInjected
		}
		return backends.Accepted, nil
	}
	b.OnLoad = func(backends.Key, backends.Handle, []byte) error {
		if m.backend.next() {
			return errInjected
		}
		return nil
	}
	m.used = append(m.used, b)
	return b
}

func (m *model) unload(*rapid.T) {
	m.life.Wait()
	if len(m.loaded) == 0 {
		return
	}
	name := rapid.SampledFrom(slices.Sorted(maps.Keys(m.loaded))).Draw(m.t, "backend")
	m.life.Go(func() {
		// A drain that meets a fault keeps the backend, which is tried again.
		if _, err := m.f.Unregister(context.Background(), name); err == nil {
			delete(m.loaded, name)
		}
	})
}

// move does one of the other operations on a backend beside the requests.
func (m *model) move(*rapid.T) {
	m.life.Wait()
	if len(m.loaded) == 0 {
		return
	}
	name := rapid.SampledFrom(slices.Sorted(maps.Keys(m.loaded))).Draw(m.t, "backend")
	n := rapid.Uint64Range(1, 300).Draw(m.t, "pages")
	acts := map[string]func(){
		"freeze":  func() { _ = m.f.Freeze(name, "model") },
		"thaw":    func() { _ = m.f.Thaw(name) },
		"shrink":  func() { _, _ = m.f.Shrink(context.Background(), name, n) },
		"migrate": func() { _, _ = m.f.Migrate(context.Background(), name, n) },
		"order":   func() { _ = m.f.Order([]string{name}) },
	}
	m.life.Go(acts[rapid.SampledFrom(slices.Sorted(maps.Keys(acts))).Draw(m.t, "what")])
}

func (m *model) replace(*rapid.T) {
	m.life.Wait()
	if len(m.loaded) == 0 {
		return
	}
	name := rapid.SampledFrom(slices.Sorted(maps.Keys(m.loaded))).Draw(m.t, "backend")
	m.made++
	next := fmt.Sprint("b", m.made)
	b := m.newBackend()
	m.loaded[next] = true
	m.life.Go(func() {
		if _, err := m.f.Replace(context.Background(), name, next, b); err == nil {
			delete(m.loaded, name)
		}
	})
}

func (m *model) writethrough(*rapid.T) {
	m.d.SetWritethrough(Writethrough(rapid.IntRange(0, 2).Draw(m.t, "mode")))
}

func (m *model) fault(*rapid.T) {
	m.storage.every.Store(rapid.SampledFrom([]int64{0, 0, 3, 10}).Draw(m.t, "storage fails each"))
	m.backend.every.Store(rapid.SampledFrom([]int64{0, 0, 7, 50}).Draw(m.t, "backend fails each"))
}

// resize grows the device beside its drains, or shrinks it when nobody has
// anything beyond, or nobody cares.
func (m *model) resize(*rapid.T) {
	pages := rapid.IntRange(leastPages, mostPages).Draw(m.t, "pages")
	discard := rapid.Bool().Draw(m.t, "discard")
	size := pages * pageSize
	err := m.d.Resize(int64(size), discard)
	var content *ContentError
	switch {
	case errors.As(err, &content):
		if discard || size >= len(m.bytes) {
			m.t.Fatalf("resize to %d pages: %v", pages, err)
		}
		return
	case err != nil && !errors.Is(err, unix.EIO):
		m.t.Fatalf("resize to %d pages: %v", pages, err)
	case err != nil:
		if size < len(m.bytes) {
			clear(m.bytes[size:]) // given up, or holes
		}
		return
	}
	if size < len(m.bytes) && !discard && !bytes.Equal(m.bytes[size:], make([]byte, len(m.bytes)-size)) {
		m.t.Fatalf("content was cut off by a resize from %d to %d bytes", len(m.bytes), size)
	}
	m.bytes = slices.Grow(m.bytes, max(0, size-len(m.bytes)))
	old := len(m.bytes)
	m.bytes = m.bytes[:size]
	if size > old {
		clear(m.bytes[old:])
	}
	if got, _ := m.d.Size(); got != int64(size) {
		m.t.Fatalf("the device has %d bytes after a resize to %d", got, size)
	}
}

// check is called after each step: every word is counted once (F5).
func (m *model) check(*rapid.T) {
	m.life.Wait()
	s := m.d.Stats().Area
	total := s.None + s.Storage + s.Hole
	for name, pages := range s.Backends {
		if pages < 0 {
			m.t.Fatalf("backend %s has %d pages", name, pages)
		}
		total += pages
	}
	if want := int64(len(m.bytes) / pageSize); total != want {
		m.t.Fatalf("the owners' pages add up to %d of %d", total, want)
	}
	// A backend that moves a page within itself has it twice for a moment.
	agree := func() (all bool, differ string) {
		for _, b := range m.f.Backends() {
			if b.Pages != b.Stats.Pages {
				return false, fmt.Sprintf("the map gives %s %d pages, it says %d", b.Name, b.Pages, b.Stats.Pages)
			}
		}
		return true, ""
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		ok, differ := agree()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatal(differ)
		}
	}
}

// end unloads everything without faults: storage alone must be the device.
func (m *model) end() {
	m.life.Wait()
	m.storage.every.Store(0)
	m.backend.every.Store(0)
	m.d.SetWritethrough(WritethroughOff)
	m.compare(m.all(), 0)
	for _, b := range m.f.Backends() {
		if _, err := m.f.Unregister(context.Background(), b.Name); err != nil {
			m.t.Fatalf("unload at the end: %v", err)
		}
	}
	m.compare(m.all(), 0)
	if err := m.d.Settle(); err != nil {
		m.t.Fatalf("settle: %v", err)
	}
	if !bytes.Equal(m.d.storage.(*memoryStorage).data[:len(m.bytes)], m.bytes) {
		m.t.Fatal("storage is not the device after every backend was unloaded")
	}
	for _, b := range m.used {
		if err := b.Misuse(); err != nil {
			m.t.Fatalf("backend misused: %v", err)
		}
	}
}

func (m *model) all() []byte {
	got := make([]byte, len(m.bytes))
	if _, err := m.d.ReadAt(got, 0); err != nil {
		m.t.Fatalf("read everything: %v", err)
	}
	return got
}

// TestModel is the device against a byte slice: random requests of any
// alignment, backends loaded and unloaded beside them, storage and backends
// that fail. Run with the race detector, it also shows T4.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		defer m.d.Close()
		defer m.life.Wait()
		t.Repeat(map[string]func(*rapid.T){
			"write": m.write, "write again": m.write, "read": m.read, "read again": m.read,
			"zero": m.zero, "trim": m.trim, "flush": m.flush,
			"load": m.load, "unload": m.unload, "fault": m.fault, "account": m.check,
			"move": m.move, "replace": m.replace, "writethrough": m.writethrough, "resize": m.resize,
		})
		m.end()
	})
}
