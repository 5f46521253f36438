package peer

import "github.com/tmemd/tmemd/backends/ramster/wire"

const (
	// backlogGrain is how many bytes of backlog there are for each mutation that it can
	// hold: their list is on the heap, for it has pointers.
	backlogGrain = 512
	// backlogReserve is how many mutations only pools may use: whoever opens or destroys
	// one has no second way.
	backlogReserve = 64
)

// mutation is a request that changes what the donor has.
type mutation struct {
	request   wire.Request // its number is given when it is sent
	done      Completion   // nil: nobody waits
	end       uint64       // where its blob ends, if it has one
	abandoned bool         // sent, and not to be sent again
}

// backlog has the mutations that wait for being sent, or for an answer. It is guarded
// by Peer.mu.
//
//	mutations: … head ──not answered──▸ sent ──not sent──▸ tail …
//	blobs:     … blobHead ──used──▸ blobTail …
//
// Positions count up, and are taken modulo the length of their ring. A blob is in one
// piece: one that does not fit before the end of the ring starts at its beginning.
type backlog struct {
	bytes              []byte
	mutations          []mutation
	head, sent, tail   uint64
	blobHead, blobTail uint64
}

func newBacklog(bytes []byte) backlog {
	return backlog{bytes: bytes, mutations: make([]mutation, len(bytes)/backlogGrain+backlogReserve)}
}

func (b *backlog) at(i uint64) *mutation { return &b.mutations[i%uint64(len(b.mutations))] }

// add copies a mutation to the end, if there is room.
func (b *backlog) add(r wire.Request, blob []byte, done Completion) bool {
	most := uint64(len(b.mutations))
	if r.Operation != wire.Pool && r.Operation != wire.Destroy {
		most -= backlogReserve
	}
	if b.tail-b.head >= most {
		return false
	}
	m := mutation{request: r, done: done}
	if size, n := uint64(len(b.bytes)), uint64(len(blob)); n > 0 {
		start := b.blobTail
		if start%size+n > size {
			start += size - start%size
		}
		if start+n-b.blobHead > size {
			return false
		}
		copy(b.bytes[start%size:], blob)
		m.end = start + n
		b.blobTail = m.end
	}
	*b.at(b.tail) = m
	b.tail++
	return true
}

// blob returns the bytes of a mutation.
func (b *backlog) blob(m *mutation) []byte {
	n := uint64(m.request.Length)
	if n == 0 {
		return nil
	}
	start := (m.end - n) % uint64(len(b.bytes))
	return b.bytes[start : start+n]
}

// next returns the first mutation that was not sent; there is one if unsent says so.
func (b *backlog) next() *mutation { return b.at(b.sent) }

func (b *backlog) unsent() bool { return b.sent < b.tail }

// answered takes away the oldest, which was sent.
func (b *backlog) answered() mutation {
	m := *b.at(b.head)
	*b.at(b.head) = mutation{}
	b.head++
	if m.end > 0 {
		b.blobHead = m.end
	}
	if b.head == b.tail {
		// The memory that was used last is the one that caches have.
		b.blobHead, b.blobTail = 0, 0
	}
	return m
}

// rewind makes all that were sent wait again: the session is gone.
func (b *backlog) rewind() {
	b.sent = b.head
	b.dropAbandoned()
}

// abandon ends all puts, and returns who waits for them. What was sent stays, without
// anybody waiting: the donor will answer it.
func (b *backlog) abandon() (waiting []Completion) {
	for i := b.head; i < b.tail; i++ {
		if m := b.at(i); m.request.Operation == wire.Put && !m.abandoned {
			if m.done != nil {
				waiting = append(waiting, m.done)
			}
			m.done, m.abandoned = nil, true
		}
	}
	b.dropAbandoned()
	return waiting
}

// dropAbandoned takes out what was abandoned and not sent in this session.
func (b *backlog) dropAbandoned() {
	kept := b.sent
	for i := b.sent; i < b.tail; i++ {
		if m := b.at(i); !m.abandoned {
			*b.at(kept) = *m
			kept++
		}
	}
	for i := kept; i < b.tail; i++ {
		*b.at(i) = mutation{}
	}
	b.tail = kept

	first := true
	for i := b.head; i < b.tail; i++ {
		if m := b.at(i); m.end > 0 {
			if first {
				b.blobHead, first = m.end-uint64(m.request.Length), false
			}
			b.blobTail = m.end
		}
	}
	if first {
		b.blobHead, b.blobTail = 0, 0
	}
}

// concerns says whether a mutation makes or destroys the pool.
func (b *backlog) concerns(pool uint32) bool {
	for i := b.head; i < b.tail; i++ {
		r := b.at(i).request
		if r.Pool == pool && (r.Operation == wire.Pool || r.Operation == wire.Destroy) {
			return true
		}
	}
	return false
}
