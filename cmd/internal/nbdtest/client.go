package nbdtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Timeout bounds every request.
const Timeout = 20 * time.Second

// Client is a connection to one export. It is for one goroutine.
type Client struct {
	conn   net.Conn
	size   uint64
	cookie uint64
}

// Error is an errno that the server answered a request with.
type Error uint32

// Error implements error.
func (e Error) Error() string { return fmt.Sprintf("NBD error %d", uint32(e)) }

const (
	serverMagic   = 0x4e42444d41474943 // "NBDMAGIC"
	optionMagic   = 0x49484156454f5054 // "IHAVEOPT"
	requestMagic  = 0x25609513
	replyMagic    = 0x67446698
	fixedNewstyle = 1
	noZeroes      = 2
	exportName    = 1

	commandRead       = 0
	commandWrite      = 1
	commandDisconnect = 2
	commandFlush      = 3
	commandTrim       = 4
	commandZeroes     = 6

	flagFUA = 1 << 16 // of the command's flags, before the command
)

// Dial attaches to an export.
func Dial(network, address, export string) (*Client, error) {
	conn, err := net.DialTimeout(network, address, Timeout)
	if err != nil {
		return nil, err
	}
	c := &Client{conn: conn}
	if err := c.handshake(export); err != nil {
		return nil, errors.Join(fmt.Errorf("attach to %s: %w", export, err), conn.Close())
	}
	return c, nil
}

func (c *Client) handshake(export string) error {
	if err := c.conn.SetDeadline(time.Now().Add(Timeout)); err != nil {
		return err
	}
	var hello [18]byte
	if _, err := io.ReadFull(c.conn, hello[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint64(hello[:]) != serverMagic || binary.BigEndian.Uint64(hello[8:]) != optionMagic {
		return fmt.Errorf("not an NBD server: %x", hello)
	}
	b := binary.BigEndian.AppendUint32(nil, fixedNewstyle|noZeroes)
	b = binary.BigEndian.AppendUint64(b, optionMagic)
	b = binary.BigEndian.AppendUint32(b, exportName)
	b = binary.BigEndian.AppendUint32(b, uint32(len(export)))
	if _, err := c.conn.Write(append(b, export...)); err != nil {
		return err
	}
	var info [10]byte
	if _, err := io.ReadFull(c.conn, info[:]); err != nil {
		return err
	}
	c.size = binary.BigEndian.Uint64(info[:])
	return nil
}

// Size is the length of the export in bytes.
func (c *Client) Size() uint64 { return c.size }

// ReadAt implements io.ReaderAt.
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	if err := c.request(commandRead, uint64(off), uint32(len(p)), nil); err != nil {
		return 0, err
	}
	return io.ReadFull(c.conn, p)
}

// WriteAt implements io.WriterAt.
func (c *Client) WriteAt(p []byte, off int64) (int, error) {
	if err := c.request(commandWrite, uint64(off), uint32(len(p)), p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteFUA is WriteAt that is answered when the bytes are on the medium.
func (c *Client) WriteFUA(p []byte, off int64) (int, error) {
	if err := c.request(flagFUA|commandWrite, uint64(off), uint32(len(p)), p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Trim discards a range.
func (c *Client) Trim(off, length int64) error {
	return c.request(commandTrim, uint64(off), uint32(length), nil)
}

// WriteZeroes makes a range read as zero.
func (c *Client) WriteZeroes(off, length int64) error {
	return c.request(commandZeroes, uint64(off), uint32(length), nil)
}

// Flush asks for everything written to be on its medium.
func (c *Client) Flush() error { return c.request(commandFlush, 0, 0, nil) }

// request sends a request and reads its reply's header.
func (c *Client) request(command uint32, off uint64, length uint32, data []byte) error {
	if err := c.send(command, off, length, data); err != nil {
		return err
	}
	var reply [16]byte
	if _, err := io.ReadFull(c.conn, reply[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(reply[:]) != replyMagic || binary.BigEndian.Uint64(reply[8:]) != c.cookie {
		return fmt.Errorf("not the reply to request %d: %x", c.cookie, reply)
	}
	if code := binary.BigEndian.Uint32(reply[4:]); code != 0 {
		return Error(code)
	}
	return nil
}

func (c *Client) send(command uint32, off uint64, length uint32, data []byte) error {
	if err := c.conn.SetDeadline(time.Now().Add(Timeout)); err != nil {
		return err
	}
	c.cookie++
	b := binary.BigEndian.AppendUint32(nil, requestMagic)
	b = binary.BigEndian.AppendUint32(b, command)
	b = binary.BigEndian.AppendUint64(b, c.cookie)
	b = binary.BigEndian.AppendUint64(b, off)
	b = binary.BigEndian.AppendUint32(b, length)
	_, err := c.conn.Write(append(b, data...))
	return err
}

// Close leaves as a client should.
func (c *Client) Close() error {
	return errors.Join(c.send(commandDisconnect, 0, 0, nil), c.conn.Close())
}
