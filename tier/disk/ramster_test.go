package disk

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/ramster"
	"github.com/tmemd/tmemd/backends/ramster/donor"
)

// forgetful is a backend that a test has forget pages.
type forgetful struct {
	backends.Backend
	forget func(mask uint64) // pages whose bit it is, or others
	end    func() error      // after Close
}

func newMap(limit int) forgetful {
	b := &backendtest.Map{Limit: limit}
	return forgetful{b, func(mask uint64) {
		b.Drop(func(key backends.Key) bool { return mask>>(key.Page%64)&1 == 1 })
	}, b.Misuse}
}

// newRamster is other hosts' memory: one donor, which forgets everything or is cut off.
// How many pages came from it is added to fetched.
func newRamster(t *testing.T, fetched *uint64) forgetful {
	l := &lender{t: t}
	l.start()
	c, err := ramster.New(ramster.Config{
		Pages: 4096, Staging: ramster.MinStaging, Deadline: 200 * time.Millisecond, Patience: time.Hour, Dial: l.dial,
		Donors: []ramster.Donor{{Name: "lender", Address: "lender"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); c.Donors()[0].State != "up"; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatal("the donor is not reached")
		}
	}
	return forgetful{c, func(mask uint64) {
		if mask%2 == 0 {
			l.cut()
			return
		}
		l.stop()
		l.start()
	}, func() error {
		l.stop()
		*fetched += c.Donors()[0].Session.PagesFetched
		if got := c.Stats(); got.CorruptLoads != 0 || got.EphemeralPages != 0 {
			return errors.New("pages are left, or were taken for corrupt")
		}
		return nil
	}}
}

// lender is a donor whose process comes and goes.
type lender struct {
	t      *testing.T
	served sync.WaitGroup

	mu     sync.Mutex
	donor  *donor.Donor // guarded by mu; nil while there is none
	accept chan net.Conn
	conns  []net.Conn // guarded by mu
}

func (l *lender) start() {
	d, err := donor.New(donor.Config{
		Identity: [16]byte{1}, Limit: 1 << 20, Capacity: 1 << 20, Clients: map[string]donor.Grant{"owner": {Quota: 1 << 20}},
		Identify: func(net.Conn) ([]string, error) { return []string{"owner"}, nil },
	})
	if err != nil {
		l.t.Error(err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.donor, l.accept = d, make(chan net.Conn, 16)
	accept := &pipes{conns: l.accept, ended: make(chan struct{})}
	l.served.Go(func() { _ = d.Serve(accept) })
}

func (l *lender) stop() {
	l.mu.Lock()
	d := l.donor
	l.donor = nil
	l.mu.Unlock()
	l.cut()
	if d == nil {
		return
	}
	if err := d.Close(); err != nil {
		l.t.Error(err)
	}
	l.served.Wait()
}

func (l *lender) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		conn.Close()
	}
	l.conns = nil
}

func (l *lender) dial(context.Context, string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.donor == nil {
		return nil, net.ErrClosed
	}
	ours, theirs := net.Pipe()
	l.accept <- theirs
	l.conns = append(l.conns, ours)
	return ours, nil
}

// pipes is a listener.
type pipes struct {
	conns chan net.Conn
	ended chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.ended:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.ended) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }
