package donor

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// model is what a donor should have of two owners, each of a client of its own.
type model struct {
	pl         *place
	limit      int64
	generation uint64
	owners     [2]*modelOwner
}

type modelOwner struct {
	name    string
	party   wire.Party
	quota   int64
	session uint64
	peer    *peer
	pools   map[uint32]map[uint64]uint64 // generations; persistent ones are exact
}

var modelPages = rapid.OneOf(rapid.Uint64Range(0, 90), rapid.Uint64Range(1024-20, 1024+20), rapid.Uint64Range(wire.MaxPages-40, wire.MaxPages-1))

// isEphemeral: so are the pools with odd numbers.
func isEphemeral(pool uint32) bool { return pool%2 == 1 }

func (m *model) draw(rt *rapid.T) (*modelOwner, uint32) {
	return m.owners[rapid.IntRange(0, 1).Draw(rt, "owner")], rapid.Uint32Range(0, 3).Draw(rt, "pool")
}

func (m *model) connect(rt *rapid.T, o *modelOwner) {
	o.session++
	o.peer = m.pl.session(rt, o.name, o.party, o.session)
}

// bytesOf is up to 4,160 bytes that a page and a generation make.
func bytesOf(page, generation uint64) []byte {
	seed := (page+1)*0x9e3779b97f4a7c15 ^ generation*0xc2b2ae3d27d4eb4f
	length := seed >> 33 % 1500
	if seed%11 == 0 {
		length = wire.MaxBlob - 1
	}
	b := make([]byte, length+1)
	for i := range b {
		b[i] = byte(seed >> (i % 8 * 8))
	}
	return b
}

func (m *model) put(rt *rapid.T) {
	o, number := m.draw(rt)
	for range rapid.SampledFrom([]int{1, 1, 1, 60}).Draw(rt, "puts") {
		page := modelPages.Draw(rt, "page")
		pool, there := o.pools[number]
		m.generation++
		generation := m.generation
		was := pool[page]
		if was > 1 && rapid.IntRange(0, 3).Draw(rt, "old") == 0 {
			generation = rapid.Uint64Range(1, was).Draw(rt, "generation")
		}
		frozen := m.pl.donor.frozen.Load()
		got := o.peer.put(rt, number, page, generation, bytesOf(page, generation))
		allowed := []wire.Status{wire.OK, wire.Full}
		switch {
		case !there:
			allowed = []wire.Status{wire.Gone}
		case generation < was:
			allowed = []wire.Status{wire.Stale}
			if isEphemeral(number) { // it may be gone by now
				allowed = append(allowed, wire.OK, wire.Full, wire.Frozen)
			}
		case generation == was:
			allowed = []wire.Status{wire.OK}
			if isEphemeral(number) {
				allowed = append(allowed, wire.Full, wire.Frozen)
			}
		case frozen:
			allowed = []wire.Status{wire.Frozen}
		}
		if !slices.Contains(allowed, got) {
			rt.Fatalf("put of page %d, generation %d, in the place of %d (frozen %v): %v", page, generation, was, frozen, got)
		}
		switch {
		case !there:
		case got == wire.OK:
			pool[page] = generation
		case got == wire.Full || got == wire.Frozen:
			delete(pool, page)
		}
	}
}

// check compares a version with the model.
func (m *model) check(rt *rapid.T, o *modelOwner, number uint32, page, generation uint64, data []byte) {
	want := o.pools[number][page]
	if generation == 0 && isEphemeral(number) {
		delete(o.pools[number], page)
		return
	}
	if generation != want || generation != 0 && data != nil && !bytes.Equal(data, bytesOf(page, generation)) {
		rt.Fatalf("page %d of pool %d of %s: generation %d, %d bytes, want %d", page, number, o.name, generation, len(data), want)
	}
}

func (m *model) get(rt *rapid.T) {
	o, number := m.draw(rt)
	page := modelPages.Draw(rt, "page")
	flags := uint8(0)
	if isEphemeral(number) && rapid.Bool().Draw(rt, "exclusive") {
		flags = wire.Exclusive
	}
	generation, data := o.peer.get(rt, number, page, flags)
	m.check(rt, o, number, page, generation, data)
	if flags != 0 && generation != 0 {
		delete(o.pools[number], page)
	}
}

