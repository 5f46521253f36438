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
	minimumMeta   = 8        // bytes of a LIST or SET of metadata contexts without a name and queries
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
	failedTLS      = "tls"
	failedNoTLS    = "tls_required"
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
	framing    framing  // of the transmission, as negotiated so far
	chosen     contexts // by SET_META_CONTEXT
	chosenFor  *export  // the export that it named

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
	case optionStartTLS:
		return nil, false, h.startTLS()
	}
	if !h.mayNegotiate() {
		return nil, false, h.refuse(replyErrTLSFirst, "this server wants STARTTLS first")
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
	case optionStructuredReply:
		return nil, false, h.structuredReply()
	case optionExtendedHeaders:
		return nil, false, h.extendedHeaders()
	case optionListMetaContext, optionSetMetaContext:
		return nil, false, h.metaContext()
	case OptionSession:
		return nil, false, h.session()
	}
	return nil, false, h.refuse(protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED, "")
}

// exportName answers the oldest way in, which has no error replies: all that
// can be done is to close.
func (h *handshake) exportName() (*export, error) {
	if h.left > maxString || h.framing == framingExtended {
		return nil, handshakeFailed(failedExport)
	}
	name, err := h.read(h.left)
	if err != nil {
		return nil, err
	}
	if !validString(name) {
		return nil, handshakeFailed(failedExport)
	}
	if !h.mayNegotiate() {
		return nil, handshakeFailed(failedNoTLS)
	}
	if h.server.draining.Load() {
		return nil, handshakeFailed(failedShutdown)
	}
	e, _ := h.server.attach(h.connection, string(name))
	if e == nil {
		return nil, handshakeFailed(failedExport)
	}
	if err := h.append(e.size, e.transmissionFlags(h.framing)); err != nil {
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
	for _, e := range h.server.visible(h.connection) {
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
	if len(h.replies) == 0 {
		return nil // STARTTLS has sent its own
	}
	_, err := h.connection.socket.Write(h.replies)
	h.replies = h.replies[:0]
	if err != nil {
		return handshakeIO(err)
	}
	return nil
}
