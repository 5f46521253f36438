package tier

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/frontswap"
)

// A process can die between any two calls that it makes. The test here makes an
// image of everything that would survive, before and after each call to a backend
// and to storage, and has another process take it over: each page has to be what
// was acknowledged, or what the request under way makes of it. A kill from outside
// (cmd/internal/crash) hits such an instant rarely.

// image is what survives a process.
type image struct {
	words   []byte
	pages   map[backends.Handle]survivingPage
	storage map[uint64][]byte // pages that are not zero
}

type survivingPage struct {
	key  backends.Key
	data string
}

// crashWorld is a device of which images are made.
type crashWorld struct {
	t      *testing.T
	mu     sync.Mutex // the puncher is about, too
	device *Device
	words  *os.File
	pages  map[backends.Handle]survivingPage
	stored map[uint64][]byte
	next   backends.Handle
	fussy  int // every so many-th page is refused

	known  map[uint64][]byte // what was acknowledged
	under  map[uint64][]byte // what the request under way makes of it
	images int
	verify func(image) error
}

// instantLocked makes an image and verifies it. The first one that is wrong is the
// last. REQUIRES: mu held.
func (w *crashWorld) instantLocked() {
	if w.verify == nil {
		return
	}
	w.images++
	text := make([]byte, crashPages*8)
	_, err := w.words.ReadAt(text, 4096)
	if err == nil {
		err = w.verify(image{words: text, pages: maps.Clone(w.pages), storage: maps.Clone(w.stored)})
	}
	if err != nil {
		w.t.Errorf("image %d: %v", w.images, err) // maybe in the puncher's goroutine
		w.verify = nil
	}
}

const crashPages = 64

// crashBackend is a backend whose pages survive.
type crashBackend struct {
	*crashWorld
	adopted map[backends.Handle]bool
}

func (b *crashBackend) Kind() string               { return "crash" }
func (b *crashBackend) Local() bool                { return true }
func (b *crashBackend) Init(backends.Export) error { return nil }
func (b *crashBackend) Adopt(key backends.Key, h backends.Handle) bool {
	p, ok := b.pages[h]
	if !ok || p.key != key || b.adopted[h] {
		return false
	}
	b.adopted[h] = true
	return true
}
func (b *crashBackend) Adopted() (uint64, error) { return 0, nil }
func (b *crashBackend) Store(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.instantLocked()
	if b.next++; b.fussy > 0 && int(b.next)%b.fussy == 0 {
		return 0, backends.RefusedPoor, nil
	}
	b.pages[b.next] = survivingPage{key, string(data)}
	b.instantLocked()
	return b.next, backends.Accepted, nil
}
func (b *crashBackend) Load(key backends.Key, h backends.Handle, dst []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.pages[h]
	if !ok || p.key != key {
		return backends.ErrCorrupt
	}
	copy(dst, p.data)
	return nil
}

// Pack and Unpack are not asked for.
func (b *crashBackend) Pack(backends.Key, backends.Handle, []byte) (backends.Packed, error) {
	return backends.Packed{}, backends.ErrCorrupt
}
func (b *crashBackend) Unpack(backends.Key, backends.Packed) (backends.Handle, backends.Refusal, error) {
	return 0, backends.RefusedUnmanaged, nil
}
func (b *crashBackend) Invalidate(_ backends.Key, h backends.Handle) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.instantLocked()
	delete(b.pages, h)
	b.instantLocked()
}
func (b *crashBackend) Used(uint32) uint64    { return 0 }
func (b *crashBackend) Room() uint64          { return 1 << 40 }
func (b *crashBackend) InvalidateArea(uint32) {}
func (b *crashBackend) Stats() backends.Stats { return backends.Stats{} }
func (b *crashBackend) Close() error          { return nil }

// crashStorage is storage that survives. A write that dies has written the first
// half of its pages.
type crashStorage struct{ *crashWorld }

func (s crashStorage) Pages() uint64 { return crashPages }

// Resize is not asked for.
func (s crashStorage) Resize(uint64) (bool, error) {
	return false, errors.New("the length does not change here")
}
func (s crashStorage) ReadPages(first uint64, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(p)
	for i := range uint64(len(p) / pageSize) {
		copy(p[i*pageSize:], s.stored[first+i])
	}
	return nil
}
func (s crashStorage) WritePages(first uint64, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instantLocked()
	n := uint64(len(p) / pageSize)
	for i := range n {
		s.stored[first+i] = bytes.Clone(p[i*pageSize:][:pageSize])
		if i == n/2 {
			s.instantLocked()
		}
	}
	s.instantLocked()
	return nil
}
func (s crashStorage) PunchPages(first, n uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instantLocked()
	for page := first; page < first+n; page++ {
		delete(s.stored, page)
	}
	s.instantLocked()
	return nil
}
func (s crashStorage) Sync() error         { return nil }
func (s crashStorage) Stats() StorageStats { return StorageStats{} }
func (s crashStorage) Close() error        { return nil }

