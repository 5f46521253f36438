package nbd

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// rawDevice serves a byte slice without locks: what is measured is the server.
type rawDevice struct{ data []byte }

func (d rawDevice) Size() (int64, error) { return int64(len(d.data)), nil }
func (d rawDevice) ReadAt(p []byte, off int64) (int, error) {
	return copy(p, d.data[off:]), nil
}
func (d rawDevice) WriteAt(p []byte, off int64) (int, error) {
	return copy(d.data[off:], p), nil
}
func (d rawDevice) TryReadAt(p []byte, off int64) bool {
	copy(p, d.data[off:])
	return true
}
func (d rawDevice) TryWriteAt(p []byte, off int64) int {
	return copy(d.data[off:], p)
}
func (rawDevice) Extents(_, length int64, report func(int64, bool, uint32) bool) error {
	report(length, false, 0)
	return nil
}
func (rawDevice) Sync() error                          { return nil }
func (rawDevice) Trim(off, length int64) error         { return nil }
func (rawDevice) Prefetch(off, length int64) error     { return nil }
func (rawDevice) WriteZeroes(int64, int64, bool) error { return nil }

// socketPair returns both ends of a Unix socket pair.
func socketPair(t interface{ Fatal(...any) }) (a, b net.Conn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return ends[0], ends[1]
}

// pipeliner keeps a number of 4 KiB requests in flight with as few system calls
// as it can: it sends a new request for each reply of what one read brought.
type pipeliner struct {
	c        net.Conn
	size     int64
	write    bool
	requests []byte
	replies  []byte
	held     int // bytes of replies not looked at
	next     uint64
}

const benchPage = 4096

func newPipeliner(c net.Conn, size int64, write bool) *pipeliner {
	return &pipeliner{c: c, size: size, write: write,
		requests: make([]byte, 0, 1<<20), replies: make([]byte, 1<<20)}
}

// add adds a request for a page that no pattern predicts.
func (p *pipeliner) add() {
	p.next++
	page := p.next * 0x9e3779b97f4a7c15 >> 20 % uint64(p.size/benchPage)
	n := len(p.requests)
	p.requests = p.requests[:n+requestSize]
	b := p.requests[n:]
	binary.BigEndian.PutUint32(b, 0x25609513)
	command := wireRead
	if p.write {
		command = wireWrite
		p.requests = p.requests[:n+requestSize+benchPage]
	}
	binary.BigEndian.PutUint32(b[4:], uint32(command))
	binary.BigEndian.PutUint64(b[8:], p.next)
	binary.BigEndian.PutUint64(b[16:], page*benchPage)
	binary.BigEndian.PutUint32(b[24:], benchPage)
}

// run does n requests, depth of them in flight.
func (p *pipeliner) run(n, depth int) error {
	sent, done := 0, 0
	size := replySize + benchPage
	if p.write {
		size = replySize
	}
	for done < n {
		p.requests = p.requests[:0]
		for sent < n && sent-done < depth {
			p.add()
			sent++
		}
		if len(p.requests) > 0 {
			if _, err := p.c.Write(p.requests); err != nil {
				return err
			}
		}
		for sent-done == depth || (sent == n && done < n) {
			m, err := p.c.Read(p.replies[p.held:])
			if err != nil {
				return err
			}
			p.held += m
			at := 0
			for ; p.held-at >= size; at += size {
				if h := binary.BigEndian.Uint64(p.replies[at:]); h != 0x67446698<<32 {
					return fmt.Errorf("reply %#x", h)
				}
				done++
			}
			p.held = copy(p.replies, p.replies[at:p.held])
		}
	}
	return nil
}

// How many 4 KiB requests a second one connection gets over a Unix socket, from
// a client that costs little itself, with nothing behind the protocol but a
// copy. Both ends run on the same processors.
func benchmark(b *testing.B, write bool, depth int) {
	device := rawDevice{patterned(64<<20, 1)}
	s := startServer(b, Config{Exports: []Export{{Name: "swap", Device: device}}})
	p := newPipeliner(s.attached(b, "swap").Conn, int64(len(device.data)), write)
	if err := p.run(1000, depth); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(benchPage)
	b.ResetTimer()
	if err := p.run(b.N, depth); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

func BenchmarkRead4K(b *testing.B) {
	for _, depth := range []int{1, 16, 64} {
		b.Run(fmt.Sprint("depth=", depth), func(b *testing.B) { benchmark(b, false, depth) })
	}
}

func BenchmarkWrite4K(b *testing.B) {
	for _, depth := range []int{1, 16, 64} {
		b.Run(fmt.Sprint("depth=", depth), func(b *testing.B) { benchmark(b, true, depth) })
	}
}
