package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/mover"
	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
	"github.com/tmemd/tmemd/tier"
)

const (
	vmPages  = 2048 // of the export that is moved
	vmSize   = "8MiB"
	vmGuests = 3
)

// guests are clients that write, trim and verify pages of their own, and connect to
// whichever daemon lets them in when their connection dies, as QEMU does. A request whose
// reply did not come is sent again.
type guests struct {
	t       *testing.T
	sockets []string
	stop    atomic.Bool
	all     sync.WaitGroup
	done    atomic.Int64 // requests
	again   atomic.Int64 // connections after the first
}

func startGuests(t *testing.T, daemons ...*instance) *guests {
	g := &guests{t: t}
	for _, d := range daemons {
		g.sockets = append(g.sockets, filepath.Join(d.dir, "nbd.sock"))
	}
	for n := range uint64(vmGuests) {
		g.all.Go(func() { g.run(n) })
	}
	return g
}

// end stops the guests; each has read all of its pages by then.
func (g *guests) end() {
	g.stop.Store(true)
	g.all.Wait()
}

func (g *guests) connect() (*nbdtest.Client, error) {
	for deadline := time.Now().Add(patient); ; time.Sleep(time.Millisecond) {
		for _, socket := range g.sockets {
			if c, err := nbdtest.Dial("unix", socket, "vm1"); err == nil {
				return c, nil
			}
		}
		if time.Now().After(deadline) {
			return nil, errors.New("no daemon lets the client in")
		}
	}
}

func (g *guests) run(n uint64) {
	random := rand.New(rand.NewPCG(n, uint64(time.Now().UnixNano())))
	versions := map[uint64]uint64{} // by page; none: zeros
	var c *nbdtest.Client
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	do := func(what string, request func() error) bool {
		for {
			err := error(nil)
			if c == nil {
				if c, err = g.connect(); err != nil {
					g.t.Errorf("client %d: %v", n, err)
					return false
				}
			}
			if err = request(); err == nil {
				g.done.Add(1)
				return true
			}
			var told nbdtest.Error
			if errors.As(err, &told) || strings.Contains(err.Error(), "is not") {
				g.t.Errorf("client %d: %s: %v", n, what, err)
				return false
			}
			c.Close()
			c = nil
			g.again.Add(1)
		}
	}
	check := func(page uint64) bool {
		return do(fmt.Sprintf("read page %d", page), func() error {
			if version, ok := versions[page]; ok {
				return c.CheckPages(version, page, 1)
			}
			return c.CheckZeroes(page, 1)
		})
	}
	for version := uint64(1); !g.stop.Load(); version++ {
		page := random.Uint64N(vmPages/vmGuests)*vmGuests + n
		ok := true
		switch random.IntN(8) {
		case 0:
			ok = do("trim", func() error { return c.Trim(int64(page)*pageSize, pageSize) })
			delete(versions, page)
		case 1, 2, 3:
			ok = check(page)
		case 4:
			ok = do("flush", func() error { return c.Flush() })
		default:
			ok = do("write", func() error { return c.WritePages(version, page, 1) })
			versions[page] = version
		}
		if !ok {
			return
		}
	}
	for page := n; page < vmPages; page += vmGuests {
		if !check(page) {
			return
		}
	}
}

func (i *instance) createVM() {
	i.t.Helper()
	_, err := i.client.CreateExport(context.Background(), admin.CreateRequest{Name: "vm1", Size: vmSize})
	must(i.t, err)
}

func (i *instance) move(to string) (admin.ExportMove, error) {
	return i.client.MoveExport(context.Background(), "vm1", admin.MoveExportRequest{To: to, MaxPauseMS: 1000}, func(admin.ExportMove) {})
}

func (i *instance) address() string { return "unix://" + filepath.Join(i.dir, "nbd.sock") }

// export finds an export in the status.
func (i *instance) export(name string) (admin.Export, bool) {
	list := i.status().Exports
	at := slices.IndexFunc(list, func(e admin.Export) bool { return e.Name == name })
	if at < 0 {
		return admin.Export{}, false
	}
	return list[at], true
}

