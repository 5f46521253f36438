package nbd

import "fmt"

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
// it is, or if moving it costs next to nothing.
func (c *connection) makeRoom() {
	rest := c.received - c.parsed
	if rest > compactBelow {
		q, _ := c.framing.parse(c.in[c.parsed:])
		if q.length <= inPlaceLimit && c.parsed+c.framing.requestSize()+int(q.length) <= len(c.in) {
			return
		}
	}
	copy(c.in, c.in[c.parsed:c.received])
	c.parsed, c.received = 0, rest
}

// serveReceived serves the complete requests that were received.
func (c *connection) serveReceived() error {
	size := c.framing.requestSize()
	for c.received-c.parsed >= size {
		q, ok := c.framing.parse(c.in[c.parsed:])
		if !ok {
			return errMagic
		}
		if c.framing.hasPayload(q) {
			complete, err := c.serveWrite(q)
			if err != nil || !complete {
				return err
			}
			continue
		}
		c.parsed += size
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
	return c.export.check(c.framing, c.contexts, q)
}

// serveRequest serves anything without a payload.
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
	data, err := c.replyRoom(int(q.length))
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
	return c.readDone(q, data)
}

// serveWrite serves a write, or refuses another request that brings a payload. It
// is not complete, and nothing was done, if a part of the payload is not there yet
// (N1).
func (c *connection) serveWrite(q request) (complete bool, err error) {
	if q.length > MaxPayload {
		return false, errTooLong
	}
	size := c.framing.requestSize()
	if errno := c.check(q); errno != 0 {
		c.parsed += size
		if err := c.discard(int(q.length)); err != nil {
			return false, err
		}
		return true, c.reply(q, errno)
	}
	if q.length > inPlaceLimit {
		c.parsed += size
		return true, c.writeLarge(q)
	}
	end := c.parsed + size + int(q.length)
	if end > c.received {
		return false, nil
	}
	payload := c.in[c.parsed+size : end]
	c.parsed = end
	if q.length == 0 {
		return true, c.reply(q, 0)
	}
	if q.flags&commandFUA != 0 {
		return true, c.handOver(q, payload)
	}
	n, err := c.export.device.tryWriteAt(payload, int64(q.offset))
	if err != nil {
		return true, c.reply(q, errnoOf(err))
	}
	if n < len(payload) {
		return true, c.handOver(q, payload[n:])
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
	if len(c.out)-c.replied < headerRoom {
		if err := c.flush(); err != nil {
			return err
		}
	}
	c.replied += c.framing.putReply(c.out[c.replied:], q, errno)
	counter := &c.batch[commandOf(q.wire)]
	counter.requests++
	if errno != 0 {
		counter.errors++
	} else {
		counter.bytes += q.length
	}
	return nil
}

// replyRoom returns where n bytes of data have to go for readDone.
func (c *connection) replyRoom(n int) ([]byte, error) {
	if len(c.out)-c.replied < headerRoom+n {
		if err := c.flush(); err != nil {
			return nil, err
		}
	}
	start := c.replied + c.framing.dataHeader()
	return c.out[start : start+n], nil
}

// readDone adds the reply to a read whose data is in replyRoom.
func (c *connection) readDone(q request, data []byte) error {
	if c.framing == framingSimple {
		c.replied += putSimple(c.out[c.replied:], 0, q.cookie) + len(data)
	} else {
		c.putChunks(q, data)
	}
	return c.repliedTo(CommandRead, q)
}

// putChunks adds the reply to a read in chunks.
func (c *connection) putChunks(q request, data []byte) {
	var header [headerRoom]byte
	h, m := c.framing.putRead(&header, q, data)
	if h != c.framing.dataHeader() {
		// It begins with a hole, whose chunk is a little longer than the one of data
		// that room was left for.
		copy(c.out[c.replied+h:], data[:m])
	}
	copy(c.out[c.replied:], header[:h])
	c.replied += h + m
}

// repliedTo counts a reply with data, and sends the replies once they are many.
func (c *connection) repliedTo(command Command, q request) error {
	counter := &c.batch[command]
	counter.requests++
	counter.bytes += q.length
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
