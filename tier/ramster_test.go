package tier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster"
	"github.com/tmemd/tmemd/backends/ramster/donor"
	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/frontswap"
)

// lender is a donor of memory in this process, with connections that are pipes. It
// dies and comes back, with or without what it had.
type lender struct {
	t      testing.TB
	path   string
	config donor.Config
	served sync.WaitGroup

	mu     sync.Mutex
	donor  *donor.Donor      // guarded by mu; nil while it is dead
	folder *sharedmem.Folder // guarded by mu
	accept chan net.Conn     // guarded by mu
	conns  []net.Conn        // guarded by mu
}

// lenders are donors by address.
type lenders map[string]*lender

func newLenders(t testing.TB, names ...string) lenders {
	dir, err := os.MkdirTemp("/dev/shm", "tmemd-lenders-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	all := lenders{}
	for _, name := range names {
		l := &lender{t: t, path: filepath.Join(dir, name)}
		l.config = donor.Config{
			Limit: 8 << 20, Capacity: 8 << 20, Clients: map[string]donor.Grant{"owner": {Quota: 8 << 20}},
			Identify: func(net.Conn) ([]string, error) { return []string{"owner"}, nil },
		}
		copy(l.config.Identity[:], name+" lends")
		l.start(false)
		t.Cleanup(func() { l.kill(false) })
		all[name] = l
	}
	return all
}

func (l *lender) start(kept bool) {
	folder, err := sharedmem.OpenFolder(sharedmem.FolderConfig{Path: l.path, Boot: "boot"})
	if err != nil {
		l.t.Error(err)
		return
	}
	config := l.config
	config.Memory = arena.Place{Folder: folder, Name: "d"}
	open := donor.New
	if kept {
		open = donor.Open
	}
	d, err := open(config)
	if err != nil {
		l.t.Error(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.folder, l.donor, l.accept = folder, d, make(chan net.Conn, 64)
	accept := &pipes{conns: l.accept}
	l.served.Go(func() { _ = d.Serve(accept) })
}

// kill ends it as SIGKILL does.
func (l *lender) kill(kept bool) {
	l.cut()
	l.mu.Lock()
	d, folder := l.donor, l.folder
	l.donor = nil
	l.mu.Unlock()
	if d == nil {
		return
	}
	l.cut()
	if kept {
		folder.Leave()
	}
	if err := errors.Join(d.Close(), folder.Close()); err != nil {
		l.t.Error(err)
	}
	l.served.Wait()
}

// cut ends all connections.
func (l *lender) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		conn.Close()
	}
	l.conns = nil
}

func (l *lender) pages() (pages int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.donor != nil {
		for _, c := range l.donor.Stats().Clients {
			pages += c.Persistent
		}
	}
	return pages
}

func (all lenders) dial(_ context.Context, address string) (net.Conn, error) {
	l := all[address]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.donor == nil {
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	select {
	case l.accept <- theirs:
		l.conns = append(l.conns, ours)
		return ours, nil
	default:
		return nil, errors.New("connection refused")
	}
}

// pipes is a listener.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	if conn, open := <-p.conns; open {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (p *pipes) Close() error {
	p.once.Do(func() {
		close(p.conns)
		for conn := range p.conns {
			conn.Close()
		}
	})
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// ramster makes a backend that knows all of them.
func (all lenders) ramster(t testing.TB, copies int) *ramster.Cache {
	config := ramster.Config{
		Pages: 4096, Staging: 1 << 20, Copies: copies, Dial: all.dial,
		Deadline: 200 * time.Millisecond, Patience: 100 * time.Millisecond, Lost: 50 * time.Millisecond, Rate: 1 << 30,
	}
	for name := range all {
		config.Donors = append(config.Donors, ramster.Donor{Name: name, Address: name})
	}
	c, err := ramster.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRamsterLinearizable is TestLinearizable with other hosts' memory, alone and behind
// compressed memory: pages migrate, backends come and go, and donors die, return, forget
// and are cut off, one or all of them.
func TestRamsterLinearizable(t *testing.T) { soak(t, 2, ramsterRound) }

func ramsterRound(t *testing.T, seed uint64) bool {
	const pages, clients, requests = frontswap.BlockPages + 8, 5, 250
	h := &history{t: t, f: newFrontswap(), pages: pages, start: time.Now(), ops: make([][]porcupine.Operation, 2*pages)}
	d, err := Open(Config{Name: "history", ID: 1, Storage: newMemoryStorage(pages), Frontswap: h.f, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	h.d = d
	all := newLenders(t, "a", "b", "c")
	var work, operators sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	operators.Go(func() { h.operateRamster(ctx, all, rand.New(rand.NewPCG(seed, 100))) })
	operators.Go(func() { all.operate(ctx, rand.New(rand.NewPCG(seed, 101))) })
	for c := range clients {
		work.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(c)))
			for range requests {
				h.request(c, random)
				time.Sleep(time.Duration(random.IntN(2000)) * time.Microsecond) // as much happens to donors as to pages
			}
		})
	}
	work.Wait()
	stop()
	operators.Wait()
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	for _, b := range h.f.Backends() {
		if _, err := h.f.Unregister(context.Background(), b.Name); err != nil {
			t.Errorf("unload %s: %v", b.Name, err)
		}
	}
	for _, l := range all { // many rounds are one test
		l.kill(false)
	}
	return h.linearizable()
}

// operateRamster does random things to backends: at most three, with ramster last as a rule.
func (h *history) operateRamster(ctx context.Context, all lenders, random *rand.Rand) {
	fresh := func() backends.Backend {
		if random.IntN(3) == 0 {
			z, err := zcache.New(zcache.Config{Limit: 1 << 20})
			if err != nil {
				h.t.Error(err)
			}
			return z
		}
		return all.ramster(h.t, 1+random.IntN(2))
	}
	for i := 0; ctx.Err() == nil; i++ {
		loaded := h.f.Backends()
		next := fmt.Sprint("b", i)
		if len(loaded) == 0 {
			_ = h.f.Register(next, fresh())
			continue
		}
		name := loaded[random.IntN(len(loaded))].Name
		switch random.IntN(10) {
		case 0, 1:
			if len(loaded) < 3 {
				_ = h.f.Register(next, fresh())
				for _, b := range loaded { // compressed memory first
					if b.Kind == "zcache" {
						_ = h.f.Order([]string{b.Name})
					}
				}
			}
		case 2:
			_, _ = h.f.Unregister(context.Background(), name)
		case 3:
			_, _ = h.f.Replace(context.Background(), name, next, fresh())
		case 4:
			_ = h.f.Freeze(name, "test")
		case 5:
			_ = h.f.Thaw(name)
		case 6:
			_, _ = h.f.Shrink(context.Background(), name, 1+random.Uint64N(20))
		case 7, 8:
			_, _ = h.f.Migrate(context.Background(), name, 1+random.Uint64N(20))
		case 9:
			h.d.SetWritethrough(Writethrough(random.IntN(3)))
		}
		time.Sleep(time.Duration(random.IntN(10)) * time.Millisecond)
	}
}

// operate does random things to donors until ctx is done, and leaves them alive.
func (all lenders) operate(ctx context.Context, random *rand.Rand) {
	names := []string{"a", "b", "c"}
	for ctx.Err() == nil {
		some := names
		if random.IntN(5) > 0 {
			one := random.IntN(len(names))
			some = names[one : one+1]
		}
		kept, dead := random.IntN(2) == 0, time.Duration(random.IntN(30))*time.Millisecond
		switch random.IntN(4) {
		case 0:
			for _, name := range some {
				all[name].cut()
			}
		case 1:
			for _, name := range some {
				all[name].donor.Freeze()
			}
			time.Sleep(dead)
			for _, name := range some {
				all[name].donor.Thaw()
			}
		default:
			for _, name := range some {
				all[name].kill(kept)
			}
			time.Sleep(dead)
			for _, name := range some {
				all[name].start(kept)
			}
		}
		time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
	}
}

// TestRamsterAllDonorsLost loses all donors at once. With writethrough no page is lost; without,
// those that were nowhere else are errors, counted, and never other bytes.
func TestRamsterAllDonorsLost(t *testing.T) {
	for _, mode := range []Writethrough{WritethroughOff, WritethroughAsync, WritethroughSync} {
		t.Run(mode.String(), func(t *testing.T) {
			const n = 400
			f := newFrontswap()
			d := openDevice(t, newMemoryStorage(n), f)
			d.SetWritethrough(mode)
			all := newLenders(t, "a", "b")
			copies := 2
			if mode != WritethroughOff {
				copies = 1 // storage is the second
			}
			c := all.ramster(t, copies)
			register(t, f, "r", c)
			want := pages(n, 7)
			mustWrite(t, d, want, 0)
			if mode == WritethroughAsync {
				synced(t, d)
			}
			eventually(t, "pages are at donors", func() bool { r := c.Remote(); return r.Staged == 0 && r.Pages > n/2 }, func() string {
				return fmt.Sprintf("%+v\n%+v\n%+v\n%+v", c.Remote(), c.Donors(), c.Stats(), f.Backends())
			})
			for _, l := range all {
				l.kill(false)
			}
			var failed atomic.Int64
			check := func() {
				failed.Store(0)
				got := make([]byte, pageSize)
				for page := range int64(n) {
					if _, err := d.ReadAt(got, page*pageSize); err != nil {
						failed.Add(1)
					} else if !bytes.Equal(got, want[page*pageSize:][:pageSize]) {
						t.Fatalf("page %d: other bytes", page)
					}
				}
			}
			if mode != WritethroughOff {
				check() // while they are away
				if failed.Load() != 0 {
					t.Errorf("%d pages failed", failed.Load())
				}
			}
			for _, l := range all {
				l.start(false)
			}
			if mode == WritethroughOff {
				eventually(t, "lost pages are counted", func() bool { r := c.Remote(); return r.Lost == r.Pages })
			}
			check()
			lost := c.Remote().Lost
			if mode != WritethroughOff {
				lost = 0
			}
			if failed.Load() != lost {
				t.Errorf("%d pages failed, %d were lost", failed.Load(), lost)
			}
			mustWrite(t, d, want, 0)
			check()
			if failed.Load() != 0 {
				t.Errorf("%d pages failed that were written anew", failed.Load())
			}
			if _, err := f.Unregister(t.Context(), "r"); err != nil {
				t.Fatal(err)
			}
			check()
			for _, l := range all {
				eventually(t, "donors have nothing", func() bool { return l.pages() == 0 })
			}
		})
	}
}

// eventually waits until something holds, and says what there is instead if it never does.
func eventually(t *testing.T, what string, is func() bool, instead ...func() string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			for _, describe := range instead {
				t.Log(describe())
			}
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}