func (i *instance) awaitRequests(g *guests, n int64) {
	i.t.Helper()
	until := g.done.Load() + n
	i.await("requests of clients", func() bool { return g.done.Load() > until || i.t.Failed() })
}

// TestMoveExport: there and back while clients write and verify; the old side refuses,
// says where to, has given everything up, and does so after a restart.
func TestMoveExport(t *testing.T) {
	a, b := start(t, t.TempDir()), start(t, t.TempDir())
	a.createVM()
	b.createVM()
	g := startGuests(t, a, b)
	a.awaitRequests(g, 2000)
	from, to := a, b
	for range 2 {
		done, err := from.move(to.address())
		must(t, err)
		if done.To != to.address() || done.PauseMS <= 0 || done.Sent < vmPages || done.Left != 0 {
			t.Errorf("%+v", done)
		}
		t.Logf("held back for %.1f ms after %d rounds", done.PauseMS, done.Round)
		from.awaitRequests(g, 500)
		if e, ok := from.export("vm1"); !ok || e.MovedTo != to.address() {
			t.Errorf("the old side has %+v", e)
		}
		for _, backend := range from.status().Backends {
			if backend.Pages != 0 {
				t.Errorf("the old side's %s has %d pages", backend.Name, backend.Pages)
			}
		}
		if _, err := os.Stat(filepath.Join(from.dir, "vm1.img")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the old side's storage is left: %v", err)
		}
		from.checkRefuses(to.address())
		if _, err := from.client.CreateExport(context.Background(), admin.CreateRequest{Name: "vm1", Size: vmSize}); err == nil {
			t.Error("an export was made in the place of one that moved")
		}
		must(t, from.client.DeleteExport(context.Background(), "vm1", admin.DeleteRequest{}))
		from.createVM()
		from, to = to, from
	}
	// a has it, and b an empty one.
	done, err := a.move(b.address())
	must(t, err)
	g.end()
	if g.again.Load() < 3*vmGuests {
		t.Errorf("clients connected again %d times only", g.again.Load())
	}
	a.stop()
	a = start(t, a.dir)
	a.checkRefuses(done.To)
	must(t, a.client.DeleteExport(context.Background(), "vm1", admin.DeleteRequest{}))
	a.stop()
	b.stop()
}

// checkRefuses checks that clients are told where the export is.
func (i *instance) checkRefuses(address string) {
	i.t.Helper()
	socket, err := net.Dial("unix", filepath.Join(i.dir, "nbd.sock"))
	must(i.t, err)
	if _, err := mover.Connect(context.Background(), socket, "vm1", nil); err == nil || !strings.Contains(err.Error(), "export vm1 moved to "+address) {
		i.t.Errorf("a client is told %v", err)
	}
}

// cutter passes bytes on between a client and a daemon, up to so many towards the daemon or
// from it; then it cuts every connection, and lets nobody in any more.
type cutter struct {
	listener net.Listener
	target   string
	left     atomic.Int64
	all      sync.WaitGroup
	mu       sync.Mutex
	open     []net.Conn // guarded by mu
}

func startCutter(t *testing.T, target string, bytes int64) *cutter {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "proxy.sock"))
	must(t, err)
	c := &cutter{listener: l, target: target}
	c.left.Store(bytes)
	c.all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", target)
			if err != nil {
				client.Close()
				continue
			}
			c.mu.Lock()
			c.open = append(c.open, client, server)
			c.mu.Unlock()
			c.all.Go(func() { c.pass(client, server) })
			c.all.Go(func() { c.pass(server, client) })
		}
	})
	t.Cleanup(c.cut)
	return c
}

func (c *cutter) pass(from io.Reader, to io.Writer) {
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		if c.left.Add(-int64(n)) < 0 {
			go c.close()
			return
		}
		if _, failed := to.Write(buffer[:n]); err != nil || failed != nil {
			go c.close()
			return
		}
	}
}

