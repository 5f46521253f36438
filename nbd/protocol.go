package nbd

import "github.com/pojntfx/go-nbd/pkg/protocol"

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

// Options that go-nbd does not name.
const (
	optionExportName      = uint32(1)
	optionStartTLS        = uint32(5)
	optionStructuredReply = uint32(8)
	optionListMetaContext = uint32(9)
	optionSetMetaContext  = uint32(10)
	optionExtendedHeaders = uint32(11)
)

// replyMetaContext is the type of the replies that name a metadata context.
const replyMetaContext = uint32(4)

// Replies that go-nbd names at length.
const (
	replyAck            = protocol.NEGOTIATION_TYPE_REPLY_ACK
	replyErrUnsupported = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
)

// Error replies to options.
const (
	replyErrInvalid       = uint32(3 | 1<<31)
	replyErrTLSFirst      = uint32(5 | 1<<31)
	replyErrShutdown      = uint32(7 | 1<<31)
	replyErrTooBig        = uint32(9 | 1<<31)
	replyErrExtHeaderReqd = uint32(10 | 1<<31)
)

// Transmission flags.
const (
	transmissionHasFlags    = protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS
	transmissionReadOnly    = uint16(1 << 1)
	transmissionFlush       = uint16(1 << 2)
	transmissionFUA         = uint16(1 << 3)
	transmissionTrim        = uint16(1 << 5)
	transmissionWriteZeroes = uint16(1 << 6)
	transmissionDF          = uint16(1 << 7)
	transmissionMultiConn   = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN
	transmissionCache       = uint16(1 << 10)
	transmissionFastZero    = uint16(1 << 11)
)

// Commands on the wire.
const (
	wireRead        = protocol.TRANSMISSION_TYPE_REQUEST_READ
	wireWrite       = protocol.TRANSMISSION_TYPE_REQUEST_WRITE
	wireDisconnect  = protocol.TRANSMISSION_TYPE_REQUEST_DISC
	wireFlush       = uint16(3)
	wireTrim        = uint16(4)
	wireCache       = uint16(5)
	wireWriteZeroes = uint16(6)
	wireBlockStatus = uint16(7)
)

// Command flags.
const (
	commandFUA        = uint16(1 << 0)
	commandNoHole     = uint16(1 << 1)
	commandDF         = uint16(1 << 2) // one chunk, please
	commandReqOne     = uint16(1 << 3) // one extent, please
	commandFastZero   = uint16(1 << 4) // fail rather than be slow
	commandPayloadLen = uint16(1 << 5) // with extended headers: length is that of a payload
)

// Sizes of the fixed parts of the handshake, in bytes.
const (
	optionHeaderSize = 16
	zeroesSize       = 124 // what follows the answer to EXPORT_NAME, unless both sides agree to leave it out
)