// openCrash makes a device in a folder, new or of what is there.
func openCrash(w *crashWorld, path string, list []frontswap.Registered, empty bool) (*frontswap.Frontswap, *sharedmem.Folder, error) {
	folder, err := sharedmem.OpenFolder(sharedmem.FolderConfig{Path: path, Boot: "boot"})
	if err != nil {
		return nil, nil, err
	}
	f := frontswap.Open(frontswap.Config{Log: quiet(), Memory: folder})
	if list != nil {
		list = append([]frontswap.Registered(nil), list...)
		list[0].Backend = &crashBackend{w, map[backends.Handle]bool{}}
		err = f.Restore(list)
	}
	if err == nil {
		w.device, err = Open(Config{Name: "swap", ID: 1, Storage: crashStorage{w}, Empty: empty, Takeover: list != nil, Frontswap: f, Log: quiet()})
	}
	if err == nil && list != nil {
		if _, err = f.Resume(); err == nil {
			w.device.Resume()
		}
	}
	return f, folder, err
}

// TestEveryInstant: see above. Twice after each takeover: what was read once stays,
// also when the next process stops in order and storage alone is the export.
func TestEveryInstant(t *testing.T) {
	for _, mode := range []Writethrough{WritethroughOff, WritethroughSync} {
		for _, empty := range []bool{false, true} {
			t.Run(fmt.Sprintf("writethrough %v, empty %v", mode, empty), func(t *testing.T) { testEveryInstant(t, mode, empty) })
		}
	}
}

func testEveryInstant(t *testing.T, mode Writethrough, empty bool) {
	dir, err := os.MkdirTemp("/dev/shm", "tmemd-instant-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "m")
	w := &crashWorld{
		t: t, pages: map[backends.Handle]survivingPage{}, stored: map[uint64][]byte{}, fussy: 3,
		known: map[uint64][]byte{}, under: map[uint64][]byte{},
	}
	f, folder, err := openCrash(w, path, nil, empty)
	if err != nil {
		t.Fatal(err)
	}
	if w.words, err = os.Open(filepath.Join(path, frontswap.MapName(1)+".mem")); err != nil {
		t.Fatal(err)
	}
	defer w.words.Close()
	if err := f.Register("b", &crashBackend{w, nil}); err != nil {
		t.Fatal(err)
	}
	w.device.SetWritethrough(mode)
	list := []frontswap.Registered{{Name: "b", Owner: 3, State: frontswap.StateActive}}
	w.verify = func(i image) error { return verifyImage(t, w, i, filepath.Join(dir, "next"), list, empty) }

	random := rand.New(rand.NewPCG(1, uint64(mode)))
	for range 60 {
		first, n := random.Uint64N(crashPages-4), 1+random.Uint64N(4)
		data := make([]byte, n*pageSize)
		what := random.IntN(4)
		if what > 0 {
			for i := range data {
				data[i] = byte(random.Uint32()) | 1
			}
		}
		w.mu.Lock()
		for i := range n {
			w.under[first+i] = data[i*pageSize:][:pageSize]
		}
		w.mu.Unlock()
		if what == 0 {
			err = w.device.Trim(int64(first)*pageSize, int64(n)*pageSize)
		} else {
			_, err = w.device.WriteAt(data, int64(first)*pageSize)
		}
		if err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		maps.Copy(w.known, w.under)
		clear(w.under)
		w.instantLocked()
		w.mu.Unlock()
	}
	if _, err := f.Unregister(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	failed := w.verify == nil
	w.verify = nil
	w.mu.Unlock()
	if !failed && w.images < 500 {
		t.Errorf("only %d images", w.images)
	}
	if err := errors.Join(w.device.Close(), folder.Close()); err != nil {
		t.Error(err)
	}
}

// verifyImage has a process take an image over.
func verifyImage(t *testing.T, w *crashWorld, i image, path string, list []frontswap.Registered, empty bool) (err error) {
	os.RemoveAll(path)
	// A map with the words of the image.
	made := &crashWorld{t: t, pages: map[backends.Handle]survivingPage{}, stored: map[uint64][]byte{}}
	_, folder, err := openCrash(made, path, nil, empty)
	if err != nil {
		return err
	}
	folder.Leave()
	if err := errors.Join(made.device.Close(), folder.Close()); err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(path, frontswap.MapName(1)+".mem"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	// Only words that are there: the rest is untouched.
	for at := 0; at < len(i.words); at += 8 {
		if word := i.words[at : at+8]; !bytes.Equal(word, make([]byte, 8)) {
			if _, err := file.WriteAt(word, int64(4096+at)); err != nil {
				return err
			}
		}
	}
	file.Close()

	next := &crashWorld{t: t, pages: i.pages, stored: i.storage}
	f, folder, err := openCrash(next, path, list, empty)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, next.device.Close(), folder.Close()) }()
	got := make([]byte, crashPages*pageSize)
	if _, err := next.device.ReadAt(got, 0); err != nil {
		return err
	}
	for page := range uint64(crashPages) {
		p := got[page*pageSize:][:pageSize]
		known := w.known[page]
		if known == nil {
			known = make([]byte, pageSize)
		}
		if !bytes.Equal(p, known) && (w.under[page] == nil || !bytes.Equal(p, w.under[page])) {
			return fmt.Errorf("page %d is neither what was acknowledged nor what was under way", page)
		}
	}
	if _, err := f.Unregister(t.Context(), "b"); err != nil {
		return err
	}
	if err := next.device.Settle(); err != nil {
		return err
	}
	next.mu.Lock()
	defer next.mu.Unlock()
	for page := range uint64(crashPages) {
		stored := next.stored[page]
		if stored == nil {
			stored = make([]byte, pageSize)
		}
		if !bytes.Equal(stored, got[page*pageSize:][:pageSize]) {
			return fmt.Errorf("page %d on storage after a stop is not what was read before", page)
		}
	}
	return nil
}
