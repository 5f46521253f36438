package nbd

import (
	"encoding/binary"
	"strings"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// structuredReply answers STRUCTURED_REPLY: from here on reads are answered in
// chunks.
func (h *handshake) structuredReply() error {
	switch {
	case h.left > 0:
		return h.refuse(replyErrInvalid, "STRUCTURED_REPLY takes no data")
	case h.framing == framingExtended:
		return h.refuse(replyErrExtHeaderReqd, "extended headers are in use already")
	case h.framing == framingStructured:
		return h.refuse(replyErrInvalid, "structured replies are in use already")
	}
	h.framing = framingStructured
	return h.reply(replyAck)
}

// extendedHeaders answers EXTENDED_HEADERS, which may come instead of
// STRUCTURED_REPLY or after it.
func (h *handshake) extendedHeaders() error {
	switch {
	case h.left > 0:
		return h.refuse(replyErrInvalid, "EXTENDED_HEADERS takes no data")
	case h.framing == framingExtended:
		return h.refuse(replyErrInvalid, "extended headers are in use already")
	}
	h.framing = framingExtended
	return h.reply(replyAck)
}

// metaContext answers LIST_META_CONTEXT and SET_META_CONTEXT. What SET chooses
// replaces what an earlier one chose, even if it fails, and counts only for the
// export that it named.
func (h *handshake) metaContext() error {
	set := h.option == optionSetMetaContext
	if set {
		h.chosen, h.chosenFor = 0, nil
	}
	if h.framing == framingSimple {
		return h.refuse(replyErrInvalid, "metadata contexts need structured replies")
	}
	if h.left > maxOption {
		return h.refuse(replyErrTooBig, "too much data")
	}
	name, ok, err := h.readName(minimumMeta)
	if err != nil {
		return err
	}
	if !ok {
		return h.refuse(replyErrInvalid, "bad length or name")
	}
	wanted, ok, err := h.readQueries(set)
	if err != nil {
		return err
	}
	if !ok {
		return h.refuse(replyErrInvalid, "bad length or query")
	}
	e := h.server.resolve(h.connection, name)
	if e == nil {
		return h.refuse(protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN, "no such export")
	}
	if set {
		h.chosen, h.chosenFor = wanted, e
	}
	for _, c := range [...]contexts{contextAllocation, contextOwner} {
		if wanted&c == 0 {
			continue
		}
		id := c.id()
		if !set {
			id = 0 // a LIST chooses nothing, so there is no number yet
		}
		if err := h.reply(replyMetaContext, id, []byte(h.server.contextName(c))); err != nil {
			return err
		}
	}
	return h.reply(replyAck)
}

// readQueries reads the queries that both options end with, and returns the
// contexts that they ask for. A namespace with nothing behind it stands for all
// of it in a LIST, and for nothing in a SET; a LIST without queries asks for
// everything. What is not known here is ignored.
func (h *handshake) readQueries(set bool) (wanted contexts, ok bool, err error) {
	b, err := h.read(4)
	if err != nil {
		return 0, false, err
	}
	queries := binary.BigEndian.Uint32(b)
	if queries == 0 && !set {
		wanted = h.server.contexts()
	}
	for range queries {
		if h.left < 4 {
			return 0, false, nil
		}
		if b, err = h.read(4); err != nil {
			return 0, false, err
		}
		length := binary.BigEndian.Uint32(b)
		if length > maxString || int(length) > h.left {
			return 0, false, nil
		}
		if b, err = h.read(int(length)); err != nil {
			return 0, false, err
		}
		if !validString(b) {
			return 0, false, nil
		}
		wanted |= h.server.matchContexts(string(b), set)
	}
	return wanted, h.left == 0, nil
}

// contexts is all that the server has.
func (s *Server) contexts() contexts {
	if s.config.OwnerContext == "" {
		return contextAllocation
	}
	return contextAllocation | contextOwner
}

// contextName is the name of one context.
func (s *Server) contextName(c contexts) string {
	if c == contextOwner {
		return s.config.OwnerContext
	}
	return allocationName
}

// matchContexts returns the contexts that a query means.
func (s *Server) matchContexts(query string, exact bool) (found contexts) {
	for _, c := range [...]contexts{contextAllocation, contextOwner} {
		if s.contexts()&c == 0 {
			continue
		}
		name := s.contextName(c)
		namespace, _, _ := strings.Cut(name, ":")
		if query == name || !exact && query == namespace+":" {
			found |= c
		}
	}
	return found
}
