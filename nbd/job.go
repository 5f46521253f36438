package nbd

import (
	"errors"
	"net"
	"runtime/debug"
	"time"
)

// job is a request that waits for a device in another goroutine.
type job struct {
	connection *connection // immutable
	request    request
	data       []byte // payload, or room for it; borrowed from the pool, or nil
	started    time.Duration
	errno      uint32
	header     [headerRoom]byte
	headerSize int // bytes of header that are sent
	dataSize   int // bytes of data that are sent behind it
}

// work is one of the server's workers. It never waits for a client: the reply
// goes to the connection's own writer (N4).
func (s *Server) work() {
	debug.SetPanicOnFault(true)
	for j := range s.jobs {
		j.run()
		s.idleWorkers.Add(1)
		j.connection.done <- j
	}
}

// reserveWorker takes a worker that is idle, for a job that is sent to jobs
// next. It never waits.
func (s *Server) reserveWorker() bool {
	for {
		idle := s.idleWorkers.Load()
		if idle == 0 {
			return false
		}
		if s.idleWorkers.CompareAndSwap(idle, idle-1) {
			return true
		}
	}
}

func (j *job) run() {
	c := j.connection
	n, errno := 0, errnoShutdown
	if !c.server.draining.Load() {
		n, errno = c.perform(j.request, j.data)
	}
	j.errno, j.headerSize, j.dataSize = errno, 0, 0
	switch {
	case errno == 0 && j.request.wire == wireRead:
		j.headerSize, j.dataSize = c.framing.putRead(&j.header, j.request, j.data)
	case errno == 0 && j.request.wire == wireBlockStatus:
		j.dataSize = n
	default:
		j.headerSize = c.framing.putReply(j.header[:], j.request, errno)
	}
}

// perform asks the device, waiting as long as it takes, and logs its failures.
// For a BLOCK_STATUS it fills data with the whole reply, of n bytes.
func (c *connection) perform(q request, data []byte) (n int, errno uint32) {
	n, err := c.export.device.perform(c.framing, c.contexts, q, data)
	if err != nil {
		c.server.log.warn("request failed", "export", c.export.Name, "command", commandOf(q.wire).String(),
			"offset", q.offset, "length", q.length, "error", err)
	}
	return n, errnoOf(err)
}

// dataBytes is how much memory a request needs besides its header.
func (q request) dataBytes() int {
	switch q.wire {
	case wireRead, wireWrite:
		return int(q.length)
	case wireBlockStatus:
		return statusRoom
	}
	return 0
}

// handOver gives a request to a worker. payload is what is left of a write's,
// copied. If no memory can be had at once and the connection's own buffers do, the request is
// served here and now: the connection waits for the device then, but not for
// what other clients hold.
func (c *connection) handOver(q request, payload []byte) error {
	j, err := c.takeJob()
	if err != nil {
		return err
	}
	n := q.dataBytes()
	if payload != nil {
		n = len(payload)
	}
	if n > 0 {
		j.data, err = c.tryBorrow(n)
		if err == nil && j.data == nil && n <= inPlaceLimit {
			c.giveBack(j)
			return c.serveHere(q, payload)
		}
		if err == nil && j.data == nil {
			j.data, err = c.borrow(n)
		}
		if err != nil {
			c.giveBack(j)
			return c.withoutMemory(q, err)
		}
		copy(j.data, payload)
	}
	return c.start(j, q)
}

// withoutMemory answers a request that no memory could be mapped for; any other
// error means that the connection is at its end.
func (c *connection) withoutMemory(q request, err error) error {
	if !errors.Is(err, errNoBuffer) {
		return err
	}
	c.server.log.error("request failed", "export", c.export.Name, "error", err)
	return c.reply(q, errnoOf(err))
}

// serveHere serves a request of at most inPlaceLimit on the connection's
// goroutine, in the connection's buffers.
func (c *connection) serveHere(q request, payload []byte) error {
	if err := c.flush(); err != nil {
		return err
	}
	data := payload
	if q.wire == wireRead || q.wire == wireBlockStatus {
		var err error
		if data, err = c.replyRoom(q.dataBytes()); err != nil {
			return err
		}
	}
	n, errno := c.perform(q, data)
	if errno != 0 {
		return c.reply(q, errno)
	}
	switch q.wire {
	case wireRead:
		return c.readDone(q, data)
	case wireBlockStatus:
		c.replied += copy(c.out[c.replied:], data[:n])
		return c.repliedTo(CommandBlockStatus, q)
	}
	return c.reply(q, 0)
}

// writeLarge receives a payload over inPlaceLimit straight into borrowed memory
// and hands the write over once all of it is there (N1).
func (c *connection) writeLarge(q request) error {
	j, err := c.takeJob()
	if err != nil {
		return err
	}
	j.data, err = c.borrow(int(q.length))
	if err != nil {
		c.giveBack(j)
		if err := c.discard(int(q.length)); err != nil {
			return err
		}
		return c.withoutMemory(q, err)
	}
	n := copy(j.data, c.in[c.parsed:c.received])
	c.parsed += n
	if err := c.receiveInto(j.data[n:]); err != nil {
		return err
	}
	return c.start(j, q)
}

