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
	// requests to serve: about what a Unix socket holds, and small enough to
	// stay in the processor's cache.
	replyBatch = 256 << 10
	// compactBelow is how many bytes of an incomplete request are moved to the
	// buffer's start rather than left where they are.
	compactBelow = 4096
)

// Ways in which a client ends a connection. Replies that are due are sent
// first; any other error is the socket's, and nothing more goes over it.
var (
	errDisconnect = errors.New("client disconnected")
	errMagic      = errors.New("request does not start with the magic number")
	errTooLong    = errors.New("write is longer than the largest payload")
)

// connection is one client, from accept to close. Its goroutine (run) owns all
// fields without a remark.
type connection struct {
	server      *Server      // immutable
	socket      net.Conn     // immutable
	id          uint64       // immutable
	opened      time.Time    // immutable
	remote      string       // immutable
	credentials *Credentials // immutable
	export      *export      // written by attach under server.mu, then immutable
	share       int64        // immutable, bytes of the pool that it may hold

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
		socket:      socket,
		id:          id,
		opened:      time.Now(),
		remote:      remoteName(socket),
		credentials: peerCredentials(socket),
		share:       max(MaxPayload, s.config.BufferBytes/4),
	}
}

// run is the connection's goroutine.
func (c *connection) run() {
	failure := ""
	defer func() { c.server.forget(c, failure) }()
	defer c.socket.Close()
	defer c.recovered()
	// Memory that a device maps may be gone when it is touched: that becomes a
	// panic, which is survived, instead of the end of the process.
	debug.SetPanicOnFault(true)

	if err := c.handshake(); err != nil {
		var failed *handshakeError
		if errors.As(err, &failed) {
			failure = failed.reason
		}
		c.server.log.warn("handshake failed", "client", c.remote, "error", err)
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
	prepareSocket(c.socket)
	// Errors of deadlines mean a closed socket, which reading will tell.
	_ = c.socket.SetDeadline(c.opened.Add(c.server.config.HandshakeTimeout))
	h := handshake{server: c.server, connection: c}
	if _, err := h.negotiate(); err != nil || c.export == nil {
		return err
	}
	_ = c.socket.SetDeadline(time.Time{})
	if c.server.draining.Load() {
		// A shutdown that began meanwhile set a deadline, now lost.
		_ = c.socket.SetReadDeadline(time.Now().Add(c.server.config.ShutdownGrace))
	}
	return nil
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

// serve is the engine: one system call reads all requests that the socket
// holds, what the device can do at once is done in place, one system call
// writes all replies.
func (c *connection) serve() error {
	for {
		if err := c.receive(); err != nil {
			return err
		}
		if err := c.serveReceived(); err != nil {
			return err
		}
	}
}

// receive reads what the socket holds, at least a byte, after it has sent what
// is due: a client may wait for that before it goes on.
func (c *connection) receive() error {
	if err := c.flush(); err != nil {
		return err
	}
	c.makeRoom()
	n, err := c.socket.Read(c.in[c.received:])
	c.received += n
	c.batchStart = c.server.now()
	if n > 0 {
		return nil
	}
	return err
}

// makeRoom moves an incomplete request to the front if it would not fit where
// it is, or if moving it costs nothing.
func (c *connection) makeRoom() {
	rest := c.received - c.parsed
	if c.parsed == 0 {
		return
	}
	if rest > compactBelow && c.parsed+requestSize+inPlaceLimit <= len(c.in) {
		return
	}
	copy(c.in, c.in[c.parsed:c.received])
	c.parsed, c.received = 0, rest
}

// serveReceived serves the complete requests that were received.
func (c *connection) serveReceived() error {
	for c.received-c.parsed >= requestSize {
		q, ok := parseRequest(c.in[c.parsed:])
		if !ok {
			return errMagic
		}
		if q.wire == wireWrite {
			complete, err := c.serveWrite(q)
			if err != nil || !complete {
				return err
			}
			continue
		}
		c.parsed += requestSize
		if q.wire == wireDisconnect {
			return errDisconnect
		}
		if err := c.serveRequest(q); err != nil {
			return err
		}
	}
	return nil
}

// check returns the errno for a request that no device has to be asked for.
func (c *connection) check(q request) uint32 {
	if c.server.draining.Load() {
		return errnoShutdown
	}
	return c.export.check(q)
}

// serveRequest serves anything but a write.
func (c *connection) serveRequest(q request) error {
	if errno := c.check(q); errno != 0 {
		return c.reply(q, errno)
	}
	if q.length == 0 && q.wire != wireFlush {
		return c.reply(q, 0)
	}
	if q.wire != wireRead || q.length > inPlaceLimit {
		return c.handOver(q, nil)
	}
	data, err := c.replyRoom(q)
	if err != nil {
		return err
	}
	done, err := c.export.device.tryReadAt(data, int64(q.offset))
	if err != nil {
		return c.reply(q, errnoOf(err))
	}
	if !done {
		return c.handOver(q, nil)
	}
	return c.readDone(q)
}

// serveWrite serves a write. It is not complete, and nothing was done, if a
// part of the payload is not there yet (N1).
func (c *connection) serveWrite(q request) (complete bool, err error) {
	if q.length > MaxPayload {
		return false, errTooLong
	}
	if errno := c.check(q); errno != 0 {
		c.parsed += requestSize
		if err := c.discard(int(q.length)); err != nil {
			return false, err
		}
		return true, c.reply(q, errno)
	}
	if q.length > inPlaceLimit {
		c.parsed += requestSize
		return true, c.writeLarge(q)
	}
	end := c.parsed + requestSize + int(q.length)
	if end > c.received {
		return false, nil
	}
	payload := c.in[c.parsed+requestSize : end]
	c.parsed = end
	if q.length == 0 {
		return true, c.reply(q, 0)
	}
	if q.flags&commandFUA != 0 {
		return true, c.handOver(q, payload)
	}
	done, err := c.export.device.tryWriteAt(payload, int64(q.offset))
	if err != nil {
		return true, c.reply(q, errnoOf(err))
	}
	if !done {
		return true, c.handOver(q, payload)
	}
	return true, c.reply(q, 0)
}

// discard swallows n bytes of a payload that nobody wants.
func (c *connection) discard(n int) error {
	for {
		have := min(n, c.received-c.parsed)
		c.parsed += have
		n -= have
		if n == 0 {
			return nil
		}
		if err := c.receive(); err != nil {
			return err
		}
	}
}

// reply adds a reply without data.
func (c *connection) reply(q request, errno uint32) error {
	if len(c.out)-c.replied < replySize {
		if err := c.flush(); err != nil {
			return err
		}
	}
	putReply(c.out[c.replied:], errno, q.cookie)
	c.replied += replySize
	counter := &c.batch[commandOf(q.wire)]
	counter.requests++
	if errno != 0 {
		counter.errors++
	} else {
		counter.bytes += uint64(q.length)
	}
	return nil
}

// replyRoom returns where the data of a read has to go for readDone.
func (c *connection) replyRoom(q request) ([]byte, error) {
	if len(c.out)-c.replied < replySize+int(q.length) {
		if err := c.flush(); err != nil {
			return nil, err
		}
	}
	start := c.replied + replySize
	return c.out[start : start+int(q.length)], nil
}

// readDone adds the reply to a read whose data is in replyRoom.
func (c *connection) readDone(q request) error {
	putReply(c.out[c.replied:], 0, q.cookie)
	c.replied += replySize + int(q.length)
	counter := &c.batch[CommandRead]
	counter.requests++
	counter.bytes += uint64(q.length)
	if c.replied < replyBatch {
		return nil
	}
	return c.flush()
}

// flush writes the replies of the batch. Whoever is about to wait for anything
// calls it first (N3).
func (c *connection) flush() error {
	if c.replied == 0 {
		return nil
	}
	c.writing.Lock()
	_, err := c.socket.Write(c.out[:c.replied])
	c.writing.Unlock()
	c.replied = 0
	c.batch.settle(&c.counters, c.server.now()-c.batchStart)
	if err != nil {
		return fmt.Errorf("write replies: %w", err)
	}
	return nil
}
