package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

const (
	handshakeNoZeroes = 1 << 1
	// maxOptionReply bounds what is read of one answer to an option.
	maxOptionReply = 64 << 10
)

// information is what a server says of an export.
type information struct {
	size  uint64
	flags Flags
}

// Flags say what a server allows on an export (doc/proto.md, "Transmission flags").
type Flags uint16

// The flags that matter to who makes load.
const (
	ReadOnly Flags = 1 << 1 // no writes
	CanTrim  Flags = 1 << 5 // Trim is known
	CanMulti Flags = 1 << 8 // several connections see each other's writes
)

// negotiate opens the export and returns what it is: fixed newstyle, GO.
func negotiate(rw io.ReadWriter, export string) (info information, err error) {
	var greeting protocol.NegotiationNewstyleHeader
	if err := binary.Read(rw, binary.BigEndian, &greeting); err != nil {
		return info, fmt.Errorf("read the greeting: %w", err)
	}
	if greeting.OldstyleMagic != protocol.NEGOTIATION_MAGIC_OLDSTYLE || greeting.OptionMagic != protocol.NEGOTIATION_MAGIC_OPTION {
		return info, errors.New("the peer is not a newstyle NBD server")
	}
	if greeting.HandshakeFlags&protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE == 0 {
		return info, errors.New("the server does not speak fixed newstyle")
	}

	// Client flags, then GO: length of the name, name, no information requests.
	hello := binary.BigEndian.AppendUint32(nil, uint32(greeting.HandshakeFlags&
		(protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE|handshakeNoZeroes)))
	hello = binary.BigEndian.AppendUint64(hello, protocol.NEGOTIATION_MAGIC_OPTION)
	hello = binary.BigEndian.AppendUint32(hello, protocol.NEGOTIATION_ID_OPTION_GO)
	hello = binary.BigEndian.AppendUint32(hello, uint32(4+len(export)+2))
	hello = binary.BigEndian.AppendUint32(hello, uint32(len(export)))
	hello = append(hello, export...)
	hello = binary.BigEndian.AppendUint16(hello, 0)
	if _, err := rw.Write(hello); err != nil {
		return info, fmt.Errorf("ask for export %q: %w", export, err)
	}
	return awaitExport(rw, export)
}

// awaitExport reads the answers to GO.
func awaitExport(r io.Reader, export string) (info information, err error) {
	known := false
	for {
		var reply protocol.NegotiationReplyHeader
		if err := binary.Read(r, binary.BigEndian, &reply); err != nil {
			return info, fmt.Errorf("read the answer to GO: %w", err)
		}
		if reply.ReplyMagic != protocol.NEGOTIATION_MAGIC_REPLY {
			return info, errors.New("the answer to GO does not start with the magic number")
		}
		if reply.Length > maxOptionReply {
			return info, fmt.Errorf("the answer to GO has %d bytes", reply.Length)
		}
		data := make([]byte, reply.Length)
		if _, err := io.ReadFull(r, data); err != nil {
			return info, fmt.Errorf("read the answer to GO: %w", err)
		}
		switch {
		case reply.Type == protocol.NEGOTIATION_TYPE_REPLY_ACK && known:
			return info, nil
		case reply.Type == protocol.NEGOTIATION_TYPE_REPLY_ACK:
			return info, errors.New("the server opened the export without telling its size")
		case reply.Type == protocol.NEGOTIATION_TYPE_REPLY_INFO:
			if len(data) >= 12 && binary.BigEndian.Uint16(data) == protocol.NEGOTIATION_TYPE_INFO_EXPORT {
				info.size, known = binary.BigEndian.Uint64(data[2:]), true
				info.flags = Flags(binary.BigEndian.Uint16(data[10:]))
			}
		default:
			return info, fmt.Errorf("export %q is refused: reply type %#x: %q", export, reply.Type, data)
		}
	}
}
