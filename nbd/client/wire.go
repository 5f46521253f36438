package client

import (
	"encoding/binary"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// PageSize is the unit of the workloads, in bytes.
const PageSize = 4096

// Command is a command on the wire.
type Command uint16

// The commands that a workload may ask for (doc/proto.md of the NBD project).
const (
	Read  Command = Command(protocol.TRANSMISSION_TYPE_REQUEST_READ)
	Write Command = Command(protocol.TRANSMISSION_TYPE_REQUEST_WRITE)
	Flush Command = 3
	Trim  Command = 4

	disconnect = Command(protocol.TRANSMISSION_TYPE_REQUEST_DISC)
)

// String returns the command's name.
func (c Command) String() string {
	switch c {
	case Read:
		return "read"
	case Write:
		return "write"
	case Flush:
		return "flush"
	case Trim:
		return "trim"
	}
	return "other command"
}

const (
	requestSize = 28
	replySize   = 16
)

// putRequest encodes a header into the first requestSize bytes of b.
func putRequest(b []byte, command Command, cookie, offset uint64, length uint32) {
	b = b[:requestSize]
	binary.BigEndian.PutUint32(b, protocol.TRANSMISSION_MAGIC_REQUEST)
	binary.BigEndian.PutUint16(b[4:], 0)
	binary.BigEndian.PutUint16(b[6:], uint16(command))
	binary.BigEndian.PutUint64(b[8:], cookie)
	binary.BigEndian.PutUint64(b[16:], offset)
	binary.BigEndian.PutUint32(b[24:], length)
}

// parseReply decodes the first replySize bytes of b. It is false if they do not
// start with the magic of a simple reply.
func parseReply(b []byte) (errno uint32, cookie uint64, ok bool) {
	b = b[:replySize]
	return binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint64(b[8:]),
		binary.BigEndian.Uint32(b) == protocol.TRANSMISSION_MAGIC_REPLY
}
