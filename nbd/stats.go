package nbd

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Command is a kind of request, as statistics tell them apart.
type Command uint8

// The commands. Other is what the server does not know, answered with EINVAL.
// A disconnect is not counted: it has no reply.
const (
	CommandRead Command = iota
	CommandWrite
	CommandFlush
	CommandTrim
	CommandWriteZeroes
	CommandCache
	CommandBlockStatus
	CommandOther
	CommandCount // the number of values above, for arrays indexed by command
)

// String returns the command as metrics spell it.
func (c Command) String() string {
	switch c {
	case CommandRead:
		return "read"
	case CommandWrite:
		return "write"
	case CommandFlush:
		return "flush"
	case CommandTrim:
		return "trim"
	case CommandWriteZeroes:
		return "write_zeroes"
	case CommandCache:
		return "cache"
	case CommandBlockStatus:
		return "block_status"
	}
	return "other"
}

// commandOf is the statistics' name for a command on the wire.
func commandOf(wire uint16) Command {
	switch wire {
	case wireRead:
		return CommandRead
	case wireWrite:
		return CommandWrite
	case wireFlush:
		return CommandFlush
	case wireTrim:
		return CommandTrim
	case wireWriteZeroes:
		return CommandWriteZeroes
	case wireCache:
		return CommandCache
	case wireBlockStatus:
		return CommandBlockStatus
	}
	return CommandOther
}

// LatencyBuckets is the length of a [Latency] histogram.
const LatencyBuckets = 22

// Latency is how long requests took, from the moment when they were read from
// the socket to the moment when the reply was in the socket.
type Latency struct {
	Buckets [LatencyBuckets]uint64 // requests, not cumulative; LatencyBound gives their upper ends
	Sum     time.Duration
}

// LatencyBound is the upper end, inclusive, of bucket i: 16 µs, 32 µs and so on
// up to 16.8 s. The last bucket has none, and 0 is returned for it.
func LatencyBound(i int) time.Duration {
	if i >= LatencyBuckets-1 {
		return 0
	}
	return 16 * time.Microsecond << i
}

// latencyBucket is the index of the bucket that holds d.
func latencyBucket(d time.Duration) int {
	if d <= LatencyBound(0) {
		return 0
	}
	microseconds := uint64((d + time.Microsecond - 1) / time.Microsecond)
	return min(bits.Len64((microseconds-1)>>4), LatencyBuckets-1)
}

// RequestStats is about the requests of one command.
type RequestStats struct {
	Requests uint64 // answered, errors included
	Errors   uint64 // answered with an error
	Bytes    uint64 // moved, discarded or zeroed by those that succeeded
	Latency  Latency
}

// CommandStats is indexed by [Command].
type CommandStats [CommandCount]RequestStats

// add adds other to s.
func (s *CommandStats) add(other *CommandStats) {
	for i := range s {
		s[i].Requests += other[i].Requests
		s[i].Errors += other[i].Errors
		s[i].Bytes += other[i].Bytes
		s[i].Latency.Sum += other[i].Latency.Sum
		for b := range s[i].Latency.Buckets {
			s[i].Latency.Buckets[b] += other[i].Latency.Buckets[b]
		}
	}
}

// ConnectionStats counts connections.
type ConnectionStats struct {
	Now         int // open, handshakes included
	Handshaking int // of these, not in transmission yet
	Total       uint64
	Refused     map[string]uint64 // closed at once, by reason
}

// TLSStats is about encrypted connections. Failures are in HandshakeFailures, as
// "tls" and "tls_required".
type TLSStats struct {
	Now        int       // open
	Handshakes uint64    // TLS handshakes that succeeded
	Expires    time.Time // end of the server's certificate; zero if TLS is off
}

// ExportStats is about one export.
type ExportStats struct {
	Name     string
	Size     int64 // bytes
	ReadOnly bool
	Clients  int // connections in transmission
	Commands CommandStats
}

// BufferStats is the memory that the server holds outside the Go heap, in bytes.
type BufferStats struct {
	Connections int64 // address space of the connections' own buffers; memory is taken where they are touched
	Pool        int64 // mapped by the shared pool
	PoolLent    int64 // of Pool, in use now
	PoolLimit   int64 // Pool stays at or below this
}

// Stats is a snapshot of what the server did. Totals never decrease.
type Stats struct {
	Connections       ConnectionStats
	HandshakeFailures map[string]uint64 // by reason
	AccessDenied      map[string]uint64 // exports that a client named and might not open, by reason
	TLS               TLSStats
	Commands          CommandStats  // of all exports, removed ones too
	Exports           []ExportStats // in the order in which they were added
	Buffers           BufferStats
	Panics            uint64 // survived, of devices and of the server
}

// requestCounters is RequestStats while it is counted. Each connection has its
// own, so that no cache line goes from one to another; all fields are atomic
// because the connection's goroutine, its writer and Stats meet there.
type requestCounters struct {
	requests atomic.Uint64
	errors   atomic.Uint64
	bytes    atomic.Uint64
	buckets  [LatencyBuckets]atomic.Uint64
	sum      atomic.Int64 // nanoseconds
}

type commandCounters [CommandCount]requestCounters

// observe counts requests that all took so long.
func (c *requestCounters) observe(requests, errors, bytes uint64, took time.Duration) {
	c.requests.Add(requests)
	if errors > 0 {
		c.errors.Add(errors)
	}
	c.bytes.Add(bytes)
	c.buckets[latencyBucket(took)].Add(requests)
	c.sum.Add(int64(took) * int64(requests))
}

// snapshot adds what was counted to s.
func (c *commandCounters) snapshot(s *CommandStats) {
	for i := range c {
		s[i].Requests += c[i].requests.Load()
		s[i].Errors += c[i].errors.Load()
		s[i].Bytes += c[i].bytes.Load()
		s[i].Latency.Sum += time.Duration(c[i].sum.Load())
		for b := range c[i].buckets {
			s[i].Latency.Buckets[b] += c[i].buckets[b].Load()
		}
	}
}

// batchCounters counts what a connection answers in place until the replies are
// written: plain numbers, since only its goroutine sees them.
type batchCounters [CommandCount]struct{ requests, errors, bytes uint64 }

// settle moves the batch into the counters.
func (b *batchCounters) settle(into *commandCounters, took time.Duration) {
	for i := range b {
		if b[i].requests > 0 {
			into[i].observe(b[i].requests, b[i].errors, b[i].bytes, took)
		}
	}
	*b = batchCounters{}
}
