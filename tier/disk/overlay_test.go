package disk

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/tier"
)

var baseID = cleancache.UUID{0xfe, 0xdc, 9}

// baseContent is the content of a base.
func baseContent(pages int) []byte {
	content := make([]byte, pages*pageSize)
	for page := range pages {
		backendtest.FillMixed(content[page*pageSize:][:pageSize], uint64(page))
	}
	return content
}

// newBase makes a base with a cache of its own.
func newBase(t testing.TB, c *cleancache.Cleancache, pages int) *Base {
	t.Helper()
	storage := newVolatile(pages)
	if err := storage.WritePages(0, baseContent(pages)); err != nil {
		t.Fatal(err)
	}
	c.Authorise(baseID)
	pool, err := c.InitSharedFS(baseID, cleancache.FSConfig{Name: "base", ID: 1000, Pages: uint64(pages)})
	if err != nil {
		t.Fatal(err)
	}
	base, err := NewBase(storage, pool)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(base.Close(), storage.misused()); err != nil {
			t.Error(err)
		}
	})
	return base
}

func formatted(t testing.TB, pages int) *volatile {
	t.Helper()
	image := newVolatile(int(OverlayPages(uint64(pages))))
	if err := FormatOverlay(image, baseID, uint64(pages)); err != nil {
		t.Fatal(err)
	}
	return image
}

