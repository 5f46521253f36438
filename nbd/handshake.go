package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// Limits of the handshake. Nothing of what a client announces is allocated: the
// scratch buffer is all that it costs.
const (
	maxOptions    = 32       // of one connection
	maxOption     = 64 << 10 // bytes of data that are looked at
	maxDiscard    = 1 << 20  // bytes of data that are read at all
	maxString     = 4096     // bytes of a name, by the protocol
	minimumInfo   = 6        // bytes of an INFO or GO without a name and requests
	replyFlushing = 4096     // bytes of replies that are sent before more are made
)

// Reasons why handshakes fail, as Stats spells them.
const (
	failedTimeout  = "timeout"
	failedGone     = "client_gone"
	failedFlags    = "bad_client_flags"
	failedMagic    = "bad_magic"
	failedOptions  = "too_many_options"
	failedLength   = "option_too_long"
	failedPlain    = "option_needs_fixed_newstyle"
	failedExport   = "bad_export_name"
	failedShutdown = "shutdown"
	failedInternal = "internal"
)

// handshakeError ends a handshake without transmission.
type handshakeError struct {
	reason string
	err    error // nil if reason says it all
}

func (e *handshakeError) Error() string {
	if e.err == nil {
		return "handshake: " + e.reason
	}
	return fmt.Sprintf("handshake: %s: %v", e.reason, e.err)
}

func (e *handshakeError) Unwrap() error { return e.err }

func handshakeFailed(reason string) error { return &handshakeError{reason: reason} }

// handshakeIO gives an I/O error its reason.
func handshakeIO(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &handshakeError{failedTimeout, err}
	}
	return &handshakeError{failedGone, err}
}

// handshake is the negotiation of one connection (fixed newstyle).
type handshake struct {
	server     *Server
	connection *connection
	fixed      bool // the client speaks fixed newstyle
	noZeroes   bool

	option  uint32 // the one being answered
	left    int    // bytes of its data not read yet
	scratch [maxString]byte
	replies []byte // not sent yet
}

// negotiate returns the export that the connection was attached to, or nil if
// the client left in good order.
func (h *handshake) negotiate() (*export, error) {
	if err := h.greet(); err != nil {
		return nil, err
	}
	for range maxOptions {
		if err := h.readOption(); err != nil {
			return nil, err
		}
		e, done, err := h.answer()
		if err != nil {
			return nil, err
		}
		err = h.send()
		if done && e == nil {
			return nil, nil // a client need not wait for the answer to its ABORT
		}
		if err != nil || done {
			return e, err
		}
	}
	return nil, handshakeFailed(failedOptions)
}

func (h *handshake) greet() error {
	err := h.append(protocol.NegotiationNewstyleHeader{
		OldstyleMagic:  protocol.NEGOTIATION_MAGIC_OLDSTYLE,
		OptionMagic:    protocol.NEGOTIATION_MAGIC_OPTION,
		HandshakeFlags: handshakeFixedNewstyle | handshakeNoZeroes,
	})
	if err != nil {
		return err
	}
	if err := h.send(); err != nil {
		return err
	}
	if _, err := io.ReadFull(h.connection.socket, h.scratch[:4]); err != nil {
		return handshakeIO(err)
	}
	flags := binary.BigEndian.Uint32(h.scratch[:])
	if flags&^uint32(handshakeFixedNewstyle|handshakeNoZeroes) != 0 {
		return handshakeFailed(failedFlags)
	}
	h.fixed = flags&uint32(handshakeFixedNewstyle) != 0
	h.noZeroes = flags&uint32(handshakeNoZeroes) != 0
	return nil
}

// readOption reads an option's header; its data is left to answer.
func (h *handshake) readOption() error {
	if _, err := io.ReadFull(h.connection.socket, h.scratch[:optionHeaderSize]); err != nil {
		return handshakeIO(err)
	}
	if binary.BigEndian.Uint64(h.scratch[:]) != protocol.NEGOTIATION_MAGIC_OPTION {
		return handshakeFailed(failedMagic)
	}
	h.option = binary.BigEndian.Uint32(h.scratch[8:])
	length := binary.BigEndian.Uint32(h.scratch[12:])
	if length > maxDiscard {
		return handshakeFailed(failedLength)
	}
	h.left = int(length)
	if !h.fixed && h.option != optionExportName {
		return handshakeFailed(failedPlain)
	}
	return nil
}

