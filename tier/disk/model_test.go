package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cleancache"
)

const modelPages = 300

// TestModel compares a device with a byte slice, while its cache forgets any part of
// itself at any moment, backends come and go, processes are killed, and the power is cut.
func TestModel(t *testing.T) { testModel(t, newPlain, newMap) }

// TestModelRamster is TestModel with other hosts' memory, whose donors forget and are cut off.
func TestModelRamster(t *testing.T) {
	fetched := uint64(0)
	testModel(t, newPlain, func(int) forgetful { return newRamster(t, &fetched) })
	if fetched == 0 {
		t.Error("no page came from a donor")
	}
	t.Logf("%d pages came from donors", fetched)
}

// modelled is what is modelled: a disk, or an overlay.
type modelled interface {
	content() []byte // to begin with
	image() *volatile
	open(rt *rapid.T, c *cleancache.Cleancache, image *volatile) *Device
	nextBoot()
	end() error
}

type plain struct{ *testing.T }

func newPlain(t *testing.T, _ *cleancache.Cleancache) modelled { return plain{t} }

func (plain) content() []byte  { return make([]byte, modelPages*pageSize) }
func (plain) image() *volatile { return newVolatile(modelPages) }
func (plain) nextBoot()        {}
func (plain) end() error       { return nil }
func (p plain) open(_ *rapid.T, c *cleancache.Cleancache, image *volatile) *Device {
	return open(p.T, c, image, false)
}

