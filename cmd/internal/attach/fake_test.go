package attach

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/nbd"
)

// fakeKernel does with sockets what drivers/block/nbd.c does: a connection whose
// peer is gone is dead a moment later, a dead one takes the next socket that is
// offered, and a socket that is one too many is dropped without a word. A socket
// that it uses has a timeout for sending.
type fakeKernel struct {
	t    *testing.T
	late time.Duration // from a hangup to the death of a connection

	mu      sync.Mutex
	asked   device // by connect
	links   []*fakeLink
	offered int // sockets that reconfigure was given
	running sync.WaitGroup
}

type fakeLink struct {
	socket  *os.File
	dead    bool
	replies chan []byte
}

func newFakeKernel(t *testing.T) *fakeKernel {
	k := &fakeKernel{t: t}
	t.Cleanup(func() {
		k.end()
		k.running.Wait()
	})
	return k
}

const fakeIndex = 3

func (k *fakeKernel) connect(d device, sockets []int) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.links) > 0 {
		return 0, explainConnect(d.index, unix.EBUSY)
	}
	k.asked = d
	for _, s := range sockets {
		l := &fakeLink{}
		k.links = append(k.links, l)
		k.useLocked(l, s)
	}
	return fakeIndex, nil
}

// useLocked gives a link a socket.
func (k *fakeKernel) useLocked(l *fakeLink, socket int) {
	fd, err := unix.Dup(socket)
	if err != nil {
		k.t.Error(err)
		return
	}
	seconds := int64(k.asked.timeout / time.Second)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: seconds}); err != nil {
		k.t.Error(err)
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		k.t.Error(err)
	}
	f := os.NewFile(uintptr(fd), "link")
	l.socket, l.dead, l.replies = f, false, make(chan []byte, 64)
	replies := l.replies
	k.running.Go(func() {
		defer close(replies)
		for {
			reply := make([]byte, 16+pageSize)
			if _, err := io.ReadFull(f, reply); err != nil {
				break
			}
			replies <- reply
		}
		time.Sleep(k.late)
		k.mu.Lock()
		defer k.mu.Unlock()
		shutdown(f)
		l.dead = true
		f.Close()
	})
}

func (k *fakeKernel) reconfigure(d device, sockets []int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d.backend != k.asked.backend || d.index != fakeIndex || len(k.links) == 0 {
		return unix.EINVAL
	}
	for _, s := range sockets {
		k.offered++
		if i := slices.IndexFunc(k.links, func(l *fakeLink) bool { return l.dead }); i >= 0 {
			k.useLocked(k.links[i], s)
		}
	}
	return nil
}

func (k *fakeKernel) disconnect(int) error { k.end(); return nil }

func (k *fakeKernel) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.links {
		if !l.dead {
			shutdown(l.socket)
		}
	}
	k.links = nil
}

func (k *fakeKernel) connected(int) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.links) > 0, nil
}

func (k *fakeKernel) accepted(socket int) (bool, error) { return driver{}.accepted(socket) }

// alive counts connections that work: each is asked for a page.
func (k *fakeKernel) alive() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for _, l := range k.links {
		if l.dead {
			continue
		}
		request := binary.BigEndian.AppendUint32(nil, 0x25609513)
		request = append(request, make([]byte, 4+8+8)...) // READ, cookie 0, offset 0
		request = binary.BigEndian.AppendUint32(request, pageSize)
		if _, err := l.socket.Write(request); err != nil {
			continue
		}
		select {
		case reply, ok := <-l.replies:
			if ok && binary.BigEndian.Uint32(reply[4:]) == 0 {
				n++
			}
		case <-time.After(patience):
		}
	}
	return n
}

// fakeHost is a machine that swaps to a device.
type fakeHost struct {
	mu       sync.Mutex
	prepared uint64
	on       bool
	priority int
	discard  bool
	failOn   error // of swapOn

	failRelease error
	failOff     error         // of swapOff
	gate        chan struct{} // if not nil: swapOff waits for it
	fast        time.Duration // how far the clock is ahead; set while no agent runs
}