func (m *model) flush(rt *rapid.T) {
	o, number := m.draw(rt)
	page, count := modelPages.Draw(rt, "page"), uint64(rapid.SampledFrom([]uint16{1, 1, 2, 50, 65535}).Draw(rt, "count"))
	generation := rapid.Uint64Range(1, m.generation+1).Draw(rt, "generation")
	r := wire.Request{Operation: wire.Flush, Pool: number, Generation: generation}
	if rapid.Bool().Draw(rt, "object") {
		r.Operation, page, count = wire.FlushObject, page/wire.ObjectPages*wire.ObjectPages, wire.ObjectPages
	} else {
		count = min(count, wire.MaxPages-page)
		r.Count = uint16(count)
	}
	r.Page = page
	a, _, err := o.peer.do(r, nil)
	if err != nil {
		rt.Fatal(err)
	}
	pool, there := o.pools[number]
	any := false
	maps.DeleteFunc(pool, func(p, g uint64) bool {
		gone := p >= page && p < page+count && g <= generation
		any = any || gone
		return gone
	})
	want := wire.None
	if any {
		want = wire.OK
	}
	if !there {
		want = wire.Gone
	}
	if a.Status != want && !(want == wire.OK && isEphemeral(number) && a.Status == wire.None) {
		rt.Fatalf("%v of %d pages from %d: %v, want %v", r.Operation, count, page, a.Status, want)
	}
}

func (m *model) pool(rt *rapid.T) {
	o, number := m.draw(rt)
	flags := uint8(0)
	if isEphemeral(number) {
		flags = wire.Ephemeral
	}
	o.peer.pool(rt, number, flags)
	if o.pools[number] == nil {
		o.pools[number] = make(map[uint64]uint64)
	}
}

func (m *model) destroy(rt *rapid.T) {
	if rapid.IntRange(0, 4).Draw(rt, "seldom") > 0 {
		rt.Skip()
	}
	o, number := m.draw(rt)
	want := wire.OK
	if o.pools[number] == nil {
		want = wire.Gone
	}
	o.peer.must(rt, want, wire.Request{Operation: wire.Destroy, Pool: number}, nil)
	delete(o.pools, number)
}

func (m *model) list(rt *rapid.T) {
	o, number := m.draw(rt)
	if o.pools[number] == nil {
		rt.Skip()
	}
	listed, next := make(map[uint64]bool), modelPages.Draw(rt, "from")
	from := next
	for next < wire.MaxPages {
		a, b := o.peer.must(rt, wire.OK, wire.Request{Operation: wire.List, Pool: number, Page: next, Count: rapid.Uint16Range(1, 40).Draw(rt, "count")}, nil)
		for ; len(b) > 0; b = b[wire.ListedSize:] {
			l := wire.DecodeListed(b)
			m.check(rt, o, number, l.Page, l.Generation, nil)
			listed[l.Page] = true
		}
		next = a.Page
	}
	for page := range o.pools[number] {
		if page >= from && !listed[page] && !isEphemeral(number) {
			rt.Fatalf("page %d is not listed", page)
		}
	}
}

// again sends requests whose numbers were seen: nothing happens.
func (m *model) again(rt *rapid.T) {
	o, number := m.draw(rt)
	now := o.peer.number
	for range 3 {
		o.peer.number = rapid.Uint64Range(0, now-1).Draw(rt, "number")
		m.generation++
		if err := o.peer.send(wire.Request{Operation: wire.Put, Pool: number, Page: 1, Generation: m.generation}, bytesOf(1, 1)); err != nil {
			rt.Fatal(err)
		}
		if err := o.peer.send(wire.Request{Operation: wire.Destroy, Pool: number}, nil); err != nil && o.peer.number <= now {
			rt.Fatal(err)
		}
		if o.peer.number > now {
			// That one was new.
			if _, _, err := o.peer.receive(); err != nil {
				rt.Fatal(err)
			}
			delete(o.pools, number)
			now = o.peer.number
		}
	}
	o.peer.number = now
}

func (m *model) reconnect(rt *rapid.T) {
	o, _ := m.draw(rt)
	o.peer.conn.Close()
	m.connect(rt, o)
}

