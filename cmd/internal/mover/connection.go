package mover

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Numbers of the NBD protocol (doc/proto.md of the NBD project).
const (
	serverMagic  = 0x4e42444d41474943 // "NBDMAGIC"
	optionMagic  = 0x49484156454f5054 // "IHAVEOPT"
	replyOption  = 0x3e889045565a9
	requestMagic = 0x25609513
	replyMagic   = 0x67446698

	fixedNewstyle = 1
	noZeroes      = 2

	optionStartTLS = 5
	optionGo       = 7
	replyAck       = 1
	replyInfo      = 3
	replyError     = 1 << 31
	replyTLSWanted = 5 | 1<<31

	infoExport      = 0
	infoDescription = 2

	flagReadOnly  = 1 << 1
	flagFlush     = 1 << 2
	flagZeroes    = 1 << 6
	flagMultiConn = 1 << 8

	commandWrite      = 1
	commandDisconnect = 2
	commandFlush      = 3
	commandZeroes     = 6
)

const (
	depth      = 16               // requests in flight on one connection
	stall      = 30 * time.Second // how long the target may take for anything
	maxReplies = 32               // to one option
	maxReply   = 16 << 10         // bytes of one
)

// ErrTLS says that the target wants TLS and there are no certificates to show.
var ErrTLS = errors.New("the target wants TLS")

// Export is what a target says of itself.
type Export struct {
	Size        int64
	Description string
	flags       uint16
}

// Connection is one to the target. Its methods are for one goroutine.
type Connection struct {
	Export Export

	socket net.Conn
	cookie uint64
	free   chan struct{} // a token for each request that may be sent
	ended  chan struct{} // closed when no more replies come

	mu  sync.Mutex
	due int   // requests without a reply; guarded by mu
	err error // the first one; guarded by mu
}

// Connect opens an export over a socket, which belongs to the connection, or is closed. If
// encrypt is not nil it makes the socket a TLS one.
func Connect(ctx context.Context, socket net.Conn, name string, encrypt func(context.Context, net.Conn) (net.Conn, error)) (*Connection, error) {
	c := &Connection{socket: socket, free: make(chan struct{}, depth), ended: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	err := c.negotiate(ctx, name, encrypt)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = c.socket.SetDeadline(time.Time{})
	}
	if err != nil {
		socket.Close()
		return nil, err
	}
	for range depth {
		c.free <- struct{}{}
	}
	go c.read() // Close waits for it
	return c, nil
}

func (c *Connection) negotiate(ctx context.Context, name string, encrypt func(context.Context, net.Conn) (net.Conn, error)) error {
	if err := c.socket.SetDeadline(time.Now().Add(stall)); err != nil {
		return err
	}
	var hello [18]byte
	if _, err := io.ReadFull(c.socket, hello[:]); err != nil {
		return fmt.Errorf("read the greeting: %w", err)
	}
	flags := binary.BigEndian.Uint16(hello[16:])
	if binary.BigEndian.Uint64(hello[:]) != serverMagic || binary.BigEndian.Uint64(hello[8:]) != optionMagic || flags&fixedNewstyle == 0 {
		return errors.New("it is no NBD server of the fixed newstyle")
	}
	if _, err := c.socket.Write(binary.BigEndian.AppendUint32(nil, uint32(flags&(fixedNewstyle|noZeroes)))); err != nil {
		return fmt.Errorf("answer the greeting: %w", err)
	}
	if encrypt != nil {
		kind, text, err := c.option(optionStartTLS, nil)
		if err != nil {
			return err
		}
		if kind != replyAck {
			return fmt.Errorf("it does not speak TLS: %s", replyText(kind, text))
		}
		if c.socket, err = encrypt(ctx, c.socket); err != nil {
			return err
		}
	}
	return c.open(name)
}

// open asks for the export with GO.
func (c *Connection) open(name string) error {
	data := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	data = append(data, name...)
	data = binary.BigEndian.AppendUint16(data, 1)
	data = binary.BigEndian.AppendUint16(data, infoDescription)
	kind, body, err := c.option(optionGo, data)
	for range maxReplies {
		switch {
		case err != nil:
			return err
		case kind == replyAck && c.Export.Size > 0:
			return nil
		case kind == replyInfo && len(body) == 12 && binary.BigEndian.Uint16(body) == infoExport:
			size := binary.BigEndian.Uint64(body[2:])
			if size > 1<<62 {
				return fmt.Errorf("it says that export %s has %d bytes", name, size)
			}
			c.Export.Size, c.Export.flags = int64(size), binary.BigEndian.Uint16(body[10:])
		case kind == replyInfo && len(body) > 2 && binary.BigEndian.Uint16(body) == infoDescription:
			c.Export.Description = string(body[2:])
		case kind == replyInfo:
		case kind == replyTLSWanted:
			return ErrTLS
		default:
			return fmt.Errorf("it refuses export %s: %s", name, replyText(kind, body))
		}
		kind, body, err = c.reply(optionGo)
	}
	return errors.New("it answers without an end")
}

