package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// MaxDepth is the most requests that can be outstanding.
const MaxDepth = 1024

// Buffer sizes, in bytes. One read takes what a socket holds; what is sent is
// at most Depth pages, and less is fine.
const (
	receiveBytes = 1 << 20
	sendBytes    = 1 << 20
)

// dialTimeout bounds the connecting and the handshake.
const dialTimeout = 10 * time.Second

// Conn is a connection to an export.
type Conn struct {
	socket *os.File    // immutable, blocking
	fd     int         // immutable, of socket
	info   information // immutable

	in         []byte
	parsed     int // in is parsed up to here
	received   int // and filled up to here
	out        []byte
	sent       int // out is sent up to here
	queued     int // and filled up to here
	slots      []slot
	free       []uint32 // indices of slots without a request
	generation uint32
	result     *Result
	epoch      time.Time
}

// slot holds an outstanding request.
type slot struct {
	request Request
	cookie  uint64
	started time.Duration
	used    bool
}

// Dial opens an export of the server at an address of network "unix" or "tcp".
func Dial(ctx context.Context, network, address, export string) (*Conn, error) {
	file, info, err := attach(ctx, network, address, export)
	if err != nil {
		return nil, err
	}
	return &Conn{
		socket: file,
		fd:     int(file.Fd()), // makes it blocking
		info:   info,
		in:     make([]byte, receiveBytes),
		out:    make([]byte, sendBytes),
		slots:  make([]slot, MaxDepth),
		free:   make([]uint32, 0, MaxDepth),
		epoch:  time.Now(),
	}, nil
}

// Attach opens an export and returns the socket alone: a client that sits there
// and costs nothing, until it is closed.
func Attach(ctx context.Context, network, address, export string) (io.Closer, error) {
	file, _, err := attach(ctx, network, address, export)
	if err != nil {
		return nil, err
	}
	file.Fd() // blocking, as Dial has it: the runtime's poller need not know it
	return file, nil
}

func attach(ctx context.Context, network, address, export string) (*os.File, information, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var dialer net.Dialer
	socket, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, information{}, fmt.Errorf("connect to NBD server: %w", err)
	}
	defer socket.Close()
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	defer stop()
	info, err := negotiate(socket, export)
	if err != nil {
		return nil, information{}, fmt.Errorf("connect to NBD server %s: %w", address, err)
	}
	filer, ok := socket.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, information{}, fmt.Errorf("connect to NBD server: network %q has no socket", network)
	}
	file, err := filer.File()
	if err != nil {
		return nil, information{}, fmt.Errorf("connect to NBD server: %w", err)
	}
	return file, info, nil
}

// Size is the length of the export in bytes.
func (c *Conn) Size() int64 { return int64(c.info.size) }

// Flags are what the server allows on the export.
func (c *Conn) Flags() Flags { return c.info.flags }

// Close ends the connection; softly if nothing is outstanding.
func (c *Conn) Close() error {
	var goodbye [requestSize]byte
	putRequest(goodbye[:], disconnect, 0, 0, 0)
	// The server may have left first, and is not waited for.
	_, _ = unix.SendmsgN(c.fd, goodbye[:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return c.socket.Close()
}

// send sends what is queued, as far as the socket takes it without waiting.
func (c *Conn) send() error {
	for c.sent < c.queued {
		n, err := unix.SendmsgN(c.fd, c.out[c.sent:c.queued], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil:
			return fmt.Errorf("send requests: %w", err)
		}
		c.sent += n
	}
	c.sent, c.queued = 0, 0
	return nil
}

// awaitReplies returns true when there are replies to receive, or false when
// there is room to send what is queued (C2).
func (c *Conn) awaitReplies() (bool, error) {
	if c.sent == c.queued {
		return true, nil // receiving may wait
	}
	fds := [1]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN | unix.POLLOUT}}
	for {
		_, err := unix.Poll(fds[:], -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("wait for replies: %w", err)
		}
		return fds[0].Revents&^unix.POLLOUT != 0, nil
	}
}

// receive reads what the socket holds, at least a byte.
func (c *Conn) receive() error {
	if c.parsed > 0 {
		copy(c.in, c.in[c.parsed:c.received])
		c.received -= c.parsed
		c.parsed = 0
	}
	for {
		n, err := unix.Read(c.fd, c.in[c.received:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("receive replies: %w", err)
		case n == 0:
			return fmt.Errorf("receive replies: %w", io.ErrUnexpectedEOF)
		}
		c.received += n
		return nil
	}
}