// answer reads the option's data to its end, whatever it is, and adds replies.
// The handshake is done when it returns an export, or an ABORT was acknowledged.
func (h *handshake) answer() (e *export, done bool, err error) {
	switch h.option {
	case optionExportName:
		e, err = h.exportName()
		return e, true, err
	case protocol.NEGOTIATION_ID_OPTION_ABORT:
		return nil, true, h.refuse(protocol.NEGOTIATION_TYPE_REPLY_ACK, "")
	}
	if h.server.draining.Load() {
		return nil, false, h.refuse(replyErrShutdown, "the server is shutting down")
	}
	switch h.option {
	case protocol.NEGOTIATION_ID_OPTION_LIST:
		return nil, false, h.list()
	case protocol.NEGOTIATION_ID_OPTION_INFO, protocol.NEGOTIATION_ID_OPTION_GO:
		e, err = h.info()
		return e, e != nil, err
	case OptionSession:
		return nil, false, h.session()
	}
	return nil, false, h.refuse(protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED, "")
}

// exportName answers the oldest way in, which has no error replies: all that
// can be done is to close.
func (h *handshake) exportName() (*export, error) {
	if h.left > maxString {
		return nil, handshakeFailed(failedExport)
	}
	name, err := h.read(h.left)
	if err != nil {
		return nil, err
	}
	if !validString(name) {
		return nil, handshakeFailed(failedExport)
	}
	if h.server.draining.Load() {
		return nil, handshakeFailed(failedShutdown)
	}
	e, ok := h.server.attach(h.connection, string(name))
	if !ok {
		return nil, handshakeFailed(failedExport)
	}
	if err := h.append(e.size, e.transmissionFlags()); err != nil {
		return nil, err
	}
	if !h.noZeroes {
		h.replies = append(h.replies, make([]byte, zeroesSize)...)
	}
	return e, nil
}

func (h *handshake) list() error {
	if h.left > 0 {
		return h.refuse(replyErrInvalid, "LIST takes no data")
	}
	h.server.mu.Lock()
	exports := append([]*export(nil), h.server.exports...)
	h.server.mu.Unlock()
	for _, e := range exports {
		err := h.reply(protocol.NEGOTIATION_TYPE_REPLY_SERVER, uint32(len(e.Name)), []byte(e.Name), []byte(e.Description))
		if err != nil {
			return err
		}
		if len(h.replies) < replyFlushing {
			continue
		}
		if err := h.send(); err != nil {
			return err
		}
	}
	return h.reply(protocol.NEGOTIATION_TYPE_REPLY_ACK)
}

// info answers INFO and GO. For a GO that succeeds it returns the export, with
// the connection attached to it. Nothing of an INFO is remembered: a GO stands
// for itself.
func (h *handshake) info() (*export, error) {
	if h.left > maxOption {
		return nil, h.refuse(replyErrTooBig, "too much data")
	}
	name, ok, err := h.readName()
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
	if h.option == protocol.NEGOTIATION_ID_OPTION_GO {
		e, _ = h.server.attach(h.connection, name)
	} else {
		e = h.server.resolve(name)
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

// readName reads the name that INFO and GO start with. It is not ok if lengths
// contradict each other or it is no name; what is left of the data is not read.
func (h *handshake) readName() (name string, ok bool, err error) {
	if h.left < minimumInfo {
		return "", false, nil
	}
	b, err := h.read(4)
	if err != nil {
		return "", false, err
	}
	length := binary.BigEndian.Uint32(b)
	if length > maxString || int(length) > h.left-2 {
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
		Type: protocol.NEGOTIATION_TYPE_INFO_EXPORT, Size: e.size, TransmissionFlags: e.transmissionFlags(),
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

// refuse reads what is left of the option's data and adds a reply that is no
// success (or an ABORT's, which needs the same). text is for people.
func (h *handshake) refuse(kind uint32, text string) error {
	for h.left > 0 {
		if _, err := h.read(min(h.left, len(h.scratch))); err != nil {
			return err
		}
	}
	return h.reply(kind, []byte(text))
}

// read returns the next n bytes of the option's data, at most maxString and at
// most h.left, valid until the next read.
func (h *handshake) read(n int) ([]byte, error) {
	b := h.scratch[:n]
	if _, err := io.ReadFull(h.connection.socket, b); err != nil {
		return nil, handshakeIO(err)
	}
	h.left -= n
	return b, nil
}

// reply adds a reply to the option. parts are fixed-size values and bytes.
func (h *handshake) reply(kind uint32, parts ...any) error {
	length := 0
	for _, part := range parts {
		length += binary.Size(part)
	}
	err := h.append(protocol.NegotiationReplyHeader{
		ReplyMagic: protocol.NEGOTIATION_MAGIC_REPLY,
		ID:         h.option,
		Type:       kind,
		Length:     uint32(length),
	})
	if err != nil {
		return err
	}
	return h.append(parts...)
}

func (h *handshake) append(parts ...any) (err error) {
	for _, part := range parts {
		if h.replies, err = binary.Append(h.replies, binary.BigEndian, part); err != nil {
			return &handshakeError{failedInternal, err}
		}
	}
	return nil
}

func (h *handshake) send() error {
	_, err := h.connection.socket.Write(h.replies)
	h.replies = h.replies[:0]
	if err != nil {
		return handshakeIO(err)
	}
	return nil
}
