package attach

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/nbd"
)

// What go-nbd's protocol package lacks; see the NBD project's doc/proto.md.
const (
	handshakeNoZeroes = uint16(1 << 1)
	replyErrTLS       = uint32(5 | 1<<31)
	replyErrUnknown   = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN
	replyErrUnsup     = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
	replyError        = uint32(1 << 31) // set in every error reply

	flagReadOnly  = uint16(1 << 1)
	flagTrim      = uint16(1 << 5)
	flagMultiConn = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN

	maxReply   = 16 << 10 // bytes of one reply; what a server says is short
	maxReplies = 32       // to one option
)

// Server is what an export is, as far as a device that swaps on it must care.
type Server struct {
	Name  string `json:"name"`
	Size  uint64 `json:"size"`  // bytes
	Flags uint16 `json:"flags"` // transmission flags

	// Identity is the export's description. tmemd's names the content: another
	// one means that the pages of before are gone. Empty if the server gives none.
	Identity string `json:"identity"`
}

// differs says why another server must not take over from s; empty if it may. The
// kernel keeps the size and the flags that the device was made with: a server
// that has more of either does what the kernel asks all the same, and what an
// export has more after a resize is used when it is attached anew.
func (s Server) differs(other Server) string {
	missing := s.Flags &^ other.Flags
	switch {
	case other.Size < s.Size:
		return fmt.Sprintf("it has %d bytes, the device has %d", other.Size, s.Size)
	case missing != 0:
		return fmt.Sprintf("its flags are %#x, without %#x that the device was made with", other.Flags, missing)
	case other.Flags&^s.Flags&flagReadOnly != 0:
		return "it is read-only, the device is not"
	case s.Identity != other.Identity:
		return fmt.Sprintf("it calls itself %q, the device was made with %q: the pages of before are not there", other.Identity, s.Identity)
	}
	return ""
}

// fence is what a handshake asks a server to end first: every connection of the
// attachment that is older. A request that an abandoned connection still
// carries would otherwise be able to undo a newer write.
type fence struct {
	session    [nbd.SessionSize]byte // secret; the same for all of an attachment's connections
	generation uint64                // grows with each reconnect, see advance
}

// advance makes the generation a newer one. It follows the clock, so that an
// agent is never behind what a lost record had, and it never goes back with it:
// the server would refuse everything until the clock is where it was.
func (f *fence) advance(now time.Time) {
	f.generation = max(f.generation+1, uint64(now.UnixNano()))
}

// connection is one that has been negotiated and is ready for the kernel.
type connection struct {
	socket *os.File // the agent's hold on it; the kernel takes its own
	server Server
	fenced bool // the server knows fences
}

// dial connects to an export. The address is complete: no name has to be looked
// up.
func dial(address config.Address, export string, f fence, deadline time.Time) (*connection, error) {
	dialer := net.Dialer{Deadline: deadline}
	socket, err := dialer.Dial(address.Network, address.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	defer socket.Close() // the connection keeps a duplicate
	if err := socket.SetDeadline(deadline); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	c := &connection{}
	if err := c.negotiate(socket, export, f); err != nil {
		return nil, fmt.Errorf("negotiate with %s: %w", address, err)
	}
	if c.socket, err = duplicate(socket); err != nil {
		return nil, fmt.Errorf("keep the connection to %s: %w", address, err)
	}
	return c, nil
}

// duplicate takes a socket out of the hands of Go's runtime: the kernel wants a
// number, and the agent looks at it with poll.
func duplicate(socket net.Conn) (*os.File, error) {
	switch s := socket.(type) {
	case *net.TCPConn:
		if err := prepareTCP(s); err != nil {
			return nil, err
		}
		return s.File()
	case *net.UnixConn:
		return s.File()
	}
	return nil, fmt.Errorf("the kernel takes no %T", socket)
}

// How a TCP peer that is gone without a word is found out.
const (
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3
	userTimeout       = 30 * time.Second // of data that nobody acknowledges
)

func prepareTCP(s *net.TCPConn) error {
	err := errors.Join(s.SetNoDelay(true), s.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount,
	}))
	raw, rawErr := s.SyscallConn()
	if rawErr != nil {
		return errors.Join(err, rawErr)
	}
	controlErr := raw.Control(func(fd uintptr) {
		err = errors.Join(err, os.NewSyscallError("setsockopt",
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout/time.Millisecond))))
	})
	return errors.Join(err, controlErr)
}

// negotiate goes through the handshake up to GO's acknowledgement.
func (c *connection) negotiate(socket io.ReadWriter, export string, f fence) error {
	if err := greet(socket); err != nil {
		return err
	}
	supported, err := raise(socket, f)
	if err != nil {
		return err
	}
	c.fenced = supported
	c.server.Name = export
	return c.goOn(socket, export)
}

func greet(socket io.ReadWriter) error {
	var hello protocol.NegotiationNewstyleHeader
	if err := binary.Read(socket, binary.BigEndian, &hello); err != nil {
		return fmt.Errorf("read the greeting: %w", err)
	}
	if hello.OldstyleMagic != protocol.NEGOTIATION_MAGIC_OLDSTYLE || hello.OptionMagic != protocol.NEGOTIATION_MAGIC_OPTION {
		return errors.New("it is no NBD server")
	}
	if hello.HandshakeFlags&protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE == 0 {
		return errors.New("it does not speak fixed newstyle")
	}
	const known = protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE | handshakeNoZeroes
	if err := binary.Write(socket, binary.BigEndian, uint32(hello.HandshakeFlags&known)); err != nil {
		return fmt.Errorf("answer the greeting: %w", err)
	}
	return nil
}

