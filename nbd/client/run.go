package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Request is one request of a workload.
type Request struct {
	Command Command
	Offset  uint64 // bytes, a multiple of PageSize
	Length  uint32 // bytes; Read and Write: at most MaxLength

	// Data is what Write sends, Length bytes, and what Read has to find, or nil
	// if that is not checked. It must not change until the request is done.
	Data []byte

	// Received is what Read got, for Done, and dead when that returns.
	Received []byte
}

// MaxLength is the longest read or write.
const MaxLength = 128 << 10

// Workload names the requests of a run.
type Workload interface {
	// Next sets r to the next request and returns true. It returns false if
	// there is none now: the run ends when it does so with nothing outstanding.
	Next(r *Request) bool
	// Done tells that a request was answered, well.
	Done(r *Request)
}

// Options of a run.
type Options struct {
	Depth    int           // requests outstanding at once, 1 to MaxDepth
	Duration time.Duration // after which no more are sent; 0 means that the workload ends
}

// Result is what a run measured.
type Result struct {
	Elapsed time.Duration
	Reads   Histogram // latencies, from the moment before sending to the moment after receiving
	Writes  Histogram
	Others  Histogram
	Bytes   int64 // read and written
}

// Requests is how many requests were answered.
func (r *Result) Requests() uint64 { return r.Reads.Count() + r.Writes.Count() + r.Others.Count() }

// Rate is requests a second.
func (r *Result) Rate() float64 {
	if r.Elapsed <= 0 {
		return 0
	}
	return float64(r.Requests()) / r.Elapsed.Seconds()
}

// Merge adds the result of a run on another connection at the same time.
func (r *Result) Merge(other *Result) {
	r.Elapsed = max(r.Elapsed, other.Elapsed)
	r.Reads.Merge(&other.Reads)
	r.Writes.Merge(&other.Writes)
	r.Others.Merge(&other.Others)
	r.Bytes += other.Bytes
}

// Run drives the connection with the workload until it ends. After an error the
// connection is of no use. An error of ctx ends the run at once.
func (c *Conn) Run(ctx context.Context, w Workload, o Options) (*Result, error) {
	if o.Depth < 1 || o.Depth > MaxDepth {
		return nil, fmt.Errorf("run: depth %d is not from 1 to %d", o.Depth, MaxDepth)
	}
	if o.Duration == 0 {
		o.Duration = 1<<63 - 1
	}
	c.result = new(Result)
	c.free = c.free[:0]
	for i := range o.Depth {
		c.slots[i].used = false
		c.free = append(c.free, uint32(o.Depth-1-i))
	}
	stop := context.AfterFunc(ctx, func() { _ = unix.Shutdown(c.fd, unix.SHUT_RDWR) })
	defer stop()

	c.epoch = time.Now()
	if err := c.loop(w, o); err != nil {
		return nil, fmt.Errorf("run: %w", errors.Join(ctx.Err(), err))
	}
	c.result.Elapsed = time.Since(c.epoch)
	return c.result, nil
}

// loop issues, sends and receives in turn, all that can be at a time.
func (c *Conn) loop(w Workload, o Options) error {
	for {
		if now := time.Since(c.epoch); now < o.Duration {
			if err := c.issue(w, now); err != nil {
				return err
			}
		}
		if len(c.free) == o.Depth {
			return nil
		}
		if err := c.send(); err != nil {
			return err
		}
		ready, err := c.awaitReplies()
		if err != nil {
			return err
		}
		if !ready {
			continue
		}
		if err := c.receive(); err != nil {
			return err
		}
		if err := c.settle(w, time.Since(c.epoch)); err != nil {
			return err
		}
	}
}

// issue queues requests as long as the workload has any and there is room.
func (c *Conn) issue(w Workload, now time.Duration) error {
	for len(c.free) > 0 && len(c.out)-c.queued >= requestSize+MaxLength {
		index := c.free[len(c.free)-1]
		s := &c.slots[index]
		if !w.Next(&s.request) {
			return nil
		}
		r := &s.request
		if (r.Command == Read || r.Command == Write) && r.Length > MaxLength || r.Data != nil && len(r.Data) != int(r.Length) {
			return fmt.Errorf("%v of %d bytes with %d of data", r.Command, r.Length, len(r.Data))
		}
		c.free = c.free[:len(c.free)-1]
		c.generation++
		s.cookie, s.started, s.used = uint64(c.generation)<<32|uint64(index), now, true
		putRequest(c.out[c.queued:], r.Command, s.cookie, r.Offset, r.Length)
		c.queued += requestSize
		if r.Command == Write {
			c.queued += copy(c.out[c.queued:], r.Data)
		}
	}
	return nil
}

// settle accounts for the complete replies that were received.
func (c *Conn) settle(w Workload, now time.Duration) error {
	for c.received-c.parsed >= replySize {
		errno, cookie, ok := parseReply(c.in[c.parsed:])
		if !ok {
			return errors.New("a reply does not start with the magic number")
		}
		index := uint32(cookie)
		if int(index) >= len(c.slots) || !c.slots[index].used || c.slots[index].cookie != cookie {
			return fmt.Errorf("a reply has cookie %#x, which is not outstanding", cookie)
		}
		s := &c.slots[index]
		r := &s.request
		if errno != 0 {
			return fmt.Errorf("%v of %d bytes at offset %d: the server answers with error %d", r.Command, r.Length, r.Offset, errno)
		}
		end := c.parsed + replySize
		if r.Command == Read {
			end += int(r.Length)
			if end > c.received {
				return nil
			}
			if r.Data != nil && !bytes.Equal(r.Data, c.in[end-int(r.Length):end]) {
				return fmt.Errorf("%v of %d bytes at offset %d: wrong content", r.Command, r.Length, r.Offset)
			}
			r.Received = c.in[end-int(r.Length) : end]
		}
		c.parsed = end
		c.count(r, now-s.started)
		s.used = false
		c.free = append(c.free, index)
		w.Done(r)
	}
	return nil
}

func (c *Conn) count(r *Request, took time.Duration) {
	switch r.Command {
	case Read:
		c.result.Reads.Add(took, 1)
		c.result.Bytes += int64(r.Length)
	case Write:
		c.result.Writes.Add(took, 1)
		c.result.Bytes += int64(r.Length)
	default:
		c.result.Others.Add(took, 1)
	}
}
