package nbd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/nbd/tlsstream"
)

// Sizes of a connection's own buffers, in bytes.
const (
	// inPlaceLimit is the largest payload that is served in them. Linux sends
	// up to 1280 KiB by default.
	inPlaceLimit = 2 << 20
	// bufferBytes is one buffer: the largest payload, its header, and room to
	// read a little more behind it.
	bufferBytes = inPlaceLimit + 4096
	// connectionBytes is what a connection in transmission maps.
	connectionBytes = 2 * bufferBytes
	// replyBatch is how many bytes of replies are written while there are more
	// requests to serve: 16 pages. A client that has 64 requests out takes the first
	// ones while the rest are served: a fifth more reads a second than with 256 KiB,
	// about what a Unix socket holds; with 32 KiB the system calls cost more than that.
	replyBatch = 64 << 10
	// compactBelow is how many bytes of an incomplete request are moved to the
	// buffer's start rather than left where they are: reading into the same
	// memory again is worth more than that copy.
	compactBelow = 4096
)

// Ways in which a client ends a connection. Replies that are due are sent
// first; any other error is the socket's, and nothing more goes over it.
var (
	errDisconnect = errors.New("client disconnected")
	errMagic      = errors.New("request does not start with the magic number")
	errTooLong    = errors.New("write is longer than the largest payload")
)

// errBroken tells the reader that the writer could not send.
var errBroken = errors.New("replies cannot be sent")

// connection is one client, from accept to close. Its goroutine (run) owns all
// fields without a remark.
type connection struct {
	server      *Server           // immutable
	transport   net.Conn          // immutable; what is not the connection's goroutine or writer uses this
	socket      net.Conn          // transport, or tls: set by startTLS, then immutable
	tls         *tlsstream.Stream // nil if not encrypted; set by startTLS, then immutable
	encrypted   bool              // tls is there; written by noteTLS under server.mu, then immutable
	certificate []string          // names of the client; like encrypted
	id          uint64            // immutable
	opened      time.Time         // immutable
	remote      string            // immutable
	credentials *Credentials      // immutable
	export      *export           // written by attach under server.mu, then immutable
	share       int64             // immutable, bytes of the pool that it may hold
	framing     framing           // immutable after the handshake
	contexts    contexts          // immutable after the handshake; what BLOCK_STATUS tells

	session session       // guarded by server.mu
	gone    chan struct{} // closed when nothing of it is left

	in         []byte // requests: read up to received, served up to parsed
	parsed     int
	received   int
	out        []byte // replies not written yet
	replied    int    // bytes of out in use
	batch      batchCounters
	batchStart time.Duration // when the last bytes were read

	counters commandCounters // atomic
	writing  sync.Mutex      // one reply, or batch of them, at a time on the socket

	// Requests that were handed over. A job goes from idle to the worker, to
	// done, to the writer and back to idle; both channels hold all jobs there
	// are, so that nobody ever waits to send.
	idle     chan *job
	done     chan *job
	made     int           // jobs that exist, at most cap(idle)
	taken    *job          // the one being filled in
	written  chan struct{} // closed when the writer has returned
	borrowed atomic.Int64  // bytes of the pool held, cap included
	broken   atomic.Bool   // the writer could not send

	sending   stallClock // replies that hold borrowed memory
	receiving stallClock // a payload into borrowed memory
}

// stallClock is when bytes last moved, or 0 while none have to. Atomic.
type stallClock struct{ last atomic.Int64 }

func (s *stallClock) tick(now time.Duration) { s.last.Store(int64(now)) }
func (s *stallClock) stop()                  { s.last.Store(0) }

// since says whether the clock runs and has not ticked after limit.
func (s *stallClock) since(limit time.Duration) bool {
	last := s.last.Load()
	return last != 0 && last < int64(limit)
}

func newConnection(s *Server, socket net.Conn, id uint64) *connection {
	return &connection{
		server:      s,
		transport:   socket,
		socket:      socket,
		id:          id,
		opened:      time.Now(),
		remote:      remoteName(socket),
		credentials: peerCredentials(socket),
		share:       max(MaxPayload, s.config.BufferBytes/4),
		gone:        make(chan struct{}),
	}
}