// raise has the server end the attachment's older connections. It is false if
// the server knows nothing of that.
func raise(socket io.ReadWriter, f fence) (supported bool, err error) {
	data := binary.BigEndian.AppendUint64(f.session[:], f.generation)
	if err := sendOption(socket, nbd.OptionSession, data); err != nil {
		return false, err
	}
	kind, text, err := readReply(socket, nbd.OptionSession)
	switch {
	case err != nil:
		return false, err
	case kind == protocol.NEGOTIATION_TYPE_REPLY_ACK:
		return true, nil
	case kind == replyErrUnsup:
		return false, nil
	case kind == replyErrTLS:
		return false, errTLS()
	}
	return false, fmt.Errorf("it does not end older connections: %s", errorText(kind, text))
}

func errTLS() error {
	return cli.Failure("serve the export on a Unix socket or on plain TCP in a network that you trust; a tunnel such as WireGuard protects it below TCP",
		"the server wants TLS, which the kernel's NBD client cannot speak")
}

// goOn asks for the export, and for what is told about it.
func (c *connection) goOn(socket io.ReadWriter, export string) error {
	data := binary.BigEndian.AppendUint32(nil, uint32(len(export)))
	data = append(data, export...)
	data = binary.BigEndian.AppendUint16(data, 1)
	data = binary.BigEndian.AppendUint16(data, protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION)
	if err := sendOption(socket, protocol.NEGOTIATION_ID_OPTION_GO, data); err != nil {
		return err
	}
	known := false
	for range maxReplies {
		kind, body, err := readReply(socket, protocol.NEGOTIATION_ID_OPTION_GO)
		switch {
		case err != nil:
			return err
		case kind == protocol.NEGOTIATION_TYPE_REPLY_ACK:
			if !known {
				return errors.New("it does not say how large the export is")
			}
			return nil
		case kind == protocol.NEGOTIATION_TYPE_REPLY_INFO:
			exportInfo, err := c.learn(body)
			if err != nil {
				return err
			}
			known = known || exportInfo
		case kind == replyErrUnknown:
			return cli.Failure("tmemctl export list, on the server's host, shows what there is", "the server has no export %q", export)
		case kind == replyErrTLS:
			return errTLS()
		default:
			return fmt.Errorf("it refuses export %q: %s", export, errorText(kind, body))
		}
	}
	return errors.New("it answers without an end")
}

// learn takes in one information reply. It is true for the one that matters.
func (c *connection) learn(body []byte) (exportInfo bool, err error) {
	if len(body) < 2 {
		return false, errors.New("an information reply is too short")
	}
	switch binary.BigEndian.Uint16(body) {
	case protocol.NEGOTIATION_TYPE_INFO_EXPORT:
		if len(body) != 12 {
			return false, fmt.Errorf("the export's information has %d bytes, not 12", len(body))
		}
		c.server.Size = binary.BigEndian.Uint64(body[2:])
		c.server.Flags = binary.BigEndian.Uint16(body[10:])
		return true, nil
	case protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION:
		c.server.Identity = string(body[2:])
	}
	return false, nil
}

func sendOption(socket io.Writer, option uint32, data []byte) error {
	message := binary.BigEndian.AppendUint64(nil, protocol.NEGOTIATION_MAGIC_OPTION)
	message = binary.BigEndian.AppendUint32(message, option)
	message = binary.BigEndian.AppendUint32(message, uint32(len(data)))
	if _, err := socket.Write(append(message, data...)); err != nil {
		return fmt.Errorf("send an option: %w", err)
	}
	return nil
}

func readReply(socket io.Reader, option uint32) (kind uint32, body []byte, err error) {
	var header protocol.NegotiationReplyHeader
	if err := binary.Read(socket, binary.BigEndian, &header); err != nil {
		return 0, nil, fmt.Errorf("read a reply: %w", err)
	}
	switch {
	case header.ReplyMagic != protocol.NEGOTIATION_MAGIC_REPLY:
		return 0, nil, errors.New("a reply does not start with the magic number")
	case header.ID != option:
		return 0, nil, fmt.Errorf("a reply is to option %d, not %d", header.ID, option)
	case header.Length > maxReply:
		return 0, nil, fmt.Errorf("a reply has %d bytes", header.Length)
	}
	body = make([]byte, header.Length)
	if _, err := io.ReadFull(socket, body); err != nil {
		return 0, nil, fmt.Errorf("read a reply: %w", err)
	}
	return header.Type, body, nil
}

// errorText spells an error reply. The text is the server's; it ends up on a
// terminal.
func errorText(kind uint32, text []byte) string {
	if len(text) == 0 {
		return fmt.Sprintf("error %d", kind&^replyError)
	}
	return fmt.Sprintf("error %d, %q", kind&^replyError, strings.ToValidUTF8(string(text), "?"))
}
