package nbd

import (
	"encoding/binary"
	"errors"
)

// contexts is a set of metadata contexts: what BLOCK_STATUS tells of a range.
type contexts uint8

const (
	// contextAllocation is base:allocation of the protocol.
	contextAllocation contexts = 1 << iota
	// contextOwner is Config.OwnerContext: who has the bytes, as the device says.
	contextOwner

	contextKinds = 2
)

// allocationName is defined by the protocol, with its two flags.
const (
	allocationName = "base:allocation"
	statusHole     = uint32(1 << 0)
	statusZero     = uint32(1 << 1)
)

// Limits of one BLOCK_STATUS. A client asks again for what is left: the
// protocol leaves it to the server how much it tells at once.
const (
	maxExtents = 1000    // of one context
	statusSpan = 4 << 30 // bytes of the export that are looked at
	// statusRoom holds the replies of all contexts; it fits a buffer of the pool.
	statusRoom = contextKinds * contextRoom
	// contextRoom holds the longest chunk of one context.
	contextRoom = extendedChunkSize + 8 + maxExtents*16
)

// errNoExtents holds a device to its contract.
var errNoExtents = errors.New("device reported no extent")

// id is the number of a context on the wire.
func (c contexts) id() uint32 { return uint32(c) }

// statusList is the extents of one context while they are collected, encoded
// as the reply has them, neighbours of the same status joined.
type statusList struct {
	context contexts
	framing framing
	limit   int    // extents at most
	room    []byte // of contextRoom
	extents int
	length  uint64 // of the last one
	status  uint32 // of the last one
	full    bool
}

// payloadStart is where the extents' encoding begins in the room: behind the
// chunk's header, the context, and with extended headers the number of extents.
func (l *statusList) payloadStart() int {
	if l.framing == framingExtended {
		return extendedChunkSize + 8
	}
	return chunkSize + 4
}

func (l *statusList) extentSize() int {
	if l.framing == framingExtended {
		return 16
	}
	return 8
}

// add appends an extent.
func (l *statusList) add(length uint64, status uint32) {
	switch {
	case l.full:
		return
	case l.extents > 0 && status == l.status:
		l.length += length
	case l.extents == l.limit:
		l.full = true
		return
	default:
		l.extents++
		l.length, l.status = length, status
	}
	b := l.room[l.payloadStart()+(l.extents-1)*l.extentSize():]
	if l.framing == framingExtended {
		binary.BigEndian.PutUint64(b, l.length)
		binary.BigEndian.PutUint64(b[8:], uint64(l.status))
		return
	}
	// A request of 32-bit length brings no longer extent.
	binary.BigEndian.PutUint32(b, uint32(l.length))
	binary.BigEndian.PutUint32(b[4:], l.status)
}

// finish encodes what comes before the extents and returns the chunk's length.
func (l *statusList) finish(q request, flags uint16) int {
	payload := l.payloadStart() - l.framing.chunkSize() + l.extents*l.extentSize()
	kind := chunkBlockStatus
	if l.framing == framingExtended {
		kind = chunkBlockStatusExt
	}
	n := l.framing.putChunk(l.room, q, flags, kind, payload)
	binary.BigEndian.PutUint32(l.room[n:], l.context.id())
	if l.framing == framingExtended {
		binary.BigEndian.PutUint32(l.room[n+4:], uint32(l.extents))
	}
	return n + payload
}

// blockStatus fills b, of statusRoom bytes, with the reply to a BLOCK_STATUS: a
// chunk for each context. It returns the reply's length.
func (f framing) blockStatus(device Device, chosen contexts, q request, b []byte) (int, error) {
	limit := maxExtents
	if q.flags&commandReqOne != 0 {
		limit = 1
	}
	var lists [contextKinds]statusList
	n := 0
	for _, c := range [...]contexts{contextAllocation, contextOwner} {
		if chosen&c != 0 {
			lists[n] = statusList{context: c, framing: f, limit: limit, room: b[n*contextRoom : (n+1)*contextRoom]}
			n++
		}
	}
	left := min(q.length, statusSpan)
	err := device.Extents(int64(q.offset), int64(left), func(length int64, hole bool, owner uint32) bool {
		if length <= 0 {
			return true
		}
		told := min(uint64(length), left)
		left -= told
		more := false
		for i := range lists[:n] {
			status := owner
			if lists[i].context == contextAllocation {
				status = 0
				if hole {
					status = statusHole | statusZero
				}
			}
			lists[i].add(told, status)
			more = more || !lists[i].full
		}
		return more && left > 0
	})
	if err != nil {
		return 0, err
	}
	total := 0
	for i := range lists[:n] {
		if lists[i].extents == 0 {
			return 0, errNoExtents
		}
		flags := uint16(0)
		if i == n-1 {
			flags = chunkDone
		}
		total += copy(b[total:], lists[i].room[:lists[i].finish(q, flags)])
	}
	return total, nil
}