func openOver(t testing.TB, c *cleancache.Cleancache, base *Base, image Image, id uint32, boot string) *Device {
	t.Helper()
	overlay, err := OpenOverlay(image, baseID, base.storage.Pages(), boot)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := c.InitFS(cleancache.FSConfig{Name: "overlay", ID: id, Pages: overlay.Pages()})
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(Config{Name: "overlay", Storage: overlay, Pool: pool, Base: base})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// overlaid is an overlay that is modelled.
type overlaid struct {
	t    *testing.T
	base *Base
	boot int
}

func (o *overlaid) content() []byte  { return baseContent(modelPages) }
func (o *overlaid) image() *volatile { return formatted(o.t, modelPages) }
func (o *overlaid) nextBoot()        { o.boot++ }
func (o *overlaid) end() error       { return o.base.Close() }
func (o *overlaid) open(_ *rapid.T, c *cleancache.Cleancache, image *volatile) *Device {
	return openOver(o.t, c, o.base, image, 1, fmt.Sprint("boot ", o.boot))
}

// TestOverlayModel is TestModel for an overlay: the base below it never changes.
func TestOverlayModel(t *testing.T) {
	testModel(t, func(t *testing.T, c *cleancache.Cleancache) modelled {
		storage := newVolatile(modelPages)
		if err := storage.WritePages(0, baseContent(modelPages)); err != nil {
			t.Fatal(err)
		}
		storage.onWrite = func(uint64) error { return errors.New("the base is written") }
		c.Authorise(baseID)
		pool, err := c.InitSharedFS(baseID, cleancache.FSConfig{Name: "base", ID: 1000, Pages: modelPages})
		if err != nil {
			t.Fatal(err)
		}
		base, err := NewBase(storage, pool)
		if err != nil {
			t.Fatal(err)
		}
		return &overlaid{t: t, base: base}
	}, newMap)
}

// TestClones: overlays over one base share its cached pages, and nothing else.
func TestClones(t *testing.T) {
	const pages, clones = 1500, 5
	b, err := zcache.New(zcache.Config{Limit: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	c := cleancache.New(quiet())
	t.Cleanup(func() { // behind the base
		c.Leave(b)
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	c.Follow([]backends.Named{{Name: "zcache", Backend: b}})
	base := newBase(t, c, pages)
	content := baseContent(pages)
	got := make([]byte, len(content))
	var devices []*Device
	var one uint64
	for id := range uint32(clones) {
		d := openOver(t, c, base, formatted(t, pages), id, "boot")
		devices = append(devices, d)
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("a new overlay is not its base: %v", err)
		}
		if id == 0 {
			one = b.Stats().HeldBytes
		}
	}
	if held := b.Stats().HeldBytes; held > one+one/20 {
		t.Errorf("%d clones take %d bytes, one takes %d", clones, held, one)
	}
	if reads := base.Stats().Storage; base.storage.(*volatile).readRequests() > (pages+255)/256 {
		t.Errorf("the base was asked %d times: %+v", base.storage.(*volatile).readRequests(), reads)
	}
	if !devices[1].TryReadAt(got, 0) || !bytes.Equal(got, content) {
		t.Error("what one clone read is not cached for another")
	}
	for i, d := range devices {
		if _, err := d.WriteAt([]byte{byte(i), 1, 2, 3}, 7*pageSize+5); err != nil {
			t.Fatal(err)
		}
	}
	for i, d := range devices {
		want := bytes.Clone(content[:20*pageSize])
		copy(want[7*pageSize+5:], []byte{byte(i), 1, 2, 3})
		for range 2 {
			if _, err := d.ReadAt(got[:len(want)], 0); err != nil || !bytes.Equal(got[:len(want)], want) {
				t.Errorf("clone %d has other bytes: %v", i, err)
			}
		}
		if !d.TryReadAt(got[:len(want)], 0) || !bytes.Equal(got[:len(want)], want) {
			t.Errorf("clone %d is not cached as a whole", i)
		}
		if err := d.Prefetch(0, int64(len(content))); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestOverlayFile is an overlay in a file: made, closed, killed, opened over the wrong
// base, damaged.
func TestOverlayFile(t *testing.T) {
	const pages = 300
	path := filepath.Join(t.TempDir(), "overlay")
	if err := tier.CreateImage(path, OverlayPages(pages)); err != nil {
		t.Fatal(err)
	}
	if err := tier.CreateImage(path, 1); !errors.Is(err, os.ErrExist) {
		t.Errorf("made over a file that is there: %v", err)
	}
	image := func() *tier.File {
		t.Helper()
		f, err := tier.OpenImage(path, false)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	c := cleancache.New(quiet())
	base := newBase(t, c, pages)
	f := image()
	if _, err := OpenOverlay(f, baseID, pages, "boot"); !errors.Is(err, ErrNoOverlay) {
		t.Errorf("opened before it was formatted: %v", err)
	}
	if err := FormatOverlay(f, baseID, pages); err != nil {
		t.Fatal(err)
	}
	d := openOver(t, c, base, f, 1, "boot one")
	content := baseContent(pages)
	write := func(text string, off int64) {
		t.Helper()
		if _, err := d.WriteAt([]byte(text), off); err != nil {
			t.Fatal(err)
		}
		copy(content[off:], text)
	}
	check := func(when string) {
		t.Helper()
		got := make([]byte, len(content))
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s the overlay has other bytes, from %d on: %v", when, firstDifference(got, content), err)
		}
	}
	write("hello", 5000)
	check("at first")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openOver(t, c, base, image(), 1, "boot one")
	check("opened anew")
	write("world", 100*pageSize-2)
	if err := d.WriteZeroes(200*pageSize, 10*pageSize, true); err != nil {
		t.Fatal(err)
	}
	clear(content[200*pageSize:][:10*pageSize])
	check("before it is killed")
	kill := func() {
		t.Helper()
		if err := errors.Join(d.own.pool.InvalidateFS(), d.buffer.Close(), d.overlay.image.Close()); err != nil {
			t.Fatal(err)
		}
	}
	kill()
	d = openOver(t, c, base, image(), 1, "boot one")
	check("after it was killed")
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt([]byte("gone"), 50*pageSize); err != nil { // not flushed
		t.Fatal(err)
	}
	kill()
	d = openOver(t, c, base, image(), 1, "boot two")
	check("in a later boot")
	kill()
	d = openOver(t, c, base, image(), 1, "boot two")
	check("killed in a later boot")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	f = image()
	if _, err := OpenOverlay(f, cleancache.UUID{1}, pages, "boot"); !errors.Is(err, ErrOtherBase) {
		t.Errorf("opened over another base: %v", err)
	}
	if _, err := OpenOverlay(f, baseID, pages+1, "boot"); !errors.Is(err, ErrOtherBase) {
		t.Errorf("opened over a longer base: %v", err)
	}
	if err := f.WritePages(0, bytes.Repeat([]byte{7}, pageSize)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenOverlay(f, baseID, pages, "boot"); !errors.Is(err, ErrNoOverlay) {
		t.Errorf("opened with a damaged header: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// TestTrimBeforeFlush trims what was written and not flushed, and kills the process: the
// next one must not read the base.
func TestTrimBeforeFlush(t *testing.T) {
	c := cleancache.New(quiet())
	base := newBase(t, c, 10)
	image := formatted(t, 10)
	d := openOver(t, c, base, image, 1, "boot")
	if _, err := d.WriteAt([]byte("hello"), 3*pageSize); err != nil {
		t.Fatal(err)
	}
	if err := d.Trim(2*pageSize, 3*pageSize); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.own.pool.InvalidateFS(), d.buffer.Close()); err != nil {
		t.Fatal(err)
	}
	d = openOver(t, c, base, image.restart(), 1, "boot")
	got := make([]byte, 3*pageSize)
	if _, err := d.ReadAt(got, 2*pageSize); err != nil || !bytes.Equal(got, make([]byte, len(got))) {
		t.Errorf("what was trimmed is back: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestOverlayAndBaseBelongTogether.
func TestOverlayAndBaseBelongTogether(t *testing.T) {
	c := cleancache.New(quiet())
	base := newBase(t, c, 10)
	pool, err := c.InitFS(cleancache.FSConfig{Name: "d", ID: 1, Pages: 10})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Name: "d", Storage: newVolatile(10), Pool: pool, Base: base}); err == nil {
		t.Error("a disk that is no overlay was opened over a base")
	}
	overlay, err := OpenOverlay(formatted(t, 10), baseID, 10, "boot")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Name: "d", Storage: overlay, Pool: pool}); err == nil {
		t.Error("an overlay was opened without a base")
	}
	if err := pool.InvalidateFS(); err != nil {
		t.Error(err)
	}
}

// FuzzHeader: what is no header is told from one, whatever it is.
func FuzzHeader(f *testing.F) {
	f.Add(header{base: baseID, pages: 300, clean: true, boot: "0e3a5c84-93f1-4d2e-a1b7-5f60c9d8e721"}.encode())
	f.Add(header{}.encode()[:100])
	f.Fuzz(func(t *testing.T, data []byte) {
		page := make([]byte, pageSize)
		copy(page, data)
		h, err := decodeHeader(page)
		if err != nil {
			if !errors.Is(err, ErrNoOverlay) {
				t.Errorf("decodeHeader: %v", err)
			}
			return
		}
		if again, err := decodeHeader(h.encode()); err != nil || again != h {
			t.Errorf("%+v becomes %+v: %v", h, again, err)
		}
		image := newVolatile(int(OverlayPages(10)))
		if err := image.WritePages(0, page); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenOverlay(image, h.base, 10, h.boot); (err == nil) != (h.pages == 10) {
			t.Errorf("OpenOverlay with %+v: %v", h, err)
		}
	})
}
