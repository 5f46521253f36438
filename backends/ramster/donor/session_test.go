package donor

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// TestDeny: who has no grant gets one word, and the same whatever it says.
func TestDeny(t *testing.T) {
	pl := newPlace(t, Config{})
	newPeer(t, pl).put(t, kept, 1, 5, sealed(1, 5))
	for name, greet := range map[string]func(p *peer) error{
		"unknown": func(p *peer) error {
			a, b, err := p.hello(someone, 100)
			if err == nil && (a != wire.Reply{Status: wire.Denied, Operation: wire.Hello, Number: 1} || len(b) != 0) {
				t.Errorf("the reply is %+v, %x", a, b)
			}
			return err
		},
		"unknown, of another version": func(p *peer) error {
			var b [wire.HelloSize]byte
			someone.EncodeHello(b[:])
			b[7]++
			a, _, err := p.do(wire.Request{Operation: wire.Hello, Generation: 100}, b[:])
			if err == nil && a.Status != wire.Denied {
				t.Errorf("%v, want denied", a.Status)
			}
			return err
		},
	} {
		p := pl.dial(t, "c")
		if err := greet(p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		p.ends(t)
		p.conn.Close()
	}
	p := pl.dial(t, "") // no name at all
	p.ends(t)
	p.conn.Close()
	if s := pl.donor.Stats(); s.Denied != 2 || s.Unidentified != 1 || s.Sessions != 1 {
		t.Errorf("%d denied, %d unidentified, %d sessions", s.Denied, s.Unidentified, s.Sessions)
	}
}

// TestForeignIdentity: another client that claims an owner's identity gets neither its
// pages nor its session.
func TestForeignIdentity(t *testing.T) {
	pl := newPlace(t, Config{})
	a := newPeer(t, pl)
	a.put(t, kept, 1, 5, sealed(1, 5))
	b := pl.session(t, "b", someone, 1<<40)
	defer b.conn.Close()
	b.must(t, wire.Gone, wire.Request{Operation: wire.Get, Pool: kept, Page: 1, Count: 1}, nil)
	b.pool(t, kept, 0)
	if _, got := b.get(t, kept, 1, 0); got != nil {
		t.Error("a page of another client")
	}
	b.put(t, kept, 1, 6, sealed(9, 9))
	if generation, got := a.get(t, kept, 1, 0); generation != 5 || !bytes.Equal(got, sealed(1, 5)) {
		t.Errorf("generation %d", generation)
	}
	// Nor does another epoch of it destroy anything.
	c := pl.session(t, "b", wire.Party{Identity: someone.Identity, Epoch: [16]byte{7}}, 1)
	defer c.conn.Close()
	if generation, _ := a.get(t, kept, 1, 0); generation != 5 {
		t.Errorf("generation %d", generation)
	}
}

func TestGrants(t *testing.T) {
	pl := newPlace(t, Config{})
	a, b := newPeer(t, pl), pl.session(t, "b", another, 1)
	defer b.conn.Close()
	b.pool(t, 1, 0)
	a.put(t, kept, 1, 5, sealed(1, 5))
	if err := pl.donor.SetClients(map[string]Grant{"b": {Quota: 1 << 20, Weight: 3}}); err != nil {
		t.Fatal(err)
	}
	a.ends(t)
	if room, _ := b.room(t); room.Quota != 1<<20 || room.Weight != 3 {
		t.Errorf("%+v", room)
	}
	p := pl.dial(t, "a")
	if r, _, err := p.hello(someone, 5); err != nil || r.Status != wire.Denied {
		t.Errorf("%v, %v", r.Status, err)
	}
	p.conn.Close()
	// Its pages stay until it is back.
	if err := pl.donor.SetClients(map[string]Grant{"b": {Quota: 1 << 20}, "a": {Quota: 1 << 20}}); err != nil {
		t.Fatal(err)
	}
	a = pl.session(t, "a", someone, 6)
	if generation, _ := a.get(t, kept, 1, 0); generation != 5 {
		t.Errorf("generation %d", generation)
	}
	if err := pl.donor.Forget("a"); err == nil {
		t.Error("a client with a grant was forgotten")
	}
	a.conn.Close()
	if err := pl.donor.SetClients(map[string]Grant{"b": {Quota: 1 << 20}}); err != nil {
		t.Fatal(err)
	}
	if err := pl.donor.Forget("a"); err != nil {
		t.Error(err)
	}
	s := pl.donor.Stats()
	if len(s.Clients) != 1 || s.Clients[0].Name != "b" || s.UsedBytes != 0 || s.Pools != 1 {
		t.Errorf("after the client was forgotten: %+v", s.Clients)
	}
	for _, clients := range []map[string]Grant{{"": {}}, {string(make([]byte, maxName+1)): {}}, {"a": {Quota: -1}}, {"a": {Weight: maxWeight + 1}}} {
		if err := pl.donor.SetClients(clients); err == nil {
			t.Errorf("a table was accepted: %+v", clients)
		}
	}
}

func TestQuota(t *testing.T) {
	const quota = 256 << 10
	pl := newPlace(t, Config{Clients: map[string]Grant{"a": {Quota: quota}, "b": {Quota: 1 << 20}, "c": {}}})
	p := newPeer(t, pl)
	page := uint64(0)
	for ; ; page++ {
		status := p.put(t, kept, page, 5, sealed(page, 5)[:32])
		if status == wire.Full {
			break
		}
		if status != wire.OK || page > quota/64 {
			t.Fatalf("page %d: %v", page, status)
		}
	}
	room, _ := p.room(t)
	if room.Used > quota || room.Used < quota-8192 || room.Free > 8192 || room.Pages != page {
		t.Errorf("%d pages, %+v", page, room)
	}
	// What takes no more is welcome; a version that was refused leaves no older one.
	if got := p.put(t, kept, 0, 6, sealed(0, 6)[:32]); got != wire.OK {
		t.Errorf("in place of another: %v", got)
	}
	if got := p.put(t, kept, 1, 6, make([]byte, 4000)); got != wire.Full {
		t.Errorf("a longer one: %v", got)
	}
	if generation, _ := p.get(t, kept, 1, 0); generation != 0 {
		t.Errorf("generation %d is left", generation)
	}
	// Its ephemeral pages go before its persistent ones are refused.
	p.flush(t, kept, 0, 2000, 100)
	var stored uint64
	for page := range uint64(300) {
		if p.put(t, dropped, page, 7, make([]byte, 300)) == wire.OK {
			stored++
		}
	}
	for page := range uint64(300) {
		if got := p.put(t, kept, 1<<20+page, 8, make([]byte, 300)); got != wire.OK {
			t.Fatalf("page %d with ephemeral ones in the way: %v", page, got)
		}
	}
	if stored != 300 || pl.donor.Stats().Evicted == 0 {
		t.Errorf("%d stored, %d evicted", stored, pl.donor.Stats().Evicted)
	}
	// Others have theirs.
	b := pl.session(t, "b", another, 1)
	defer b.conn.Close()
	b.pool(t, 1, 0)
	if got := b.put(t, 1, 1, 1, make([]byte, 4000)); got != wire.OK {
		t.Errorf("another client: %v", got)
	}
	c := pl.session(t, "c", someone, 1)
	defer c.conn.Close()
	c.pool(t, 1, 0)
	if got := c.put(t, 1, 1, 1, make([]byte, 40)); got != wire.Full {
		t.Errorf("a client without a quota: %v", got)
	}
}

// TestFencing: the session before acts no more when the next one is answered.
func TestFencing(t *testing.T) {
	pl := newPlace(t, Config{})
	first := pl.session(t, "a", someone, 10)
	defer first.conn.Close()
	first.pool(t, kept, 0)
	for session := uint64(11); session < 60; session++ {
		// It is in the middle of storing.
		for page := range uint64(50) {
			if first.send(wire.Request{Operation: wire.Put, Pool: kept, Page: page, Generation: session * 10}, sealed(page, session)) != nil {
				break
			}
		}
		next := pl.session(t, "a", someone, session)
		defer next.conn.Close()
		next.must(t, wire.OK, wire.Request{Operation: wire.Put, Pool: kept, Page: 1000, Generation: session}, sealed(1, 1))
		next.flush(t, kept, 0, 100, session*10)
		for page := range uint64(50) {
			if generation, _ := next.get(t, kept, page, 0); generation != 0 {
				t.Fatalf("session %d: page %d of the session before came afterwards", session, page)
			}
		}
		first.ends(t)
		first = next
	}
	for _, session := range []uint64{1, 58, 59} {
		p := pl.dial(t, "a")
		if a, _, err := p.hello(someone, session); err != nil || a.Status != wire.Denied {
			t.Errorf("session %d: %v, %v", session, a.Status, err)
		}
		p.ends(t)
		p.conn.Close()
	}
	if generation, _ := first.get(t, kept, 1000, 0); generation != 59 {
		t.Error("an old session ended the current one")
	}
}

// TestEpoch: an owner that lost its key leaves nothing behind.
func TestEpoch(t *testing.T) {
	pl := newPlace(t, Config{})
	p := newPeer(t, pl)
	b := pl.session(t, "b", another, 1)
	defer b.conn.Close()
	b.pool(t, kept, 0)
	b.put(t, kept, 1, 3, sealed(1, 3))
	for page := range uint64(2000) {
		p.put(t, kept, page, 5, sealed(page, 5))
	}
	next := pl.session(t, "a", wire.Party{Identity: someone.Identity, Epoch: [16]byte{1, 2}}, 1)
	defer next.conn.Close()
	p.ends(t)
	next.must(t, wire.Gone, wire.Request{Operation: wire.Get, Pool: kept, Page: 1, Count: 1}, nil)
	next.pool(t, kept, 0)
	if _, got := next.get(t, kept, 1, 0); got != nil {
		t.Error("a page of the epoch before")
	}
	if room, _ := next.room(t); room.Used != 0 || room.Pages != 0 {
		t.Errorf("%+v", room)
	}
	if generation, _ := b.get(t, kept, 1, 0); generation != 3 {
		t.Error("another owner lost its page")
	}
}

func TestGreetings(t *testing.T) {
	pl := newPlace(t, Config{HelloTimeout: 200 * time.Millisecond})
	for name, say := range map[string]func(p *peer) error{
		"nothing":      func(p *peer) error { return nil },
		"half of it":   func(p *peer) error { _, err := p.conn.Write(make([]byte, 10)); return err },
		"zeros":        func(p *peer) error { _, err := p.conn.Write(make([]byte, 4096)); return err },
		"another word": func(p *peer) error { return p.send(wire.Request{Operation: wire.Stats}, nil) },
		"later number": func(p *peer) error {
			p.number++
			return p.send(wire.Request{Operation: wire.Hello, Generation: 1}, make([]byte, wire.HelloSize))
		},
		"no magic": func(p *peer) error {
			return p.send(wire.Request{Operation: wire.Hello, Generation: 1}, make([]byte, wire.HelloSize))
		},
	} {
		p := pl.dial(t, "a")
		if err := say(p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		p.ends(t)
		p.conn.Close()
	}
	p := pl.dial(t, "a")
	defer p.conn.Close()
	var b [wire.HelloSize]byte
	someone.EncodeHello(b[:])
	b[7] = 9
	a, payload, err := p.do(wire.Request{Operation: wire.Hello, Generation: 1}, b[:])
	if err != nil || a.Status != wire.Version || !bytes.Equal(payload, []byte{wire.ProtocolVersion}) {
		t.Errorf("another version: %+v, %x, %v", a, payload, err)
	}
	p.ends(t)
	// Who greeted in time may take its time.
	p = pl.session(t, "a", someone, 1)
	defer p.conn.Close()
	time.Sleep(400 * time.Millisecond)
	p.room(t)
	p.must(t, wire.Bad, wire.Request{Operation: wire.Hello, Generation: 2, Length: wire.HelloSize}, b[:])
	p.ends(t)
}

// TestNumbers: what is repeated acts once, and what is missing is noticed.
func TestNumbers(t *testing.T) {
	pl := newPlace(t, Config{})
	p := newPeer(t, pl)
	p.put(t, kept, 1, 5, sealed(1, 5))
	frames := func(numbers ...uint64) {
		t.Helper()
		for _, n := range numbers {
			p.number = n - 1
			if err := p.send(wire.Request{Operation: wire.Flush, Pool: kept, Page: 1, Count: 1, Generation: 5}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if generation, _ := p.get(t, kept, 1, 0); generation != 5 {
		t.Fatalf("generation %d", generation)
	}
	now := p.number
	frames(now, now-1, 1)
	p.number = now
	if generation, _ := p.get(t, kept, 1, 0); generation != 5 {
		t.Error("a request that was repeated acted again")
	}
	frames(p.number + 2)
	p.ends(t)
	p = pl.session(t, "a", someone, 2)
	defer p.conn.Close()
	if generation, _ := p.get(t, kept, 1, 0); generation != 5 {
		t.Error("a request behind a lost one acted")
	}
}

// TestSlowReader: who does not read replies is cut off, and holds up nobody.
func TestSlowReader(t *testing.T) {
	pl := newPlace(t, Config{WriteTimeout: 300 * time.Millisecond})
	p := newPeer(t, pl)
	b := pl.session(t, "b", another, 1)
	defer b.conn.Close()
	p.put(t, kept, 1, 5, make([]byte, wire.MaxBlob))
	p.conn.SetWriteDeadline(time.Now().Add(20 * time.Second))
	for p.send(wire.Request{Operation: wire.Get, Pool: kept, Page: 1, Count: 64}, nil) == nil {
		b.room(t)
	}
	eventually(t, "the session ends", func() bool { return pl.donor.Stats().Sessions == 1 })
}

func TestSessionsAreBounded(t *testing.T) {
	pl := newPlace(t, Config{MaxSessions: 3})
	var peers []*peer
	for i := range 3 {
		p := pl.session(t, "a", wire.Party{Identity: [16]byte{byte(i)}}, 1)
		defer p.conn.Close()
		peers = append(peers, p)
	}
	refused := func() wire.Status {
		p := pl.dial(t, "a")
		defer p.conn.Close()
		a, _, err := p.hello(wire.Party{Identity: [16]byte{99}}, 1)
		if err != nil {
			t.Fatal(err)
		}
		return a.Status
	}
	if got := refused(); got != wire.Denied {
		t.Errorf("one more session: %v", got)
	}
	// One in the place of its own is no more.
	p := pl.session(t, "a", wire.Party{Identity: [16]byte{0}}, 2)
	defer p.conn.Close()
	peers[1].conn.Close()
	eventually(t, "the session ends", func() bool { return pl.donor.Stats().Sessions == 2 })
	if got := refused(); got != wire.OK {
		t.Errorf("in the place of one that ended: %v", got)
	}
	// Nor do identities that come and go fill anything.
	for i := range 3 * maxOwners {
		eventually(t, "the session ends", func() bool { return pl.donor.Stats().Sessions <= 2 })
		pl.session(t, "a", wire.Party{Identity: [16]byte{200, byte(i)}}, 1).conn.Close()
	}
	if n := len(pl.donor.owners); n > maxOwners {
		t.Errorf("%d owners are remembered", n)
	}
}

func TestServeEnds(t *testing.T) {
	pl := newPlace(t, Config{})
	l, err := net.Listen("unix", pl.socket+"2")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- pl.donor.Serve(l) }()
	p := newPeer(t, pl)
	l.Close()
	if err := <-done; err == nil || err == ErrClosed {
		t.Errorf("Serve of a listener that failed: %v", err)
	}
	p.room(t)
}