func (c *cutter) close() {
	c.listener.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.open {
		conn.Close()
	}
}

func (c *cutter) cut() {
	c.close()
	c.all.Wait()
}

// TestMoveCut: the way to the target is cut after any number of bytes. The old side serves
// on, or the move is done; clients notice nothing.
func TestMoveCut(t *testing.T) {
	a, b := start(t, t.TempDir()), start(t, t.TempDir())
	a.createVM()
	b.createVM()
	g := startGuests(t, a, b)
	a.awaitRequests(g, 1000)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	cuts, moves := 0, 0
	from, to := a, b
	for n := range 25 {
		// Within the handshakes, anywhere, and around the end.
		bytes := [...]int64{random.Int64N(1000), random.Int64N(vmPages * pageSize), vmPages*pageSize/2 + random.Int64N(vmPages*pageSize)}[n%3]
		proxy := startCutter(t, filepath.Join(to.dir, "nbd.sock"), bytes)
		_, err := from.move("unix://" + proxy.listener.Addr().String())
		proxy.cut()
		from.awaitRequests(g, 50)
		if err != nil {
			cuts++
			if !strings.Contains(err.Error(), "is served here as before") {
				t.Errorf("cut after %d bytes: %v", bytes, err)
			}
			if e, ok := from.export("vm1"); !ok || e.MovedTo != "" {
				t.Errorf("cut after %d bytes: the old side has %+v", bytes, e)
			}
			continue
		}
		moves++
		must(t, from.client.DeleteExport(context.Background(), "vm1", admin.DeleteRequest{}))
		from.createVM()
		from, to = to, from
	}
	g.end()
	if cuts == 0 {
		t.Error("no move was cut")
	}
	t.Logf("%d moves were cut, %d not (seed %d)", cuts, moves, seed)
	a.stop()
	b.stop()
}

// TestMoveRefused: what is no place to move to.
func TestMoveRefused(t *testing.T) {
	a, b := start(t, t.TempDir()), start(t, t.TempDir())
	a.createVM()
	_, err := b.client.CreateExport(context.Background(), admin.CreateRequest{Name: "vm1", Size: "4MiB"})
	must(t, err)
	c := a.dialTo("vm1")
	must(t, c.WritePages(1, 0, 100))
	for to, want := range map[string]string{
		b.address():                  "the target has 4194304 bytes",
		a.address():                  "the target is the export itself",
		"unix:///nobody/listens":     "no such file",
		"carrier-pigeon://somewhere": "is not an address",
	} {
		if _, err := a.move(to); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("to %s: %v, want %q", to, err, want)
		}
	}
	if _, err := a.client.MoveExport(context.Background(), "vm1", admin.MoveExportRequest{To: b.address(), As: "nothing"}, func(admin.ExportMove) {}); err == nil || !strings.Contains(err.Error(), "no such export") {
		t.Errorf("to an export that there is not: %v", err)
	}
	must(t, c.CheckPages(1, 0, 100))
	must(t, c.Close())
	a.stop()
	b.stop()
}

// TestMoveFullTarget: storage of the target that has no room.
func TestMoveFullTarget(t *testing.T) {
	a := start(t, t.TempDir())
	log := &logBuffer{}
	o := options(t, t.TempDir(), log, "--size", "4MiB", "--backend", "none")
	o.OpenStorage = func(e config.Export) (tier.Storage, error) {
		s, err := tier.OpenFile(e.Storage, e.Size)
		if err != nil || e.Name != "vm1" {
			return s, err
		}
		return fullAfter{s, 60}, nil
	}
	b := run(t, o, log)
	a.createVM()
	b.createVM()
	c := a.dialTo("vm1")
	must(t, c.WritePages(1, 0, 100))
	if _, err := a.move(b.address()); err == nil || !strings.Contains(err.Error(), unix.ENOSPC.Error()) {
		t.Errorf("to a full disk: %v", err)
	}
	must(t, c.CheckPages(1, 0, 100))
	must(t, c.WritePages(2, 50, 10))
	must(t, c.CheckPages(2, 50, 10))
	must(t, c.Close())
	a.stop()
	b.stop()
}