func (c *Connection) option(option uint32, data []byte) (kind uint32, body []byte, err error) {
	message := binary.BigEndian.AppendUint64(nil, optionMagic)
	message = binary.BigEndian.AppendUint32(message, option)
	message = binary.BigEndian.AppendUint32(message, uint32(len(data)))
	if _, err := c.socket.Write(append(message, data...)); err != nil {
		return 0, nil, fmt.Errorf("send an option: %w", err)
	}
	return c.reply(option)
}

func (c *Connection) reply(option uint32) (kind uint32, body []byte, err error) {
	var header [20]byte
	if _, err := io.ReadFull(c.socket, header[:]); err != nil {
		return 0, nil, fmt.Errorf("read a reply: %w", err)
	}
	kind = binary.BigEndian.Uint32(header[12:])
	length := binary.BigEndian.Uint32(header[16:])
	if binary.BigEndian.Uint64(header[:]) != replyOption || binary.BigEndian.Uint32(header[8:]) != option || length > maxReply {
		return 0, nil, errors.New("a reply to an option makes no sense")
	}
	body = make([]byte, length)
	if _, err := io.ReadFull(c.socket, body); err != nil {
		return 0, nil, fmt.Errorf("read a reply: %w", err)
	}
	return kind, body, nil
}

// replyText spells an error reply. The text is the server's; it ends up on a terminal.
func replyText(kind uint32, text []byte) string {
	if len(text) == 0 {
		return fmt.Sprintf("error %d", kind&^replyError)
	}
	return fmt.Sprintf("error %d, %q", kind&^replyError, strings.ToValidUTF8(string(text), "?"))
}

// Write sends a write. Its reply is waited for by Wait; data may be used again at once.
func (c *Connection) Write(offset int64, data []byte) error {
	return c.send(commandWrite, offset, uint32(len(data)), data)
}

// WriteZeroes sends a request for zeros, of up to 4 GiB less one page.
func (c *Connection) WriteZeroes(offset, length int64) error {
	return c.send(commandZeroes, offset, uint32(length), nil)
}

// Flush sends a flush. REQUIRES: all that it is to be for has been waited for.
func (c *Connection) Flush() error { return c.send(commandFlush, 0, 0, nil) }

func (c *Connection) send(command uint16, offset int64, length uint32, data []byte) error {
	select {
	case <-c.free:
	case <-c.ended:
		return c.failed()
	}
	c.cookie++
	var header [28]byte
	binary.BigEndian.PutUint32(header[:], requestMagic)
	binary.BigEndian.PutUint16(header[6:], command)
	binary.BigEndian.PutUint64(header[8:], c.cookie)
	binary.BigEndian.PutUint64(header[16:], uint64(offset))
	binary.BigEndian.PutUint32(header[24:], length)
	c.await(1)
	err := c.socket.SetWriteDeadline(time.Now().Add(stall))
	if err == nil {
		pieces := net.Buffers{header[:], data}
		_, err = pieces.WriteTo(c.socket)
	}
	if err != nil {
		return c.fail(fmt.Errorf("send a request to the target: %w", err))
	}
	return c.failed()
}

// await notes that so many more replies are due, and gives the target time for them.
func (c *Connection) await(more int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.due += more
	deadline := time.Time{}
	if c.due > 0 {
		deadline = time.Now().Add(stall)
	}
	_ = c.socket.SetReadDeadline(deadline) // its error is the next read's
}

// read takes replies, in whatever order, until the connection is at its end.
func (c *Connection) read() {
	defer close(c.ended)
	defer c.socket.Close()
	var reply [16]byte
	for {
		if _, err := io.ReadFull(c.socket, reply[:]); err != nil {
			c.fail(fmt.Errorf("the target does not answer: %w", err))
			return
		}
		if binary.BigEndian.Uint32(reply[:]) != replyMagic {
			c.fail(errors.New("a reply of the target makes no sense"))
			return
		}
		if code := binary.BigEndian.Uint32(reply[4:]); code != 0 {
			c.fail(fmt.Errorf("the target answers: %w", unix.Errno(code)))
		}
		c.await(-1)
		select {
		case c.free <- struct{}{}:
		default: // more replies than requests
			c.fail(errors.New("a reply of the target makes no sense"))
			return
		}
	}
}

// Wait waits until all that was sent is answered.
func (c *Connection) Wait() error {
	taken := 0
	defer func() {
		for range taken {
			c.free <- struct{}{}
		}
	}()
	for taken < depth {
		select {
		case <-c.free:
			taken++
		case <-c.ended:
			return c.failed()
		}
	}
	return c.failed()
}

func (c *Connection) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// fail notes an error, if it is the first, and returns the first.
func (c *Connection) fail(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
	}
	return c.err
}

// Cut ends the connection under whoever uses it.
func (c *Connection) Cut() { c.socket.Close() }

// Close ends the connection.
func (c *Connection) Close() {
	if c.failed() == nil {
		_ = c.send(commandDisconnect, 0, 0, nil) // it is as well without
	}
	c.socket.Close()
	<-c.ended
}
