package nbd

import (
	"encoding/binary"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// OptionSession is an option of our own, "tmem", which other servers answer with
// an error that says so. A client that reconnects sends it before GO: its data
// is a session, SessionSize random bytes that all connections of one client
// share, and a generation, 64 bits that grow with each reconnect. The server
// ends every older connection of the session, waits until their requests are
// done or dropped, and acknowledges.
//
// Without it, a request that an abandoned connection still carries (in a
// socket's buffer of a server that was stopped, or in a network that comes
// back) could be carried out after the same request was sent again on a new
// connection, was answered, and was followed by a newer write to the same page.
const OptionSession = uint32(0x746d656d)

// SessionSize is the length of a session in bytes.
const SessionSize = 16

const replyErrPolicy = uint32(2 | 1<<31)

// session is what a connection belongs to. The zero value is none.
type session struct {
	id         [SessionSize]byte
	generation uint64
}

// session answers OptionSession.
func (h *handshake) session() error {
	if h.left != SessionSize+8 {
		return h.refuse(replyErrInvalid, "bad length")
	}
	data, err := h.read(h.left)
	if err != nil {
		return err
	}
	wanted := session{id: [SessionSize]byte(data), generation: binary.BigEndian.Uint64(data[SessionSize:])}
	if wanted.id == (session{}).id {
		return h.refuse(replyErrInvalid, "a session of zeros")
	}
	older, ok := h.server.joinSession(h.connection, wanted)
	if !ok {
		return h.refuse(replyErrPolicy, "a newer connection of the session is here")
	}
	// Sooner than the handshake's own end, so that the client is told why.
	if !awaitGone(older, h.connection.opened.Add(h.server.config.HandshakeTimeout*3/4)) {
		return h.refuse(replyErrPolicy, "older connections of the session still have requests")
	}
	return h.reply(protocol.NEGOTIATION_TYPE_REPLY_ACK)
}

// joinSession puts the connection into a session and closes the older ones in
// it, which it returns. It is false if the connection is an older one itself.
func (s *Server) joinSession(c *connection, wanted session) (older []*connection, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other := range s.connections {
		if other == c || other.session.id != wanted.id {
			continue
		}
		if other.session.generation > wanted.generation {
			return nil, false
		}
		if other.session.generation < wanted.generation {
			older = append(older, other)
		}
	}
	c.session = wanted
	for _, other := range older {
		// Not its socket: startTLS may be replacing that, and saying good-bye over
		// TLS may block, with the books locked.
		other.transport.Close()
	}
	return older, true
}

// awaitGone says whether connections were gone in time.
func awaitGone(connections []*connection, deadline time.Time) bool {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for _, c := range connections {
		select {
		case <-c.gone:
		case <-timer.C:
			return false
		}
	}
	return true
}