// TestMoveDoesNotConverge: clients that change more than is copied. The move gives up and
// says so; another one, when they do less, comes to its end.
func TestMoveDoesNotConverge(t *testing.T) {
	a, b := start(t, t.TempDir()), start(t, t.TempDir())
	a.createVM()
	b.createVM()
	slow := startSlow(t, filepath.Join(b.dir, "nbd.sock"))
	c := a.dialTo("vm1")
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for version := uint64(1); ; version++ {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := c.WritePages(version, 0, 256); err != nil {
				stopped <- err
				return
			}
		}
	}()
	_, err := a.client.MoveExport(context.Background(), "vm1", admin.MoveExportRequest{To: "unix://" + slow, MaxPauseMS: 20}, func(admin.ExportMove) {})
	if err == nil || !strings.Contains(err.Error(), "MiB a second") && !strings.Contains(err.Error(), "too short") {
		t.Errorf("the move ended with %v", err)
	}
	close(stop)
	must(t, <-stopped)
	must(t, c.WritePages(7, 0, vmPages))
	must(t, c.CheckPages(7, 0, vmPages))
	_, err = a.move(b.address())
	must(t, err)
	c.Close() // it was cut
	c = b.dialTo("vm1")
	must(t, c.CheckPages(7, 0, vmPages))
	must(t, c.Close())
	a.stop()
	b.stop()
}

// startSlow is a way to a daemon that takes 2 MiB a second on each connection.
func startSlow(t *testing.T, target string) string {
	t.Helper()
	c := startCutter(t, target, 1<<60)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "slow.sock"))
	must(t, err)
	c.all.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", target)
			if err != nil {
				client.Close()
				return
			}
			c.mu.Lock()
			c.open = append(c.open, client, server)
			c.mu.Unlock()
			c.all.Go(func() {
				buffer := make([]byte, 16<<10)
				for {
					n, err := client.Read(buffer)
					time.Sleep(time.Duration(n) * time.Second / (2 << 20))
					if _, failed := server.Write(buffer[:n]); err != nil || failed != nil {
						server.Close()
						return
					}
				}
			})
			c.all.Go(func() {
				_, _ = io.Copy(client, server) // until one is closed
				client.Close()
			})
		}
	})
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// TestMoveInterrupted: a tmemctl that is ended in the middle, and a daemon that is stopped
// then.
func TestMoveInterrupted(t *testing.T) {
	a, b := start(t, t.TempDir()), start(t, t.TempDir())
	a.createVM()
	b.createVM()
	slow := startSlow(t, filepath.Join(b.dir, "nbd.sock"))
	c := a.dialTo("vm1")
	must(t, c.WritePages(1, 0, vmPages))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	begin := func(ctx context.Context) {
		begun := make(chan struct{})
		var once sync.Once
		go func() {
			_, err := a.client.MoveExport(ctx, "vm1", admin.MoveExportRequest{To: "unix://" + slow}, func(admin.ExportMove) { once.Do(func() { close(begun) }) })
			ended <- err
		}()
		<-begun
	}
	begin(ctx)
	if _, err := a.move(b.address()); err == nil || !strings.Contains(err.Error(), "is being moved") {
		t.Errorf("moved twice at once: %v", err)
	}
	if _, err := a.client.ResizeExport(context.Background(), "vm1", admin.ResizeRequest{Size: "16MiB"}); err == nil {
		t.Error("resized while it is being moved")
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("a move that was interrupted came to its end")
	}
	a.awaitLog("export is not moved")
	must(t, c.CheckPages(1, 0, vmPages))
	begin(context.Background())
	a.signal()
	if err := <-ended; err == nil {
		t.Error("a move came to its end in spite of a stop")
	}
	must(t, c.CheckPages(1, 0, 100)) // clients are served while the daemon waits for them
	must(t, c.Close())
	if err := a.awaitEnd(); err != nil {
		t.Error(err)
	}
	b.stop()
}
