//go:build interop

package interop

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// What the NBD project's doc/proto.md has and go-nbd's protocol package lacks.
const (
	clientFlags  = uint32(1 | 1<<1) // fixed newstyle, no zeroes
	commandFlush = uint16(3)
)

// A request that takes longer hangs, however busy the machine is.
const requestTimeout = time.Minute

// client is a small NBD client: fixed newstyle, GO, simple replies, one request
// at a time. An errno from the server is returned as a syscall.Errno, anything
// else went wrong with the connection.
type client struct {
	socket net.Conn
	reader *bufio.Reader
	size   int64
	cookie uint64
}

// dial attaches to an export.
func dial(network, address, export string) (*client, error) {
	socket, err := net.DialTimeout(network, address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	c := &client{socket: socket, reader: bufio.NewReaderSize(socket, 64<<10)}
	if err := c.negotiate(export); err != nil {
		socket.Close()
		return nil, fmt.Errorf("negotiate with %s: %w", address, err)
	}
	return c, nil
}

func (c *client) negotiate(export string) error {
	if err := c.socket.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	var hello protocol.NegotiationNewstyleHeader
	if err := binary.Read(c.reader, binary.BigEndian, &hello); err != nil {
		return err
	}
	if hello.OldstyleMagic != protocol.NEGOTIATION_MAGIC_OLDSTYLE || hello.OptionMagic != protocol.NEGOTIATION_MAGIC_OPTION {
		return fmt.Errorf("greeted with %#x %#x", hello.OldstyleMagic, hello.OptionMagic)
	}
	request := binary.BigEndian.AppendUint32(nil, clientFlags)
	request = encode(request, protocol.NegotiationOptionHeader{
		OptionMagic: protocol.NEGOTIATION_MAGIC_OPTION, ID: protocol.NEGOTIATION_ID_OPTION_GO, Length: uint32(4 + len(export) + 2),
	})
	request = binary.BigEndian.AppendUint32(request, uint32(len(export)))
	request = append(request, export...)
	request = binary.BigEndian.AppendUint16(request, 0) // no information asked for
	if _, err := c.socket.Write(request); err != nil {
		return err
	}
	for {
		var reply protocol.NegotiationReplyHeader
		if err := binary.Read(c.reader, binary.BigEndian, &reply); err != nil {
			return err
		}
		body := make([]byte, reply.Length)
		if _, err := io.ReadFull(c.reader, body); err != nil {
			return err
		}
		switch {
		case reply.Type == protocol.NEGOTIATION_TYPE_REPLY_ACK:
			return nil
		case reply.Type != protocol.NEGOTIATION_TYPE_REPLY_INFO:
			return fmt.Errorf("GO answered with %#x %q", reply.Type, body)
		case binary.BigEndian.Uint16(body) == protocol.NEGOTIATION_TYPE_INFO_EXPORT:
			c.size = int64(binary.BigEndian.Uint64(body[2:]))
		}
	}
}

// request is a request on the wire, without payload.
func (c *client) request(command uint16, off int64, length int) []byte {
	c.cookie++
	return encode(nil, protocol.TransmissionRequestHeader{
		RequestMagic: protocol.TRANSMISSION_MAGIC_REQUEST, Type: command, Handle: c.cookie,
		Offset: uint64(off), Length: uint32(length),
	})
}

// encode appends a structure of fixed size as it goes on the wire.
func encode(to []byte, structure any) []byte {
	to, err := binary.Append(to, binary.BigEndian, structure)
	if err != nil {
		panic(err) // only for a type that has no fixed size
	}
	return to
}

// ask sends a request and waits for its answer.
func (c *client) ask(command uint16, off int64, length int, payload, into []byte) error {
	if err := c.send(command, off, length, payload); err != nil {
		return err
	}
	cookie, err := c.answer()
	if err != nil {
		return err
	}
	if cookie != c.cookie {
		return fmt.Errorf("an answer to request %d, want one to %d", cookie, c.cookie)
	}
	_, err = io.ReadFull(c.reader, into)
	return err
}

func (c *client) send(command uint16, off int64, length int, payload []byte) error {
	if err := c.socket.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	buffers := net.Buffers{c.request(command, off, length), payload}
	_, err := buffers.WriteTo(c.socket)
	return err
}

// answer reads the header of the next answer and returns whose it is.
func (c *client) answer() (cookie uint64, err error) {
	var reply protocol.TransmissionReplyHeader
	if err := binary.Read(c.reader, binary.BigEndian, &reply); err != nil {
		return 0, err
	}
	if reply.ReplyMagic != protocol.TRANSMISSION_MAGIC_REPLY {
		return 0, fmt.Errorf("an answer begins with %#x", reply.ReplyMagic)
	}
	if reply.Error != 0 {
		return reply.Handle, syscall.Errno(reply.Error)
	}
	return reply.Handle, nil
}

// read fills p from off.
func (c *client) read(p []byte, off int64) error {
	return c.ask(protocol.TRANSMISSION_TYPE_REQUEST_READ, off, len(p), nil, p)
}

// write stores p at off.
func (c *client) write(p []byte, off int64) error {
	return c.ask(protocol.TRANSMISSION_TYPE_REQUEST_WRITE, off, len(p), p, nil)
}

func (c *client) flush() error { return c.ask(commandFlush, 0, 0, nil, nil) }

// leave ends the connection as the protocol wants it.
func (c *client) leave() error {
	_, err := c.socket.Write(c.request(protocol.TRANSMISSION_TYPE_REQUEST_DISC, 0, 0))
	if err == nil {
		// The server closes; whatever comes before that is not ours.
		_, err = io.Copy(io.Discard, c.reader)
	}
	return errors.Join(err, c.close())
}

func (c *client) close() error { return c.socket.Close() }
