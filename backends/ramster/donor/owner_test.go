package donor

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/wire"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// fatalf is what tests and rapid's checks have in common.
type fatalf interface {
	Helper()
	Fatalf(format string, args ...any)
}

var (
	someone = wire.Party{Identity: [16]byte{1}, Epoch: [16]byte{1, 1}}
	another = wire.Party{Identity: [16]byte{2}, Epoch: [16]byte{2, 1}}
)

// place is a donor in a folder of the test's own, with a socket.
type place struct {
	path   string
	folder *sharedmem.Folder
	config Config
	donor  *Donor
	served sync.WaitGroup
	name   string // what the next connection identifies as
	mu     sync.Mutex
	socket string
}

func tempDir(t testing.TB, parent string) string {
	t.Helper()
	dir, err := os.MkdirTemp(parent, "tmemd-donor-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// newPlace makes a donor for clients a and b.
func newPlace(t testing.TB, config Config) *place {
	t.Helper()
	pl := makePlace(t, tempDir(t, "/dev/shm"), config)
	t.Cleanup(func() { pl.close(t) })
	return pl
}

func makePlace(t fatalf, dir string, config Config) *place {
	t.Helper()
	pl := &place{path: filepath.Join(dir, "m"), socket: filepath.Join(dir, "s"), name: "a"}
	config.Identity = [16]byte{9}
	if config.Limit == 0 {
		config.Limit = 16 << 20
	}
	if config.Capacity == 0 {
		config.Capacity = 64 << 20
	}
	if config.Clients == nil {
		config.Clients = map[string]Grant{"a": {Quota: 1 << 30}, "b": {Quota: 1 << 30}}
	}
	config.Identify = func(net.Conn) ([]string, error) {
		pl.mu.Lock()
		defer pl.mu.Unlock()
		if pl.name == "" {
			return nil, errors.New("no certificate")
		}
		return []string{"stranger", pl.name}, nil
	}
	pl.config = config
	open := New
	if _, err := os.Stat(pl.path); err == nil {
		open = Open // what a process left that was killed
	}
	pl.open(t, open)
	return pl
}

func (pl *place) open(t fatalf, open func(Config) (*Donor, error)) {
	t.Helper()
	pl.folder = openFolder(t, pl)
	pl.config.Memory = arena.Place{Folder: pl.folder, Name: "d"}
	var err error
	if pl.donor, err = open(pl.config); err != nil {
		t.Fatalf("%v", err)
	}
	pl.listen(t)
}

func (pl *place) listen(t fatalf) {
	t.Helper()
	os.Remove(pl.socket)
	l, err := net.Listen("unix", pl.socket)
	if err != nil {
		t.Fatalf("%v", err)
	}
	d := pl.donor
	pl.served.Go(func() { d.Serve(l) })
}

// reopen is what happens when the process dies and another takes over.
func (pl *place) reopen(t fatalf) {
	t.Helper()
	pl.folder.Leave()
	if err := errors.Join(pl.donor.Close(), pl.folder.Close()); err != nil {
		t.Fatalf("%v", err)
	}
	pl.served.Wait()
	pl.open(t, Open)
}

func (pl *place) close(t testing.TB) {
	t.Helper()
	if err := errors.Join(pl.donor.Close(), pl.folder.Close()); err != nil {
		t.Error(err)
	}
	pl.served.Wait()
}

// peer is an owner of pages, one request at a time.
type peer struct {
	conn   net.Conn
	number uint64
	buffer [wire.RequestSize + wire.MaxPayload]byte
	reply  [wire.ReplySize + wire.MaxPayload]byte
}

func (pl *place) dial(t fatalf, name string) *peer {
	t.Helper()
	pl.mu.Lock()
	pl.name = name
	pl.mu.Unlock()
	conn, err := net.Dial("unix", pl.socket)
	if err != nil {
		t.Fatalf("%v", err)
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	return &peer{conn: conn}
}

// session greets and makes sure that the session begins.
func (pl *place) session(t fatalf, name string, party wire.Party, session uint64) *peer {
	t.Helper()
	p := pl.dial(t, name)
	a, b, err := p.hello(party, session)
	if err != nil || a.Status != wire.OK {
		t.Fatalf("hello: %v, %v", a.Status, err)
	}
	if got := wire.DecodeWelcome(b); got != pl.donor.Party() {
		t.Fatalf("welcome by %+v, want %+v", got, pl.donor.Party())
	}
	return p
}

func (p *peer) hello(party wire.Party, session uint64) (wire.Reply, []byte, error) {
	var b [wire.HelloSize]byte
	party.EncodeHello(b[:])
	return p.do(wire.Request{Operation: wire.Hello, Generation: session}, b[:])
}

func (p *peer) send(r wire.Request, payload []byte) error {
	p.number++
	r.Number, r.Length = p.number, uint32(len(payload))
	r.Encode(p.buffer[:])
	copy(p.buffer[wire.RequestSize:], payload)
	_, err := p.conn.Write(p.buffer[:wire.RequestSize+len(payload)])
	return err
}

func (p *peer) receive() (wire.Reply, []byte, error) {
	if _, err := io.ReadFull(p.conn, p.reply[:wire.ReplySize]); err != nil {
		return wire.Reply{}, nil, err
	}
	a, err := wire.DecodeReply(p.reply[:])
	if err != nil {
		return a, nil, err
	}
	payload := p.reply[wire.ReplySize:][:a.Length]
	_, err = io.ReadFull(p.conn, payload)
	return a, payload, err
}

// do is one request with one reply.
func (p *peer) do(r wire.Request, payload []byte) (wire.Reply, []byte, error) {
	if err := p.send(r, payload); err != nil {
		return wire.Reply{}, nil, err
	}
	a, b, err := p.receive()
	if err == nil && (a.Number != p.number || a.Operation != r.Operation) {
		err = fmt.Errorf("reply %+v to %+v", a, r)
	}
	return a, b, err
}

func (p *peer) must(t fatalf, want wire.Status, r wire.Request, payload []byte) (wire.Reply, []byte) {
	t.Helper()
	a, b, err := p.do(r, payload)
	if err != nil {
		t.Fatalf("%v of page %d: %v", r.Operation, r.Page, err)
	}
	if a.Status != want {
		t.Fatalf("%v of page %d of pool %d, generation %d: %v, want %v", r.Operation, r.Page, r.Pool, r.Generation, a.Status, want)
	}
	return a, b
}

func (p *peer) pool(t fatalf, pool uint32, flags uint8) {
	t.Helper()
	p.must(t, wire.OK, wire.Request{Operation: wire.Pool, Pool: pool, Flags: flags}, nil)
}

func (p *peer) put(t fatalf, pool uint32, page, generation uint64, data []byte) wire.Status {
	t.Helper()
	a, _, err := p.do(wire.Request{Operation: wire.Put, Pool: pool, Page: page, Generation: generation}, data)
	if err != nil {
		t.Fatalf("put of page %d: %v", page, err)
	}
	return a.Status
}

// get returns nil if there is no such page.
func (p *peer) get(t fatalf, pool uint32, page uint64, flags uint8) (generation uint64, data []byte) {
	t.Helper()
	a, b, err := p.do(wire.Request{Operation: wire.Get, Pool: pool, Page: page, Count: 1, Flags: flags}, nil)
	if err != nil || a.Page != page {
		t.Fatalf("get of page %d: %+v, %v", page, a, err)
	}
	if a.Status != wire.OK {
		return 0, nil
	}
	return a.Generation, b
}

func (p *peer) flush(t fatalf, pool uint32, page uint64, count uint16, generation uint64) wire.Status {
	t.Helper()
	a, _, err := p.do(wire.Request{Operation: wire.Flush, Pool: pool, Page: page, Count: count, Generation: generation}, nil)
	if err != nil {
		t.Fatalf("flush of page %d: %v", page, err)
	}
	return a.Status
}

func (p *peer) room(t fatalf) (wire.Room, wire.Reply) {
	t.Helper()
	a, b := p.must(t, wire.OK, wire.Request{Operation: wire.Stats}, nil)
	return wire.DecodeRoom(b), a
}

// ends waits until the donor ended the connection.
func (p *peer) ends(t fatalf) {
	t.Helper()
	p.conn.SetDeadline(time.Now().Add(30 * time.Second))
	for {
		if _, err := p.conn.Read(p.reply[:]); err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Fatalf("the connection goes on")
			}
			return
		}
	}
}

// sealed is what a page and a generation look like to a donor: bytes of the length that
// pages have when they are compressed and sealed.
func sealed(page, generation uint64) []byte {
	random := rand.New(rand.NewPCG(page, generation))
	b := make([]byte, 32+random.IntN(2400))
	if random.IntN(10) == 0 {
		b = make([]byte, wire.MaxBlob)
	}
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

// eventually waits for something that the background does.
func eventually(t fatalf, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func openFolder(t fatalf, pl *place) *sharedmem.Folder {
	t.Helper()
	folder, err := sharedmem.OpenFolder(sharedmem.FolderConfig{Path: pl.path, Boot: "boot"})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return folder
}

// sum is an object's checksum.
func sum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

func isBounds(err error) bool { return errors.Is(err, wire.ErrBounds) }