func testModel(t *testing.T, newModelled func(*testing.T, *cleancache.Cleancache) modelled, newBackend func(limit int) forgetful) {
	rapid.Check(t, func(rt *rapid.T) {
		c := cleancache.New(quiet())
		m := newModelled(t, c)
		storage := m.image()
		d := m.open(rt, c, storage)
		mirror := m.content()
		synced := bytes.Clone(mirror)   // what a power cut must leave, but for what follows
		changed := map[int64][][]byte{} // sectors changed since: what they were meanwhile
		change := func(off int64, p []byte) {
			first, last := off/512, (off+int64(len(p))+511)/512
			copy(mirror[off:], p)
			for sector := first; sector < last; sector++ {
				changed[sector] = append(changed[sector], bytes.Clone(mirror[sector*512:][:512]))
			}
		}
		var loaded []forgetful
		follow := func() {
			var named []backends.Named
			for i, b := range loaded {
				named = append(named, backends.Named{Name: fmt.Sprint(i), Backend: b.Backend})
			}
			c.Follow(named)
		}
		leave := func(rt *rapid.T, i int) {
			b := loaded[i]
			loaded = append(loaded[:i:i], loaded[i+1:]...)
			follow()
			c.Leave(b.Backend)
			if err := errors.Join(b.Close(), b.end()); err != nil {
				rt.Fatal(err)
			}
		}
		extent := func(rt *rapid.T) (off, length int64) {
			const size = modelPages * pageSize
			unit := rapid.SampledFrom([]int64{1, 512, pageSize}).Draw(rt, "unit")
			off = rapid.Int64Range(0, size/unit-1).Draw(rt, "offset") * unit
			length = rapid.SampledFrom([]int64{1, 3, 8, 40, 270}).Draw(rt, "length") * unit
			return off, min(length, size-off)
		}
		must := func(rt *rapid.T, err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"read": func(rt *rapid.T) {
				off, length := extent(rt)
				got := make([]byte, length)
				if rapid.Bool().Draw(rt, "try") && d.TryReadAt(got, off) {
					if !bytes.Equal(got, mirror[off:off+length]) {
						rt.Fatalf("TryReadAt of %d bytes at %d gives other bytes", length, off)
					}
					return
				}
				_, err := d.ReadAt(got, off)
				must(rt, err)
				if !bytes.Equal(got, mirror[off:off+length]) {
					rt.Fatalf("ReadAt of %d bytes at %d gives other bytes", length, off)
				}
			},
			"write": func(rt *rapid.T) {
				off, length := extent(rt)
				p, seed := make([]byte, length), rapid.Uint64().Draw(rt, "seed")
				for i := range p {
					p[i] = byte(seed>>(8*(i%8))) + byte(i/500)
				}
				_, err := d.WriteAt(p, off)
				must(rt, err)
				change(off, p)
			},
			"zero": func(rt *rapid.T) {
				off, length := extent(rt)
				must(rt, d.WriteZeroes(off, length, rapid.Bool().Draw(rt, "punch")))
				change(off, make([]byte, length))
			},
			"trim": func(rt *rapid.T) {
				off, length := extent(rt)
				must(rt, d.Trim(off, length))
				if first, last := (off+pageSize-1)/pageSize, (off+length)/pageSize; first < last {
					change(first*pageSize, make([]byte, (last-first)*pageSize))
				}
			},
			"flush": func(rt *rapid.T) {
				must(rt, d.Sync())
				copy(synced, mirror)
				clear(changed)
			},
			"prefetch": func(rt *rapid.T) { must(rt, d.Prefetch(extent(rt))) },
			"mode":     func(*rapid.T) { d.SetMode(1 - d.Mode()) },
			"forget": func(rt *rapid.T) {
				mask := rapid.Uint64().Draw(rt, "which")
				for _, b := range loaded {
					b.forget(mask)
				}
			},
			"load": func(rt *rapid.T) {
				if len(loaded) < 3 {
					loaded = append(loaded, newBackend(rapid.IntRange(0, 200).Draw(rt, "limit")))
					follow()
				}
			},
			"unload": func(rt *rapid.T) {
				if len(loaded) > 0 {
					leave(rt, rapid.IntRange(0, len(loaded)-1).Draw(rt, "which"))
				}
			},
			"kill": func(rt *rapid.T) {
				old := storage
				storage = old.restart()
				must(rt, errors.Join(d.own.pool.InvalidateFS(), d.buffer.Close(), old.misused()))
				d = m.open(rt, c, storage)
			},
			"close": func(rt *rapid.T) {
				old := storage
				must(rt, errors.Join(d.Close(), old.misused()))
				copy(synced, mirror)
				clear(changed)
				storage = old.restart()
				d = m.open(rt, c, storage)
			},
			"powerCut": func(rt *rapid.T) {
				old := storage
				storage = old.powerCut(rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "cut"), 1)))
				must(rt, errors.Join(d.own.pool.InvalidateFS(), d.buffer.Close(), old.misused()))
				m.nextBoot()
				d = m.open(rt, c, storage)
				got := make([]byte, len(mirror))
				_, err := d.ReadAt(got, 0)
				must(rt, err)
				for sector := int64(0); sector < int64(len(got)/512); sector++ {
					now := got[sector*512:][:512]
					ok := bytes.Equal(now, synced[sector*512:][:512])
					for _, was := range changed[sector] {
						ok = ok || bytes.Equal(now, was)
					}
					if !ok {
						rt.Fatalf("D5: sector %d is neither what was flushed nor what was written since", sector)
					}
				}
				copy(mirror, got)
				copy(synced, got)
				clear(changed)
			},
		})
		got := make([]byte, len(mirror))
		_, err := d.ReadAt(got, 0)
		must(rt, err)
		if !bytes.Equal(got, mirror) {
			rt.Fatal("the disk has other bytes at the end")
		}
		must(rt, errors.Join(d.Close(), storage.misused(), m.end()))
		for len(loaded) > 0 {
			leave(rt, 0)
		}
	})
}

// TestFillAgainstWrite writes a page in the middle of a read of it, when storage has
// given the old bytes and they are not in the cache yet: in every way there is to
// change it, for every sort of read.
func TestFillAgainstWrite(t *testing.T) {
	changes := map[string]func(*Device) error{
		"write":         func(d *Device) error { _, err := d.WriteAt(backendtest.Mixed(9), 5*pageSize); return err },
		"write of many": func(d *Device) error { _, err := d.WriteAt(make([]byte, 300*pageSize), 0); return err },
		"part":          func(d *Device) error { _, err := d.WriteAt([]byte{1, 2, 3}, 5*pageSize+700); return err },
		"zero":          func(d *Device) error { return d.WriteZeroes(5*pageSize, pageSize, false) },
		"punch":         func(d *Device) error { return d.WriteZeroes(5*pageSize, pageSize, true) },
		"zero a part":   func(d *Device) error { return d.WriteZeroes(5*pageSize+512, 512, true) },
		"trim":          func(d *Device) error { return d.Trim(4*pageSize, 3*pageSize) },
	}
	reads := map[string]func(*Device) error{
		"page":     func(d *Device) error { _, err := d.ReadAt(make([]byte, pageSize), 5*pageSize); return err },
		"many":     func(d *Device) error { _, err := d.ReadAt(make([]byte, 40*pageSize), 0); return err },
		"part":     func(d *Device) error { _, err := d.ReadAt(make([]byte, 512), 5*pageSize); return err },
		"prefetch": func(d *Device) error { return d.Prefetch(0, 20*pageSize) },
	}
	for read, doRead := range reads {
		for change, doChange := range changes {
			t.Run(read+" and "+change, func(t *testing.T) {
				f := newFixture(t, 300, false)
				f.write(t, backendtest.Mixed(1), 5*pageSize)
				var once sync.Once
				changed := make(chan error, 1)
				f.storage.onRead = func(uint64) {
					once.Do(func() {
						go func() { changed <- doChange(f.Device) }()
						time.Sleep(2 * time.Millisecond) // a chance for a write that does not wait
					})
				}
				if err := errors.Join(doRead(f.Device), <-changed); err != nil {
					t.Fatal(err)
				}
				f.storage.mu.Lock()
				want := bytes.Clone(f.storage.now[:10*pageSize])
				f.storage.mu.Unlock()
				f.check(t, want, 0)
				f.check(t, want, 0)
			})
		}
	}
}

