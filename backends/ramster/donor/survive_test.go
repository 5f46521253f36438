package donor

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// TestSurvives: a process that takes over finds all of it.
func TestSurvives(t *testing.T) {
	pl := newPlace(t, Config{})
	p := newPeer(t, pl)
	b := pl.session(t, "b", another, 1)
	b.pool(t, kept, 0)
	for page := range uint64(3000) {
		p.put(t, kept, page*7, page+1, sealed(page*7, page+1))
		p.put(t, dropped, page, page+1, sealed(page, page+1))
		b.put(t, kept, page, 9, sealed(page, 9))
	}
	p.flush(t, kept, 0, 7*500, 1<<40)
	p.must(t, wire.OK, wire.Request{Operation: wire.Destroy, Pool: dropped}, nil)
	before, party := pl.donor.Stats(), pl.donor.Party()
	for range 2 {
		pl.reopen(t)
		after := pl.donor.Stats()
		if pl.donor.Party() != party {
			t.Fatalf("the donor is %+v, and was %+v", pl.donor.Party(), party)
		}
		for i, c := range after.Clients {
			was := before.Clients[i]
			was.Sessions = 0
			if c != was {
				t.Fatalf("%+v, and was %+v", c, was)
			}
		}
	}
	p, b = pl.session(t, "a", someone, 5), pl.session(t, "b", another, 5)
	defer p.conn.Close()
	defer b.conn.Close()
	p.must(t, wire.Gone, wire.Request{Operation: wire.Get, Pool: dropped, Page: 1, Count: 1}, nil)
	p.pool(t, kept, 0) // as it was
	for page := range uint64(3000) {
		generation, data := p.get(t, kept, page*7, 0)
		switch {
		case page < 500 && data != nil:
			t.Fatalf("page %d was flushed, and is back", page*7)
		case page >= 500 && (generation != page+1 || !bytes.Equal(data, sealed(page*7, page+1))):
			t.Fatalf("page %d: generation %d, %d bytes", page*7, generation, len(data))
		}
		if generation, data = b.get(t, kept, page, 0); generation != 9 || !bytes.Equal(data, sealed(page, 9)) {
			t.Fatalf("page %d of the other: generation %d, %d bytes", page, generation, len(data))
		}
	}
	// An owner of another epoch is still recognised.
	p = pl.session(t, "a", wire.Party{Identity: someone.Identity, Epoch: [16]byte{1, 9}}, 1)
	defer p.conn.Close()
	p.must(t, wire.Gone, wire.Request{Operation: wire.Get, Pool: kept, Page: 7000, Count: 1}, nil)
}

// TestSurvivesHalves: what was being done when the process died.
func TestSurvivesHalves(t *testing.T) {
	pl := newPlace(t, Config{})
	p := newPeer(t, pl)
	p.pool(t, 9, 0)
	for page := range uint64(100) {
		p.put(t, kept, page, 5, sealed(page, 5))
		p.put(t, 9, page, 5, sealed(page, 5))
	}
	p.room(t) // all of it is done
	d := pl.donor
	object := func(number uint32, page, generation uint64) {
		t.Helper()
		data := append(make([]byte, versionSize), sealed(page, generation)...)
		data[0] = byte(generation)
		o := arena.Object{Export: number, Page: page, Codec: codec, Data: data}
		o.Sum = sum(data)
		if _, ok := d.arena.Put(o); !ok {
			t.Fatal("no room")
		}
	}
	o := d.owners[ownerKey{d.clients["a"], someone.Identity}]
	number, leaving := o.pools[kept].number, o.pools[9].number
	object(number, 1, 6)       // a put: the older one is not freed yet
	object(number, 2, 4)       // the older one of a put
	object(number, 500, 3)     // a put before the index led to it
	object(number+100, 3, 7)   // of a pool that there is not
	object(number^1<<20, 4, 7) // of one that had its place before
	d.ledger.leave(leaving)    // a destroy
	pl.reopen(t)
	p = pl.session(t, "a", someone, 9)
	defer p.conn.Close()
	for _, c := range []struct{ page, generation uint64 }{{1, 6}, {2, 5}, {500, 3}, {3, 5}, {4, 5}} {
		if generation, data := p.get(t, kept, c.page, 0); generation != c.generation || !bytes.Equal(data, sealed(c.page, c.generation)) {
			t.Errorf("page %d: generation %d, want %d", c.page, generation, c.generation)
		}
	}
	p.must(t, wire.Gone, wire.Request{Operation: wire.Get, Pool: 9, Page: 1, Count: 1}, nil)
	if s := pl.donor.Stats(); s.Clients[0].Persistent != 101 || s.Pools != 2 {
		t.Errorf("%d pages, %d pools", s.Clients[0].Persistent, s.Pools)
	}
	// While one is moved there are two of it.
	eventually(t, "101 objects", func() bool { return pl.donor.arena.Stats().Objects == 101 })
}

