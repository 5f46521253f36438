package ramster

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/ramster/donor"
	"github.com/tmemd/tmemd/backends/ramster/wire"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// world is an owner of pages with real sessions, donors that are real, and between
// them lines that the test disturbs.
type world struct {
	testing.TB
	dir     string
	seed    uint64
	config  Config
	folder  *sharedmem.Folder
	cache   *Cache
	host    *backendtest.Host
	pages   uint64 // of the export, whose number is 1
	donors  map[string]*host
	lenders sync.RWMutex // held to change donors
	witness witness
}

// witness has seen everything that left the owner.
type witness struct {
	mu       sync.Mutex
	hash     maphash.Seed
	sealed   map[uint64]uint64 // what was put, by generation; guarded by mu
	sessions map[uint64]string // to whom, by number; guarded by mu
	first    map[uint64]frame  // the first put of each page; guarded by mu
}

// host is a donor's: its process comes and goes.
type host struct {
	*line
	testing.TB
	config donor.Config
	path   string

	mu     sync.Mutex
	folder *sharedmem.Folder // guarded by mu
	donor  *donor.Donor      // guarded by mu; nil while there is no process
	listen chan net.Conn     // guarded by mu
	served sync.WaitGroup
}

const donorQuota = 64 << 20

// newWorld makes donors and an owner that knows those that are named first.
func newWorld(t testing.TB, config Config, pages uint64, names ...string) *world {
	t.Helper()
	w := &world{TB: t, seed: seedOf(t), config: config, pages: pages, donors: map[string]*host{}}
	w.witness.hash = maphash.MakeSeed()
	w.witness.forget()
	dir, err := os.MkdirTemp("/dev/shm", "tmemd-ramster-")
	if err != nil {
		t.Fatal(err)
	}
	w.dir = dir
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range names {
		w.addHost(name)
		w.config.Donors = append(w.config.Donors, Donor{name, name})
	}
	w.config.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		w.lenders.RLock()
		h := w.donors[address]
		w.lenders.RUnlock()
		return h.dial(ctx)
	}
	w.openFolder()
	if w.cache, err = New(w.config); err != nil {
		t.Fatal(err)
	}
	w.host = &backendtest.Host{Backend: w.cache}
	if err := w.host.Open(1, pages); err != nil {
		t.Fatal(err)
	}
	w.awaitUp()
	return w
}

// wireConfig has times that let a test go on, and deadlines that a busy machine
// keeps as a rule.
func wireConfig() Config {
	return Config{
		Pages: 1 << 15, Staging: 4 << 20, Deadline: 250 * time.Millisecond, Patience: 20 * time.Second,
		Lost: 100 * time.Millisecond, Rate: 1 << 30, Identity: [16]byte{7},
	}
}

func (w *world) openFolder() {
	w.Helper()
	folder, err := sharedmem.OpenFolder(sharedmem.FolderConfig{Path: filepath.Join(w.dir, "owner"), Boot: "boot"})
	if err != nil {
		w.Fatal(err)
	}
	w.folder, w.config.Memory = folder, arena.Place{Folder: folder, Name: "r"}
}

// addHost makes a donor that the owner does not know yet.
func (w *world) addHost(name string) {
	w.Helper()
	h := &host{TB: w.TB, path: filepath.Join(w.dir, name)}
	h.line = newLine(w.TB, name, w.seed, h.accept)
	h.saw = func(f frame) { w.witness.see(w.TB, name, f) }
	h.config = donor.Config{
		Limit: 32 << 20, Capacity: 64 << 20, Clients: map[string]donor.Grant{"owner": {Quota: donorQuota}},
		Identify: func(net.Conn) ([]string, error) { return []string{"owner"}, nil },
	}
	copy(h.config.Identity[:], name+" is a donor")
	w.lenders.Lock()
	w.donors[name] = h
	w.lenders.Unlock()
	h.start(false)
	w.Cleanup(func() { h.kill(false); h.line.close() })
}

// forget is for an owner of another epoch.
func (n *witness) forget() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sealed, n.sessions, n.first = map[uint64]uint64{}, map[uint64]string{}, map[uint64]frame{}
}

// see notes what a request tells of generations: none may ever stand for two
// things, as the nonce of what is sealed is made of it.
func (n *witness) see(t testing.TB, to string, f frame) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := f.request
	switch r.Operation {
	case wire.Hello:
		if before, again := n.sessions[r.Generation]; again {
			t.Errorf("session %d with %s, and before with %s", r.Generation, to, before)
		}
		n.sessions[r.Generation] = to
	case wire.Put:
		sum := maphash.Bytes(n.hash, append(fmt.Appendf(nil, "%d %d ", r.Pool, r.Page), f.payload...))
		if before, again := n.sealed[r.Generation]; again && before != sum {
			t.Errorf("generation %d stands for two different messages, one of page %d", r.Generation, r.Page)
		}
		n.sealed[r.Generation] = sum
		if _, known := n.first[r.Page]; !known {
			n.first[r.Page] = f
		}
	}
}