// TestConnections: two clients write every second sector of the same pages, others
// read, while caches come, go and forget. Every sector is a register.
func TestConnections(t *testing.T) {
	const pages, sectors, rounds = 12, pageSize / 512, 1500
	storage := newVolatile(pages)
	c := cleancache.New(quiet())
	d := open(t, c, storage, false)
	var begun, done [pages * sectors]atomic.Uint64 // versions
	stop := make(chan struct{})
	var caches, writers, readers sync.WaitGroup
	caches.Go(func() {
		for n := 0; ; n++ {
			var b backends.Backend = &backendtest.Map{Limit: 5}
			if n%2 == 0 {
				z, err := zcache.New(zcache.Config{Limit: 1 << 20, Cold: time.Millisecond, ColdPercent: 100})
				if err != nil {
					t.Error(err)
					return
				}
				b = z
			}
			c.Follow([]backends.Named{{Name: "cache", Backend: b}})
			time.Sleep(2 * time.Millisecond)
			if m, ok := b.(*backendtest.Map); ok {
				m.Drop(func(key backends.Key) bool { return key.Page%2 == 0 })
				time.Sleep(time.Millisecond)
			}
			d.SetMode(cleancache.Mode(n % 3 / 2))
			c.Follow(nil)
			c.Leave(b)
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			if m, ok := b.(*backendtest.Map); ok && m.Misuse() != nil {
				t.Error(m.Misuse())
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for w := range int64(2) {
		writers.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 8))
			p := make([]byte, 512)
			for range rounds {
				sector := random.Int64N(pages*sectors/2)*2 + w
				version := begun[sector].Add(1)
				for at := 0; at < 512; at += 16 {
					binary.LittleEndian.PutUint64(p[at:], uint64(sector))
					binary.LittleEndian.PutUint64(p[at+8:], version)
				}
				if _, err := d.WriteAt(p, sector*512); err != nil {
					t.Error(err)
				}
				done[sector].Store(version)
			}
		})
	}
	read := func(random *rand.Rand, p []byte) {
		first := random.Int64N(pages)
		n := 1 + random.Int64N(pages-first)
		p = p[:n*pageSize]
		least := make([]uint64, n*sectors)
		for i := range least {
			least[i] = done[first*sectors+int64(i)].Load()
		}
		if !d.TryReadAt(p, first*pageSize) {
			if _, err := d.ReadAt(p, first*pageSize); err != nil {
				t.Error(err)
			}
		}
		for i := range least {
			sector := first*sectors + int64(i)
			most := begun[sector].Load()
			version := binary.LittleEndian.Uint64(p[i*512+8:])
			for at := 0; at < 512; at += 16 {
				is := binary.LittleEndian.Uint64(p[i*512+at:])
				if v := binary.LittleEndian.Uint64(p[i*512+at+8:]); v != version || v < least[i] || v > most || v > 0 && is != uint64(sector) {
					t.Errorf("D1: sector %d is version %d of sector %d, want %d to %d", sector, v, is, least[i], most)
					return
				}
			}
		}
	}
	for r := range uint64(3) {
		readers.Go(func() {
			random, p := rand.New(rand.NewPCG(r, 9)), make([]byte, pages*pageSize)
			for {
				select {
				case <-stop:
					return
				default:
					read(random, p)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	caches.Wait()
	if err := errors.Join(d.Close(), storage.misused()); err != nil {
		t.Error(err)
	}
}
