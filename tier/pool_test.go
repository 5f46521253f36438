package tier

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

// TestResizeUnderLoad takes a full pool to a quarter and back while clients read,
// write and trim, the codec is switched, and pages are compressed behind,
// recompressed, compacted, evicted and scrubbed: every byte is right, and the
// memory of this process follows the limit down within 5 %. RESIZE_MIB is the
// limit to begin with; make soak-resize takes 1 GiB.
func TestResizeUnderLoad(t *testing.T) {
	mib, err := strconv.ParseInt(cmp.Or(os.Getenv("RESIZE_MIB"), "16"), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	limit := mib << 20
	pages := uint64(limit) / 1000 // more than fit
	f := newFrontswap()
	d := openDevice(t, newMemoryStorage(pages), f)
	config := zcache.Config{Limit: limit, Cold: 200 * time.Millisecond, ColdPercent: 50, Scrub: 2 * time.Second, KeepIncompressible: true}
	c, err := zcache.New(config)
	if err != nil {
		t.Fatal(err)
	}
	register(t, f, "zcache", c)
	stop := make(chan struct{})
	var working sync.WaitGroup
	const workers = 3
	for n := range uint64(workers) {
		w := &loader{t: t, device: d, first: n * pages / workers, versions: make([]uint32, pages/workers)}
		working.Go(func() { w.run(stop) })
	}
	working.Go(func() { switchCodecs(t, c, stop) })

	await := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); !done() && !t.Failed(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("still waiting for %s: %+v", what, c.Stats())
			}
		}
	}
	full := func() bool { return int64(c.Stats().HeldBytes) > limit*8/10 }
	await("the pool to fill", full)
	setLimit := func(bytes int64) {
		err := c.Update(func(now zcache.Config) (zcache.Config, error) {
			now.Limit = bytes
			return now, nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	began := time.Now()
	setLimit(limit / 4)
	var over int64
	await("memory to follow the limit down", func() bool {
		over = sharedResident(t) - otherMemory(d, c) - limit/4
		return over <= limit/4/20
	})
	t.Logf("%d MiB were given back in %v, under load", mib*3/4, time.Since(began).Round(time.Millisecond))
	for range 100 { // and stays there
		time.Sleep(10 * time.Millisecond)
		if over = sharedResident(t) - otherMemory(d, c) - limit/4; over > limit/4/20 {
			t.Fatalf("the process has %d bytes more than the limit of %d", over, limit/4)
		}
	}
	setLimit(limit)
	await("the pool to fill again", full)
	for _, m := range []backends.Movement{
		backends.MovedStaged, backends.MovedBehind, backends.MovedCold, backends.MovedCompacted, backends.MovedEvicted, backends.ScrubbedPage,
	} {
		await("pages to be "+m.String(), func() bool { return c.Stats().Moved[m] > 0 })
	}
	close(stop)
	working.Wait()
	stats := c.Stats()
	t.Logf("%v", stats.Moved)
	if stats.CorruptLoads != 0 || stats.Moved[backends.ScrubbedCorrupt] != 0 {
		t.Errorf("damage: %+v", stats)
	}
	if _, err := f.Unregister(context.Background(), "zcache"); err != nil {
		t.Fatal(err)
	}
}

// switchCodecs switches between the codecs until stop is closed.
func switchCodecs(t *testing.T, c *zcache.Cache, stop chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(50 * time.Millisecond):
		}
		err := c.Update(func(now zcache.Config) (zcache.Config, error) {
			now.Codec = []zcache.Codec{zcache.LZ4, zcache.Zstd, zcache.LZ4}[n%3]
			return now, nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// otherMemory is the shared memory of this process that is not the arena.
func otherMemory(d *Device, c *zcache.Cache) int64 {
	other := d.Stats().Area.Memory.Resident
	for _, u := range c.Stats().Memory[1:] {
		other += u.Resident
	}
	return other
}

// sharedResident is what the system says that this process has of shared memory.
func sharedResident(t *testing.T) int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, "RssShmem:"); found {
			var kib int64
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("/proc/self/status has no RssShmem")
	return 0
}

// loader works on pages of its own and knows what is in them.
type loader struct {
	t        *testing.T
	device   *Device
	first    uint64
	versions []uint32 // 0 is a hole
	want     [pageSize]byte
	got      [pageSize]byte
}

// run writes half of the pages at random, so that some get cold, and checks what
// it reads; all of them at the end.
func (l *loader) run(stop chan struct{}) {
	random := rand.New(rand.NewPCG(l.first, 1))
	for i := range l.versions {
		l.write(i)
	}
	for n := 0; ; n++ {
		select {
		case <-stop:
			for i := range l.versions {
				l.check(i)
			}
			return
		default:
		}
		i := random.IntN(len(l.versions))
		switch random.IntN(8) {
		case 0:
			l.trim(i)
		case 1, 2, 3:
			l.check(i)
		default:
			l.write(i / 2)
		}
		if n%32 == 0 {
			time.Sleep(100 * time.Microsecond)
		}
	}
}

func (l *loader) offset(i int) int64 { return int64(l.first+uint64(i)) * pageSize }

func (l *loader) fill(i int) {
	if l.versions[i] == 0 {
		clear(l.want[:])
		return
	}
	page := l.first + uint64(i)
	backendtest.FillMixed(l.want[:], page)
	binary.LittleEndian.PutUint64(l.want[8:], page)
	binary.LittleEndian.PutUint32(l.want[16:], l.versions[i])
}

func (l *loader) write(i int) {
	l.versions[i]++
	l.fill(i)
	if _, err := l.device.WriteAt(l.want[:], l.offset(i)); err != nil {
		l.t.Error(err)
	}
}

func (l *loader) trim(i int) {
	l.versions[i] = 0
	if err := l.device.Trim(l.offset(i), pageSize); err != nil {
		l.t.Error(err)
	}
}

func (l *loader) check(i int) {
	l.fill(i)
	if _, err := l.device.ReadAt(l.got[:], l.offset(i)); err != nil || !bytes.Equal(l.got[:], l.want[:]) {
		l.t.Errorf("page %d is not what was written: %v", l.first+uint64(i), err)
	}
}
