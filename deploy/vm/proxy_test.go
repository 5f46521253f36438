//go:build e2e

package vm

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy stands between the guest and tmemd on a TCP port, and can be cut.
type proxy struct {
	t        *testing.T
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu    sync.Mutex
	open  bool                  // whether connections are let through; guarded by mu
	conns map[net.Conn]struct{} // guarded by mu
	count int                   // connections let through so far; guarded by mu
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, listener: l, target: target, open: true, conns: map[net.Conn]struct{}{}}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.cut()
		p.running.Wait()
	})
	return p
}

func (p *proxy) port() int { return p.listener.Addr().(*net.TCPAddr).Port }

func (p *proxy) accept() {
	for {
		guest, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		daemon, err := net.Dial("tcp", p.target)
		if err != nil {
			guest.Close()
			continue
		}
		if !p.add(guest, daemon) {
			continue
		}
		p.running.Go(func() { p.pass(guest, daemon) })
		p.running.Go(func() { p.pass(daemon, guest) })
	}
}

// add keeps a pair of connections, or closes it if the proxy is cut.
func (p *proxy) add(pair ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range pair {
		if !p.open {
			c.Close()
			continue
		}
		p.conns[c] = struct{}{}
	}
	p.count++
	return p.open
}

// pass copies in one direction. Either end closing ends both directions.
func (p *proxy) pass(to, from net.Conn) {
	_, _ = io.Copy(to, from) // how it ended is the guest's business
	to.Close()
	from.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, from)
}

// cut ends every connection and lets none through until mend.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = false
	for c := range p.conns {
		// A reset, as from a host that has lost its memory of the connection.
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = true
}

func (p *proxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}
