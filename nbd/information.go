package nbd

import (
	"encoding/binary"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// info answers INFO and GO. For a GO that succeeds it returns the export, with
// the connection attached to it. Nothing of an INFO is remembered: a GO stands
// for itself.
func (h *handshake) info() (*export, error) {
	if h.left > maxOption {
		return nil, h.refuse(replyErrTooBig, "too much data")
	}
	name, ok, err := h.readName(minimumInfo)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, h.refuse(replyErrInvalid, "bad length or name")
	}
	wanted, ok, err := h.readInfoRequests()
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, h.refuse(replyErrInvalid, "bad length")
	}
	var e *export
	var why string
	if h.option == protocol.NEGOTIATION_ID_OPTION_GO {
		e, why = h.server.attach(h.connection, name)
	} else {
		e, why = h.server.peek(h.connection, name)
	}
	if why != "" {
		return nil, h.refuse(replyErrPolicy, why)
	}
	if e == nil {
		return nil, h.refuse(protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN, "no such export")
	}
	if err := h.describe(e, wanted); err != nil {
		return nil, err
	}
	if h.option == protocol.NEGOTIATION_ID_OPTION_INFO {
		return nil, nil
	}
	return e, nil
}

// readName reads the name that an option of at least minimum bytes starts with.
// It is not ok if lengths contradict each other or it is no name; what is left of
// the data is not read.
func (h *handshake) readName(minimum int) (name string, ok bool, err error) {
	if h.left < minimum {
		return "", false, nil
	}
	b, err := h.read(4)
	if err != nil {
		return "", false, err
	}
	length := binary.BigEndian.Uint32(b)
	if length > maxString || int(length) > h.left-(minimum-4) {
		return "", false, nil
	}
	b, err = h.read(int(length))
	if err != nil || !validString(b) {
		return "", false, err
	}
	return string(b), true, nil
}

// wantedInfo says which optional information a client asked for.
type wantedInfo struct{ name, description, blockSize bool }

// readInfoRequests reads the list that INFO and GO end with. Unknown types are
// ignored.
func (h *handshake) readInfoRequests() (wanted wantedInfo, ok bool, err error) {
	b, err := h.read(2)
	if err != nil {
		return wanted, false, err
	}
	if h.left != 2*int(binary.BigEndian.Uint16(b)) {
		return wanted, false, nil
	}
	for h.left > 0 {
		b, err := h.read(min(h.left, len(h.scratch)))
		if err != nil {
			return wanted, false, err
		}
		for ; len(b) >= 2; b = b[2:] {
			switch binary.BigEndian.Uint16(b) {
			case protocol.NEGOTIATION_TYPE_INFO_NAME:
				wanted.name = true
			case protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION:
				wanted.description = true
			case protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE:
				wanted.blockSize = true
			}
		}
	}
	return wanted, true, nil
}

// describe adds the information replies about e and the acknowledgement.
func (h *handshake) describe(e *export, wanted wantedInfo) error {
	const kind = protocol.NEGOTIATION_TYPE_REPLY_INFO
	err := h.reply(kind, protocol.NegotiationReplyInfo{
		Type: protocol.NEGOTIATION_TYPE_INFO_EXPORT, Size: e.size, TransmissionFlags: e.transmissionFlags(h.framing),
	})
	if err == nil && wanted.name {
		err = h.reply(kind, protocol.NegotiationReplyNameHeader{Type: protocol.NEGOTIATION_TYPE_INFO_NAME}, []byte(e.Name))
	}
	if err == nil && wanted.description {
		err = h.reply(kind, protocol.NegotiationReplyDescriptionHeader{Type: protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION}, []byte(e.Description))
	}
	if err == nil && wanted.blockSize {
		err = h.reply(kind, protocol.NegotiationReplyBlockSize{
			Type:               protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE,
			MinimumBlockSize:   minimumBlockSize,
			PreferredBlockSize: preferredBlockSize,
			MaximumBlockSize:   MaxPayload,
		})
	}
	if err != nil {
		return err
	}
	return h.reply(protocol.NEGOTIATION_TYPE_REPLY_ACK)
}