func (m *model) epoch(rt *rapid.T) {
	if rapid.IntRange(0, 9).Draw(rt, "seldom") > 0 {
		rt.Skip()
	}
	o, _ := m.draw(rt)
	o.party.Epoch[15]++
	o.session = 0
	clear(o.pools)
	m.connect(rt, o)
}

func (m *model) die(rt *rapid.T) {
	for _, o := range m.owners {
		o.peer.conn.Close()
	}
	m.pl.config.Limit = m.limit
	m.pl.reopen(rt)
	for _, o := range m.owners {
		m.connect(rt, o)
	}
}

func (m *model) setLimit(rt *rapid.T) {
	m.limit = rapid.Int64Range(8, 48).Draw(rt, "chunks") * arena.ChunkSize
	if err := m.pl.donor.SetLimit(m.limit); err != nil {
		rt.Fatal(err)
	}
}

func (m *model) freeze(rt *rapid.T) {
	if m.pl.donor.frozen.Load() {
		m.pl.donor.Thaw()
	} else if rapid.IntRange(0, 4).Draw(rt, "seldom") == 0 {
		m.pl.donor.Freeze()
	}
}

// consistent is what holds at every moment at which nothing is under way, but for what
// the background does.
func (m *model) consistent(rt *rapid.T) {
	for i, o := range m.owners {
		room, _ := o.peer.room(rt)
		exact, most := uint64(0), uint64(0)
		for number, pool := range o.pools {
			most += uint64(len(pool))
			if !isEphemeral(number) {
				exact += uint64(len(pool))
			}
		}
		if room.Pages < exact || room.Pages > most || int64(room.Used) > o.quota+6*4096 || int64(room.Quota) != o.quota {
			rt.Fatalf("owner %d has %d pages, %d of them persistent, the account says %+v", i, most, exact, room)
		}
	}
}

func TestModel(t *testing.T) {
	dirs := 0
	root := tempDir(t, "/dev/shm")
	rapid.Check(t, func(rt *rapid.T) {
		dirs++
		dir := filepath.Join(root, string(rune('a'+dirs%26)))
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
			rt.Fatal(err)
		}
		m := &model{limit: 24 * arena.ChunkSize}
		m.owners[0] = &modelOwner{name: "a", party: someone, quota: 600 << 10}
		m.owners[1] = &modelOwner{name: "b", party: another, quota: 1 << 30}
		m.pl = makePlace(rt, dir, Config{Limit: m.limit, Capacity: 4 << 20, Clients: map[string]Grant{
			"a": {Quota: m.owners[0].quota}, "b": {Quota: m.owners[1].quota, Weight: 2},
		}})
		// Also where the check ends in the middle.
		defer func() {
			if err := errors.Join(m.pl.donor.Close(), m.pl.folder.Close()); err != nil {
				t.Error(err)
			}
			m.pl.served.Wait()
			for _, o := range m.owners {
				if o.peer != nil {
					o.peer.conn.Close()
				}
			}
		}()
		for _, o := range m.owners {
			o.pools = make(map[uint32]map[uint64]uint64)
			m.connect(rt, o)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"put": m.put, "put more": m.put, "put still more": m.put, "get": m.get, "flush": m.flush, "pool": m.pool, "destroy": m.destroy,
			"list": m.list, "again": m.again, "reconnect": m.reconnect, "epoch": m.epoch, "die": m.die, "limit": m.setLimit,
			"freeze": m.freeze, "": m.consistent,
		})
		for _, o := range m.owners {
			for number, pool := range o.pools {
				for page := range maps.Clone(pool) {
					generation, data := o.peer.get(rt, number, page, 0)
					m.check(rt, o, number, page, generation, data)
				}
			}
			for number := range o.pools {
				o.peer.must(rt, wire.OK, wire.Request{Operation: wire.Destroy, Pool: number}, nil)
			}
		}
		d := m.pl.donor
		if s := d.Stats(); s.UsedBytes != 0 || d.arena.Used() != 0 || d.index.Used() != 0 {
			rt.Fatalf("without pools: %d bytes charged, %d in the arena, %d in the index", s.UsedBytes, d.arena.Used(), d.index.Used())
		}
	})
}