// TestOpenRefuses what is not its own, and leaves it as it was.
func TestOpenRefuses(t *testing.T) {
	pl := newPlace(t, Config{})
	p := newPeer(t, pl)
	p.put(t, kept, 1, 5, sealed(1, 5))
	p.conn.Close()
	pl.folder.Leave()
	if err := errors.Join(pl.donor.Close(), pl.folder.Close()); err != nil {
		t.Fatal(err)
	}
	config := pl.config
	pl.config.Identity = [16]byte{8}
	refuses := func(what string) {
		t.Helper()
		folder := openFolder(t, pl)
		defer folder.Close()
		c := pl.config
		c.Memory.Folder = folder
		if d, err := Open(c); err == nil {
			d.Close()
			t.Errorf("opened with %s", what)
		}
		folder.Leave()
	}
	refuses("another identity")
	pl.config = config
	pl.config.Memory.Name = "x"
	refuses("another name")
	file := filepath.Join(pl.path, "d.pools.mem")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pl.config = config
	damaged := bytes.Clone(whole)
	damaged[4096+20] ^= 1
	write := func(b []byte) {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(damaged)
	refuses("a damaged identity")
	// One damaged entry costs its pool.
	write(whole)
	damaged = bytes.Clone(whole)
	damaged[4096+2*entrySize+60] ^= 1
	write(damaged)
	pl.open(t, Open)
	p = pl.session(t, "a", someone, 5)
	defer p.conn.Close()
	if generation, _ := p.get(t, kept, 1, 0); generation != 5 {
		t.Errorf("generation %d", generation)
	}
	p.must(t, wire.Gone, wire.Request{Operation: wire.Destroy, Pool: dropped}, nil)
	if s := pl.donor.Stats(); s.Pools != 1 {
		t.Errorf("%d pools", s.Pools)
	}
	p.pool(t, dropped, 0)
}

// TestSurvivesKills has a process of its own killed in the middle of storing, many times.
func TestSurvivesKills(t *testing.T) {
	if dir := os.Getenv("TMEMD_TEST_DONOR"); dir != "" {
		makePlace(t, dir, Config{})
		time.Sleep(time.Minute) // it is killed long before
		return
	}
	if testing.Short() {
		t.Skip("kills processes for some seconds")
	}
	dir := tempDir(t, "/dev/shm")
	model := make(map[uint64]uint64) // what was answered
	sent := make(map[uint64]uint64)  // what may be there beside
	generation := uint64(0)
	var party wire.Party
	pl := &place{path: filepath.Join(dir, "m"), socket: filepath.Join(dir, "s")}
	for kill := range uint64(12) {
		os.Remove(pl.socket)
		cmd := exec.Command(os.Args[0], "-test.run=^TestSurvivesKills$")
		cmd.Env = append(os.Environ(), "TMEMD_TEST_DONOR="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the process listens", func() bool {
			conn, err := net.Dial("unix", pl.socket) // the file is there before anybody listens
			if err != nil {
				return false
			}
			conn.Close()
			return true
		})
		p := pl.dial(t, "a")
		a, b, err := p.hello(someone, kill+1)
		if err != nil || a.Status != wire.OK {
			t.Fatalf("hello: %v, %v", a.Status, err)
		}
		if got := wire.DecodeWelcome(b); kill > 0 && got != party {
			t.Fatalf("the donor is %+v, and was %+v", got, party)
		} else {
			party = got
		}
		p.pool(t, kept, 0)
		for page := range uint64(400) {
			got, data := p.get(t, kept, page, 0)
			if got != model[page] && (sent[page] == 0 || got != sent[page]) && !(sent[page] == 1 && got == 0) {
				t.Fatalf("kill %d: page %d: generation %d, want %d or what was sent, %d", kill, page, got, model[page], sent[page])
			}
			if got != 0 && !bytes.Equal(data, sealed(page, got)) {
				t.Fatalf("kill %d: page %d: wrong bytes", kill, page)
			}
			model[page] = got
		}
		clear(sent)
		timer := time.AfterFunc(time.Duration(20+kill*7)*time.Millisecond, func() { cmd.Process.Signal(syscall.SIGKILL) })
		for {
			generation++
			page := (generation * 0x9e3779b97f4a7c15) >> 40 % 400
			if generation%5 == 0 {
				sent[page] = 1 // flushed
				a, _, err = p.do(wire.Request{Operation: wire.Flush, Pool: kept, Page: page, Count: 1, Generation: generation + 10}, nil)
				if err == nil {
					model[page] = 0
				}
			} else {
				sent[page] = generation + 10
				a, _, err = p.do(wire.Request{Operation: wire.Put, Pool: kept, Page: page, Generation: generation + 10}, sealed(page, generation+10))
				if err == nil && a.Status == wire.OK {
					model[page] = generation + 10
				}
			}
			if err != nil {
				break
			}
			delete(sent, page)
		}
		timer.Stop()
		p.conn.Close()
		cmd.Wait()
	}
}
