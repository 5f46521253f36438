package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/config"
)

// Package net knows no vsock (AF_VSOCK: between virtual machines and their host). Package
// os serves any socket as a file, with deadlines; what is missing is here.

// vsockAddress is one end.
type vsockAddress struct{ cid, port uint32 }

// Network implements net.Addr.
func (vsockAddress) Network() string { return "vsock" }

// String implements net.Addr.
func (a vsockAddress) String() string { return fmt.Sprintf("%d:%d", a.cid, a.port) }

// vsockConn is a connection.
type vsockConn struct {
	*os.File
	local, remote vsockAddress
}

var _ net.Conn = (*vsockConn)(nil)

// LocalAddr implements net.Conn.
func (c *vsockConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *vsockConn) RemoteAddr() net.Addr { return c.remote }

func newVsockConn(fd int) *vsockConn {
	end := func(get func(int) (unix.Sockaddr, error)) (a vsockAddress) {
		if at, err := get(fd); err == nil {
			if vm, ok := at.(*unix.SockaddrVM); ok {
				a = vsockAddress{vm.CID, vm.Port}
			}
		}
		return a
	}
	c := &vsockConn{local: end(unix.Getsockname), remote: end(unix.Getpeername)}
	c.File = os.NewFile(uintptr(fd), "vsock "+c.remote.String())
	return c
}

func newVsock() (int, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	return fd, nil
}

// dialVsock connects.
func dialVsock(ctx context.Context, a config.Address) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) { return nil, fmt.Errorf("connect to %s: %w", a, err) }
	fd, err := newVsock()
	if err != nil {
		return fail(err)
	}
	cid, port := a.Vsock()
	err = unix.Connect(fd, &unix.SockaddrVM{CID: cid, Port: port})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return fail(os.NewSyscallError("connect", err))
	}
	c := newVsockConn(fd)
	if err != nil {
		if err = awaitConnected(ctx, c.File); err == nil {
			c.remote = vsockAddress{cid, port}
		}
	}
	if err != nil {
		return fail(errors.Join(err, c.Close()))
	}
	return c, nil
}

// awaitConnected waits until a connection that is being made is, or ctx ends.
func awaitConnected(ctx context.Context, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetDeadline(time.Unix(1, 0)) }) // it can have deadlines
	defer stop()
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		var code int
		code, failed = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if failed == nil && code != 0 {
			failed = unix.Errno(code)
		}
		if failed != nil {
			return true
		}
		_, missing := unix.Getpeername(int(fd))
		return missing == nil
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(err, failed)
}

// vsockListener accepts connections.
type vsockListener struct {
	file   *os.File     // immutable
	at     vsockAddress // immutable
	closed atomic.Bool
}

var _ net.Listener = (*vsockListener)(nil)

func listenVsock(a config.Address) (net.Listener, error) {
	fail := func(err error) (net.Listener, error) { return nil, fmt.Errorf("listen on %s: %w", a, err) }
	fd, err := newVsock()
	if err != nil {
		return fail(err)
	}
	cid, port := a.Vsock()
	if err = unix.Bind(fd, &unix.SockaddrVM{CID: cid, Port: port}); err == nil {
		err = unix.Listen(fd, unix.SOMAXCONN)
	}
	if err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EADDRINUSE) {
			err = errTaken
		}
		return fail(err)
	}
	return &vsockListener{file: os.NewFile(uintptr(fd), "vsock listener"), at: vsockAddress{cid, port}}, nil
}

// Accept implements net.Listener.
func (l *vsockListener) Accept() (net.Conn, error) {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, failed := -1, error(nil)
	err = raw.Read(func(listening uintptr) bool {
		fd, _, failed = unix.Accept4(int(listening), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		return !errors.Is(failed, unix.EAGAIN)
	})
	switch {
	case err != nil && l.closed.Load(): // package os has an error of its own for it
		return nil, net.ErrClosed
	case err != nil:
		return nil, err
	case failed != nil:
		return nil, os.NewSyscallError("accept", failed)
	}
	return newVsockConn(fd), nil
}

// Close implements net.Listener.
func (l *vsockListener) Close() error {
	l.closed.Store(true)
	return l.file.Close()
}

// Addr implements net.Listener.
func (l *vsockListener) Addr() net.Addr { return l.at }

// File returns a file of the same socket, to be handed over to another process.
func (l *vsockListener) File() (*os.File, error) {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var copied int
	var failed error
	err = raw.Control(func(fd uintptr) { copied, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(copied), l.file.Name()), nil
}
