package donor

import (
	"encoding/binary"
	"net"
	"sync"
	"time"

	"github.com/tmemd/tmemd/backends/ramster/wire"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

const (
	// bufferSize is that of a session's requests, and that of its replies.
	bufferSize = 128 << 10
	// largest is the length of the longest frame in either direction.
	largest = wire.RequestSize + wire.MaxPayload
)

// connection is one connection: a goroutine that reads as many requests as there are,
// answers those that are complete, and writes the replies at once.
type connection struct {
	donor *Donor
	conn  net.Conn
	ended sync.Once
	done  chan struct{} // closed when the goroutine acts no more

	client *client // once admitted; written with Donor.mu held

	// Owned by the goroutine.
	owner   *owner // once there is a session
	party   wire.Party
	number  uint64 // of the last request
	in, out []byte // nil until there is a session
	replies int    // bytes of out
	writeBy time.Time
	failed  bool // a write has
}

// end makes the goroutine end.
func (c *connection) end() { c.ended.Do(func() { c.conn.Close() }) }

func (c *connection) run() {
	defer close(c.done)
	defer c.end()
	if !c.greet() {
		return
	}
	defer c.leave()
	memory, err := sharedmem.NewPrivate("buffers of an owner's session", 2*bufferSize)
	if err != nil {
		c.donor.config.Log.Error("no memory for a session", "error", err)
		return
	}
	defer memory.Close()
	c.in, c.out = memory.Bytes()[:bufferSize:bufferSize], memory.Bytes()[bufferSize:]
	c.serve()
}

// serve reads and answers until the connection ends.
func (c *connection) serve() {
	start, end := 0, 0
	for {
		if start == end {
			start, end = 0, 0
		} else if len(c.in)-end < largest {
			end = copy(c.in, c.in[start:end])
			start = 0
		}
		n, err := c.conn.Read(c.in[end:])
		end += n
		more := true
		for more && end-start >= wire.RequestSize {
			r, bad := wire.DecodeRequest(c.in[start:end])
			if bad != nil {
				more = false
				break
			}
			length := wire.RequestSize + int(r.Length)
			if end-start < length {
				break
			}
			more = c.take(r, c.in[start:start+length])
			start += length
		}
		if !c.flush() || !more || err != nil {
			return
		}
	}
}

// take acts on one request, whose frame is the caller's to give away. It returns false
// if the connection is to end.
func (c *connection) take(r wire.Request, frame []byte) bool {
	if r.Number <= c.number {
		return true // repeated on the way
	}
	if r.Number != c.number+1 {
		return false // one was lost
	}
	c.number++
	if r.Operation == wire.Put {
		// The version goes before the bytes, where the header was: an object in one piece.
		data := frame[wire.RequestSize-versionSize:]
		binary.LittleEndian.PutUint64(data, r.Generation)
		return c.answer(r, data)
	}
	return c.answer(r, nil)
}

// room is where the payload of the next reply goes, of at least wire.MaxPayload bytes.
func (c *connection) room() []byte {
	if len(c.out)-c.replies < wire.ReplySize+wire.MaxPayload {
		c.flush()
	}
	return c.out[c.replies+wire.ReplySize:]
}

// reply adds a reply whose payload, of so many bytes, is where room said. It returns
// false if the connection is to end.
func (c *connection) reply(r wire.Request, a wire.Reply) bool {
	if len(c.out)-c.replies < wire.ReplySize+wire.MaxPayload {
		c.flush() // of a reply without a payload: room was not called
	}
	a.Operation, a.Number = r.Operation, r.Number
	if c.client.wanted() > 0 && !a.Status.Ends() {
		a.Flags |= wire.WantsBack
	}
	a.Encode(c.out[c.replies:])
	c.replies += wire.ReplySize + int(a.Length)
	c.donor.count(r.Operation, a.Status)
	return !a.Status.Ends() && !c.failed
}

// flush writes the replies.
func (c *connection) flush() bool {
	if c.replies == 0 || c.failed {
		c.replies = 0
		return !c.failed
	}
	// Not for each batch: a deadline is a timer.
	timeout := c.donor.config.WriteTimeout
	if now := time.Now(); c.writeBy.Sub(now) < timeout/2 {
		c.writeBy = now.Add(timeout)
		c.failed = c.conn.SetWriteDeadline(c.writeBy) != nil
	}
	if !c.failed {
		_, err := c.conn.Write(c.out[:c.replies])
		c.failed = err != nil
	}
	c.replies = 0
	return !c.failed
}
