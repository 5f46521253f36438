package nbd

import (
	"encoding/binary"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// framing is how requests and replies are cut out of the stream, as a client
// chose during the handshake. Linux speaks simple; the rest is for tools.
//
//	framing     request   reply without data        reply with data
//	simple      28 bytes  16 bytes                  16 bytes, data
//	structured  28 bytes  16 bytes; READ and        chunks of 20 bytes and a payload
//	                      BLOCK_STATUS a chunk
//	extended    32 bytes  a chunk                   chunks of 32 bytes and a payload
type framing uint8

const (
	framingSimple framing = iota
	framingStructured
	framingExtended
)

// Sizes of the fixed parts of the stream, in bytes.
const (
	requestSize         = 28
	extendedRequestSize = 32
	replySize           = 16
	chunkSize           = 20
	extendedChunkSize   = 32
	// headerRoom is the longest head of a reply: an extended chunk that tells of a
	// hole, or of data.
	headerRoom = extendedChunkSize + holePayload
)

// Magic numbers that go-nbd does not have.
const (
	magicChunk           = uint32(0x668e33ef)
	magicExtendedRequest = uint32(0x21e41c71)
	magicExtendedChunk   = uint32(0x6e8a278c)
)

// Types of chunks, and their one flag.
const (
	chunkNone           = uint16(0)
	chunkOffsetData     = uint16(1)
	chunkOffsetHole     = uint16(2)
	chunkBlockStatus    = uint16(5)
	chunkBlockStatusExt = uint16(6)
	chunkError          = uint16(1<<15 | 1)

	chunkDone = uint16(1 << 0) // the last one of its reply
)

// What chunks carry besides data, in bytes.
const (
	dataPayload  = 8  // offset
	holePayload  = 12 // offset, length
	errorPayload = 6  // errno, length of a text that we leave out
)

// request is a request's header without its magic.
type request struct {
	flags  uint16
	wire   uint16 // command as the client wrote it
	cookie uint64
	offset uint64
	length uint64
}

// requestSize is the length of a request's header.
func (f framing) requestSize() int {
	if f == framingExtended {
		return extendedRequestSize
	}
	return requestSize
}

// parse decodes the request at the start of b, which is all there. It is false
// if it does not start with the magic.
func (f framing) parse(b []byte) (request, bool) {
	b = b[:requestSize]
	q := request{
		flags:  binary.BigEndian.Uint16(b[4:]),
		wire:   binary.BigEndian.Uint16(b[6:]),
		cookie: binary.BigEndian.Uint64(b[8:]),
		offset: binary.BigEndian.Uint64(b[16:]),
	}
	if f == framingExtended {
		q.length = binary.BigEndian.Uint64(b[24:extendedRequestSize])
		return q, binary.BigEndian.Uint32(b) == magicExtendedRequest
	}
	q.length = uint64(binary.BigEndian.Uint32(b[24:]))
	return q, binary.BigEndian.Uint32(b) == protocol.TRANSMISSION_MAGIC_REQUEST
}

// hasPayload says whether bytes follow the request's header. Nothing but a WRITE
// has any, whatever its length says, but where extended headers announce them.
func (f framing) hasPayload(q request) bool {
	return q.wire == wireWrite || f == framingExtended && q.flags&commandPayloadLen != 0
}

// dataHeader is the length of what comes before the data of a read that is
// answered in one piece.
func (f framing) dataHeader() int {
	if f == framingSimple {
		return replySize
	}
	return f.chunkSize() + dataPayload
}

func (f framing) chunkSize() int {
	if f == framingExtended {
		return extendedChunkSize
	}
	return chunkSize
}

// putReply encodes a reply without data, of at most headerRoom bytes, and
// returns its length.
func (f framing) putReply(b []byte, q request, errno uint32) int {
	if f == framingSimple || f == framingStructured && q.wire != wireRead && q.wire != wireBlockStatus {
		return putSimple(b, errno, q.cookie)
	}
	if errno == 0 {
		return f.putChunk(b, q, chunkDone, chunkNone, 0)
	}
	n := f.putChunk(b, q, chunkDone, chunkError, errorPayload)
	binary.BigEndian.PutUint32(b[n:], errno)
	binary.BigEndian.PutUint16(b[n+4:], 0)
	return n + errorPayload
}

// putSimple encodes a simple reply's header.
func putSimple(b []byte, errno uint32, cookie uint64) int {
	b = b[:replySize]
	binary.BigEndian.PutUint32(b, protocol.TRANSMISSION_MAGIC_REPLY)
	binary.BigEndian.PutUint32(b[4:], errno)
	binary.BigEndian.PutUint64(b[8:], cookie)
	return replySize
}

// putChunk encodes the header of a chunk with a payload of that many bytes, and
// returns its length.
func (f framing) putChunk(b []byte, q request, flags, kind uint16, payload int) int {
	magic := magicChunk
	if f == framingExtended {
		magic = magicExtendedChunk
	}
	binary.BigEndian.PutUint32(b, magic)
	binary.BigEndian.PutUint16(b[4:], flags)
	binary.BigEndian.PutUint16(b[6:], kind)
	binary.BigEndian.PutUint64(b[8:], q.cookie)
	if f == framingExtended {
		binary.BigEndian.PutUint64(b[16:], q.offset)
		binary.BigEndian.PutUint64(b[24:], uint64(payload))
		return extendedChunkSize
	}
	binary.BigEndian.PutUint32(b[16:], uint32(payload))
	return chunkSize
}
