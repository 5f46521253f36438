package nbd

import (
	"encoding/binary"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// The names and numbers below come from the NBD protocol's doc/proto.md. What
// go-nbd's protocol package has is used from there, here or at its place of
// use; the values written out are those it lacks.

// MaxPayload is the most data that one request carries: 32 MiB, the size that
// every client may rely on.
const MaxPayload = 32 << 20

// The block sizes told to clients that ask, in bytes.
const (
	minimumBlockSize   = 1
	preferredBlockSize = 4096
)

// Handshake flags, of the server and (widened to 32 bits) of the client.
const (
	handshakeFixedNewstyle = protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE
	handshakeNoZeroes      = uint16(1 << 1)
)

// Options.
const (
	optionExportName = uint32(1)
	optionStartTLS   = uint32(5)
)

const (
	replyAck            = protocol.NEGOTIATION_TYPE_REPLY_ACK
	replyErrUnsupported = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
)

// Error replies to options.
const (
	replyErrInvalid  = uint32(3 | 1<<31)
	replyErrTLSFirst = uint32(5 | 1<<31)
	replyErrShutdown = uint32(7 | 1<<31)
	replyErrTooBig   = uint32(9 | 1<<31)
)

// Transmission flags.
const (
	transmissionHasFlags    = protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS
	transmissionReadOnly    = uint16(1 << 1)
	transmissionFlush       = uint16(1 << 2)
	transmissionFUA         = uint16(1 << 3)
	transmissionTrim        = uint16(1 << 5)
	transmissionWriteZeroes = uint16(1 << 6)
	transmissionMultiConn   = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN
)

// Commands on the wire.
const (
	wireRead        = protocol.TRANSMISSION_TYPE_REQUEST_READ
	wireWrite       = protocol.TRANSMISSION_TYPE_REQUEST_WRITE
	wireDisconnect  = protocol.TRANSMISSION_TYPE_REQUEST_DISC
	wireFlush       = uint16(3)
	wireTrim        = uint16(4)
	wireWriteZeroes = uint16(6)
)

// Command flags.
const (
	commandFUA    = uint16(1 << 0)
	commandNoHole = uint16(1 << 1)
)

// Sizes of the fixed parts of the stream, in bytes.
const (
	optionHeaderSize = 16
	requestSize      = 28
	replySize        = 16
	zeroesSize       = 124 // what follows the answer to EXPORT_NAME, unless both sides agree to leave it out
)

// request is protocol.TransmissionRequestHeader without its magic.
type request struct {
	flags  uint16
	wire   uint16 // command as the client wrote it
	cookie uint64
	offset uint64
	length uint32
}

// parseRequest decodes the first requestSize bytes of b, which must be there.
// It is false if they do not start with the magic.
func parseRequest(b []byte) (request, bool) {
	b = b[:requestSize]
	return request{
		flags:  binary.BigEndian.Uint16(b[4:]),
		wire:   binary.BigEndian.Uint16(b[6:]),
		cookie: binary.BigEndian.Uint64(b[8:]),
		offset: binary.BigEndian.Uint64(b[16:]),
		length: binary.BigEndian.Uint32(b[24:]),
	}, binary.BigEndian.Uint32(b) == protocol.TRANSMISSION_MAGIC_REQUEST
}

// putReply encodes a simple reply's header into the first replySize bytes of b.
func putReply(b []byte, errno uint32, cookie uint64) {
	b = b[:replySize]
	binary.BigEndian.PutUint32(b, protocol.TRANSMISSION_MAGIC_REPLY)
	binary.BigEndian.PutUint32(b[4:], errno)
	binary.BigEndian.PutUint64(b[8:], cookie)
}