// receiveInto fills b from the socket. On an error b's owner is finish.
func (c *connection) receiveInto(b []byte) error {
	if err := c.flush(); err != nil {
		return err
	}
	defer c.receiving.stop()
	for len(b) > 0 {
		c.receiving.tick(c.server.now())
		n, err := c.socket.Read(b)
		b = b[n:]
		if err != nil && len(b) > 0 {
			return err
		}
	}
	c.batchStart = c.server.now()
	return nil
}

// start hands a job to a worker, or runs it here when all are busy: then this
// connection waits for its own request instead of for other clients' ones.
func (c *connection) start(j *job, q request) error {
	j.request, j.started = q, c.batchStart
	c.taken = nil
	if c.server.reserveWorker() {
		c.server.jobs <- j
		return nil
	}
	if err := c.flush(); err != nil {
		c.giveBack(j)
		return err
	}
	j.run()
	c.done <- j
	return nil
}

// takeJob returns a job that is idle, waiting for one if MaxOutstanding are not.
// It is c.taken until start or giveBack. On a broken connection it fails: what is
// left of a dead client's requests is not worth the device's time.
func (c *connection) takeJob() (*job, error) {
	if c.broken.Load() {
		return nil, errBroken
	}
	var j *job
	select {
	case j = <-c.idle:
	default:
		var err error
		if j, err = c.nextJob(); err != nil {
			return nil, err
		}
	}
	c.taken = j
	return j, nil
}

// nextJob makes a job, or waits for one. The first one brings the writer: most
// connections of a swap device never need it.
func (c *connection) nextJob() (*job, error) {
	if c.made == cap(c.idle) {
		if err := c.flush(); err != nil {
			return nil, err
		}
		return <-c.idle, nil
	}
	if c.made == 0 {
		c.server.running.Go(c.writeReplies)
	}
	c.made++
	return &job{connection: c}, nil
}

// giveBack undoes takeJob.
func (c *connection) giveBack(j *job) {
	c.taken = nil
	c.recycle(j)
}

// recycle makes a job idle after it has returned what it borrowed, in this
// order: who waits for idle jobs waits for the memory too.
func (c *connection) recycle(j *job) {
	if j.data != nil {
		c.borrowed.Add(-int64(cap(j.data)))
		c.server.pool.put(j.data)
		j.data = nil
	}
	c.idle <- j
}

// tryBorrow returns n bytes of the pool, or nil if that meant waiting.
func (c *connection) tryBorrow(n int) ([]byte, error) {
	if c.borrowed.Load()+classBytes(bufferClass(n)) > c.share {
		return nil, nil
	}
	b, err := c.server.pool.tryGet(n)
	c.borrowed.Add(int64(cap(b)))
	return b, err
}

// borrow returns n bytes of the pool. It waits first until the connection's own
// replies are sent, as far as its share demands, and then for its turn: this is
// the back-pressure on clients with large requests.
func (c *connection) borrow(n int) ([]byte, error) {
	if b, err := c.tryBorrow(n); b != nil || err != nil {
		return b, err
	}
	if err := c.flush(); err != nil {
		return nil, err
	}
	var held []*job
	for c.borrowed.Load()+classBytes(bufferClass(n)) > c.share {
		held = append(held, <-c.idle)
	}
	for _, j := range held {
		c.idle <- j
	}
	if c.broken.Load() {
		return nil, errBroken
	}
	b, err := c.server.pool.get(n)
	c.borrowed.Add(int64(cap(b)))
	return b, err
}

// writeReplies is the connection's writer: it sends the replies of jobs in the
// order in which they finish, as many at a time as there are. If the socket is
// broken they are dropped, and the reader is told by closing it.
func (c *connection) writeReplies() {
	defer close(c.written)
	batch := make([]*job, 0, cap(c.done))
	pieces := make([][]byte, 0, 2*cap(c.done))
	var vector net.Buffers
	for j := range c.done {
		batch = c.gather(append(batch[:0], j))
		pieces = pieces[:0]
		for _, j := range batch {
			if j.headerSize > 0 {
				pieces = append(pieces, j.header[:j.headerSize])
			}
			if j.dataSize > 0 {
				pieces = append(pieces, j.data[:j.dataSize])
			}
		}
		vector = pieces
		c.sending.tick(c.server.now())
		c.writing.Lock()
		err := c.writePieces(&vector)
		c.writing.Unlock()
		c.sending.stop()
		if err != nil {
			c.broken.Store(true)
			c.socket.Close()
		}
		c.release(batch)
	}
}

// gather adds the jobs that are done by now to the batch.
func (c *connection) gather(batch []*job) []*job {
	for len(batch) < cap(batch) {
		select {
		case j, ok := <-c.done:
			if !ok {
				return batch
			}
			batch = append(batch, j)
		default:
			return batch
		}
	}
	return batch
}

// release counts jobs whose replies are sent and makes them idle.
func (c *connection) release(batch []*job) {
	now := c.server.now()
	for _, j := range batch {
		var failed, bytes uint64
		if j.errno != 0 {
			failed = 1
		} else {
			bytes = j.request.length
		}
		c.counters[commandOf(j.request.wire)].observe(1, failed, bytes, now-j.started)
		c.recycle(j)
	}
}