// run is the connection's goroutine.
func (c *connection) run() {
	failure := ""
	defer func() { c.server.forget(c, failure) }()
	defer func() { c.socket.Close() }() // what it is by then
	defer c.recovered()
	// Memory that a device maps may be gone when it is touched: that becomes a
	// panic, which is survived, instead of the end of the process.
	debug.SetPanicOnFault(true)

	if err := c.handshake(); err != nil {
		var failed *handshakeError
		if errors.As(err, &failed) {
			failure = failed.reason
		}
		if failure == failedGone {
			c.server.log.debug("client left the handshake", "client", c.remote, "error", err)
		} else {
			c.server.log.warn("handshake failed", "client", c.remote, "error", err)
		}
		return
	}
	if c.export == nil {
		return
	}
	c.transmit()
}

// recovered keeps a bug of the server on one connection. Devices' panics do not
// get here, guardedDevice has them.
func (c *connection) recovered() {
	if r := recover(); r != nil {
		c.server.panics.Add(1)
		c.server.log.error("serving a connection panicked",
			"client", c.remote, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	}
}

func (c *connection) handshake() error {
	prepareSocket(c.transport)
	c.setDeadline(c.opened.Add(c.server.config.HandshakeTimeout))
	h := handshake{server: c.server, connection: c}
	if _, err := h.negotiate(); err != nil || c.export == nil {
		return err
	}
	c.framing = h.framing
	if h.chosenFor != nil && h.chosenFor.exportBooks == c.export.exportBooks {
		c.contexts = h.chosen
	}
	if c.tls != nil {
		c.tls.Batch()
	}
	c.setDeadline(time.Time{})
	return nil
}

// setDeadline bounds reads and writes. A forced shutdown that began meanwhile
// has set a deadline of its own, which must not be lost. Errors mean a closed
// socket, which reading will tell.
func (c *connection) setDeadline(deadline time.Time) {
	_ = c.transport.SetDeadline(deadline)
	if c.server.draining.Load() {
		_ = c.transport.SetReadDeadline(time.Now().Add(c.server.config.ShutdownGrace))
	}
}

// writePieces writes what several buffers hold. REQUIRES: writing held.
func (c *connection) writePieces(pieces *net.Buffers) error {
	if c.tls != nil {
		return c.tls.WritePieces(*pieces)
	}
	_, err := pieces.WriteTo(c.socket)
	return err
}

// transmit serves requests until the client leaves or the socket breaks.
func (c *connection) transmit() {
	memory, err := mapMemory(connectionBytes, c.server.config.TouchBuffers)
	if err != nil {
		c.server.log.error("no memory for a connection", "client", c.remote, "error", err)
		return
	}
	defer func() { _ = unix.Munmap(memory) }()
	c.in, c.out = memory[:bufferBytes:bufferBytes], memory[bufferBytes:]
	c.idle = make(chan *job, c.server.config.MaxOutstanding)
	c.done = make(chan *job, c.server.config.MaxOutstanding)
	c.written = make(chan struct{})

	err = errors.New("panic")
	defer func() { c.finish(err) }()
	err = c.serve()
}

// finish waits for the requests that were handed over, after their replies are
// sent if the client ended the connection in a way that lets it read them.
func (c *connection) finish(err error) {
	if c.leftInOrder(err) {
		err = errors.Join(err, c.flush())
	} else {
		c.socket.Close()
	}
	if c.taken != nil {
		c.giveBack(c.taken)
	}
	for range c.made {
		<-c.idle
	}
	if c.made > 0 {
		close(c.done)
		<-c.written
	}
	for _, usual := range []error{errDisconnect, io.EOF, net.ErrClosed, os.ErrDeadlineExceeded} {
		if errors.Is(err, usual) {
			return
		}
	}
	c.server.log.warn("connection ended", "client", c.remote, "export", c.export.Name, "error", err)
}

func (c *connection) leftInOrder(err error) bool {
	switch {
	case errors.Is(err, errDisconnect), errors.Is(err, errMagic), errors.Is(err, errTooLong):
		return true
	case errors.Is(err, io.EOF):
		// The client may have closed one direction only.
		return true
	case errors.Is(err, os.ErrDeadlineExceeded):
		// A forced shutdown; there is no other deadline.
		return true
	}
	return false
}