func (h *fakeHost) now() time.Time { return time.Now().Add(h.fast) }

func (h *fakeHost) prepare(_ string, size uint64, _ bool) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.prepared = size
	return didMake, nil
}

func (h *fakeHost) swapOn(_ string, priority int, discard bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failOn != nil {
		return h.failOn
	}
	h.on, h.priority, h.discard = true, priority, discard
	return nil
}

func (h *fakeHost) swapOff(string) error {
	h.mu.Lock()
	gate := h.gate
	h.mu.Unlock()
	if gate != nil {
		<-gate
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failOff != nil {
		return h.failOff
	}
	h.on = false
	return nil
}

func (h *fakeHost) appear(string) error { return nil }

func (h *fakeHost) release(string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failRelease
}

func (h *fakeHost) used(string) (int64, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return 1 << 20, h.on, nil
}

func (h *fakeHost) swapping() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.on
}

// closeGate makes swapOff wait until open is called.
func (h *fakeHost) closeGate() (open func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	gate := make(chan struct{})
	h.gate = gate
	return func() { close(gate) }
}

func (h *fakeHost) setFailRelease(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failRelease = err
}

func (h *fakeHost) setFailOff(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failOff = err
}

// blank is a device of zeros.
type blank int64

func (b blank) Size() (int64, error)                 { return int64(b), nil }
func (blank) ReadAt(p []byte, _ int64) (int, error)  { clear(p); return len(p), nil }
func (blank) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (blank) TryReadAt(p []byte, _ int64) bool       { clear(p); return true }
func (blank) TryWriteAt(p []byte, _ int64) int       { return len(p) }
func (blank) Sync() error                            { return nil }
func (blank) Trim(int64, int64) error                { return nil }
func (blank) Prefetch(int64, int64) error            { return nil }
func (blank) WriteZeroes(_, _ int64, _ bool) error   { return nil }

func (blank) Extents(_, length int64, report func(int64, bool, uint32) bool) error {
	report(length, true, 0)
	return nil
}

// testServer is an NBD server that can be ended and started again.
type testServer struct {
	t      *testing.T
	path   string
	export nbd.Export
	server *nbd.Server
	served chan error
}

func startServer(t *testing.T, identity string) *testServer {
	t.Helper()
	s := &testServer{
		t: t, path: filepath.Join(t.TempDir(), "nbd.sock"),
		export: nbd.Export{Name: "swap", Description: identity, Device: blank(testSize)},
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *testServer) start() {
	s.t.Helper()
	var err error
	if s.server, err = nbd.NewServer(nbd.Config{Exports: []nbd.Export{s.export}}); err != nil {
		s.t.Fatal(err)
	}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	server, served := s.server, make(chan error, 1)
	s.served = served
	go func() { served <- server.Serve(s.t.Context(), l) }()
}

func (s *testServer) stop() {
	if s.server == nil {
		return
	}
	if err := s.server.Close(); err != nil {
		s.t.Error(err)
	}
	if err := <-s.served; err != nil && !errors.Is(err, nbd.ErrServerClosed) { // before it began
		s.t.Error(err)
	}
	s.server = nil
}

func (s *testServer) address() config.Address {
	return config.Address{Network: "unix", Address: s.path}
}

// serveTCP serves on a port of this machine, too.
func (s *testServer) serveTCP() config.Address {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	server, served := s.server, make(chan error, 1)
	go func() { served <- server.Serve(s.t.Context(), l) }()
	s.t.Cleanup(func() {
		s.stop()
		if err := <-served; err != nil && !errors.Is(err, nbd.ErrServerClosed) {
			s.t.Error(err)
		}
	})
	return config.Address{Network: "tcp", Address: l.Addr().String()}
}

// forwardSIGTERM gives the signals that this process gets to an agent in it.
func forwardSIGTERM(t *testing.T, to chan<- os.Signal) (stop func()) {
	t.Helper()
	signal.Notify(to, unix.SIGTERM)
	return func() { signal.Stop(to) }
}