// start begins the donor's process: with what it left, or as a new one.
func (h *host) start(kept bool) {
	h.Helper()
	folder, err := sharedmem.OpenFolder(sharedmem.FolderConfig{Path: h.path, Boot: "boot"})
	if err != nil {
		h.Fatal(err)
	}
	config := h.config
	config.Memory = arena.Place{Folder: folder, Name: "d"}
	make := donor.New
	if kept {
		make = donor.Open
	}
	d, err := make(config)
	if err != nil {
		h.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.folder, h.donor, h.listen = folder, d, newListener()
	l := listener(h.listen)
	h.served.Go(func() { _ = d.Serve(l) })
}

// kill ends the process as SIGKILL does; what it has stays if kept.
func (h *host) kill(kept bool) {
	h.Helper()
	h.cut()
	h.mu.Lock()
	d, folder := h.donor, h.folder
	h.donor = nil
	h.mu.Unlock()
	if d == nil {
		return
	}
	h.cut() // who connected meanwhile
	if kept {
		folder.Leave()
	}
	if err := errors.Join(d.Close(), folder.Close()); err != nil {
		h.Error(err)
	}
	h.served.Wait()
}

func (h *host) accept(conn net.Conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.donor == nil {
		return false
	}
	select {
	case h.listen <- conn:
		return true
	default:
		return false
	}
}

// count is how many pages the donor has.
func (h *host) count() (pages int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.donor != nil {
		for _, c := range h.donor.Stats().Clients {
			pages += c.Persistent
		}
	}
	return pages
}

// listener hands connections to [donor.Donor.Serve].
type listener chan net.Conn

func newListener() chan net.Conn { return make(chan net.Conn, 64) }

func (l listener) Accept() (net.Conn, error) {
	if conn, open := <-l; open {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (l listener) Close() (err error) {
	defer func() { _ = recover() }() // closed twice: by Close of the donor, and by Serve
	close(l)
	for conn := range l {
		err = errors.Join(err, conn.Close())
	}
	return err
}

func (l listener) Addr() net.Addr { return &net.UnixAddr{Name: "pair", Net: "unix"} }

// await waits until something holds, and says what was the matter if it never does.
func (w *world) await(what string, holds func() (bool, string)) {
	w.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		ok, why := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("waited in vain for %s: %s\n%s", what, why, w.describe())
		}
	}
}

func (w *world) describe() (text string) {
	text = fmt.Sprintf("%+v\n", w.cache.Remote())
	for _, d := range w.cache.Donors() {
		text += fmt.Sprintf("%s: %s %s, %d pages, there %d, free %d, wanted %d, frozen %v, rejected %d, missing %d, waiting %d\n",
			d.Name, d.State, d.Reason, d.Pages, w.donors[d.Name].count(), d.Free, d.Wanted, d.Frozen, d.Rejected, d.Missing, d.Session.Waiting)
	}
	return text
}

func (w *world) awaitUp() {
	w.Helper()
	w.await("donors to be up", func() (bool, string) {
		for _, d := range w.cache.Donors() {
			if d.State != "up" {
				return false, d.Name + " is " + d.State
			}
		}
		return true, ""
	})
}

// settle waits until there is nothing left to be done: every page has its copies, and donors have
// nothing else. Nobody changes pages meanwhile.
func (w *world) settle(copies int64) {
	w.Helper()
	w.awaitUp()
	w.await("things to settle", func() (bool, string) {
		r := w.cache.Remote()
		if r.Staged != 0 {
			return false, "pages are staged"
		}
		known, named := map[string]bool{}, int64(0)
		for _, d := range w.cache.Donors() {
			known[d.Name] = true
			named += d.Pages // where it is believed to have them
			if there := w.donors[d.Name].count(); there != d.Pages {
				return false, fmt.Sprintf("donor %s has %d pages, stubs name it %d times", d.Name, there, d.Pages)
			}
		}
		for name, h := range w.donors {
			if there := h.count(); !known[name] && there != 0 {
				return false, fmt.Sprintf("donor %s has %d pages, and has left", name, there)
			}
		}
		return named == copies*r.Pages, fmt.Sprintf("%d pages have %d copies", r.Pages, named)
	})
}

// check reads every page, which is what was written. With no Patience to speak of a load that is late fails,
// as it does on a busy machine: then it is tried again.
func (w *world) check() {
	w.Helper()
	dst := make([]byte, backends.PageSize)
	for page := range w.pages {
		w.await("a page to be had", func() (bool, string) {
			err := w.host.Read(key(page), dst)
			if err == nil {
				return true, ""
			}
			if !errors.Is(err, backends.ErrTransient) {
				w.Fatal(err)
			}
			return false, err.Error()
		})
	}
}

// end closes everything, and expects donors to be left with nothing.
func (w *world) end() {
	w.Helper()
	w.host.Close(1)
	for name, h := range w.donors {
		w.await("donors to forget", func() (bool, string) { return h.count() == 0, name })
	}
	if err := errors.Join(w.cache.Close(), w.folder.Close()); err != nil {
		w.Error(err)
	}
}

func key(page uint64) backends.Key { return backends.Key{Export: 1, Page: page} }
