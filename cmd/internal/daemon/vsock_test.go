package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/config"
)

// TestVsockConnection is about what package os does not do for a connection, on a pair of
// sockets of another family: not every kernel connects a machine with itself over vsock.
func TestVsockConnection(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	owner, donor := newVsockConn(fds[0]), newVsockConn(fds[1])
	defer owner.Close()
	donor.remote = vsockAddress{7, 1234}
	checkVsock(t, owner, donor, "cid:7")
}

// checkVsock has an owner say something to a donor, who knows it by its name.
func checkVsock(t *testing.T, owner, donor net.Conn, name string) {
	t.Helper()
	if _, err := owner.Write([]byte("abc")); err != nil {
		t.Error(err)
	}
	b := make([]byte, 3)
	if _, err := io.ReadFull(donor, b); err != nil || string(b) != "abc" {
		t.Errorf("%q, %v", b, err)
	}
	names, err := (&Daemon{config: &config.Config{Donor: &config.Donor{}}, lent: &lending{}, log: slog.New(slog.DiscardHandler)}).identifyOwner(donor)
	if err != nil || len(names) != 1 || names[0] != name {
		t.Errorf("names %v, %v; want %s", names, err, name)
	}
	must(t, donor.SetReadDeadline(time.Now()))
	if _, err := donor.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read behind its deadline: %v", err)
	}
	must(t, donor.Close())
	if _, err := owner.Read(b); !errors.Is(err, io.EOF) {
		t.Errorf("a read of what the other side has closed: %v", err)
	}
}

// TestVsock connects this machine with itself. A kernel that cannot says so, and what was
// tried is in the error.
func TestVsock(t *testing.T) {
	const port = 1<<30 + 7
	at := func(cid string) config.Address {
		return config.Address{Network: "vsock", Address: fmt.Sprintf("%s:%d", cid, port)}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	l, err := listen(at("any"), config.Socket{})
	if err != nil {
		without := errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EACCES)
		if !without || !strings.Contains(err.Error(), fmt.Sprintf("listen on %s", at("any"))) {
			t.Errorf("listen: %v", err)
		}
		return
	}
	defer l.Close()
	t.Run("close", func(t *testing.T) { closeVsock(t) })
	gone, stop := context.WithCancel(context.Background())
	stop()
	if c, err := dialVsock(gone, at("1")); err == nil {
		c.Close()
		served, err := l.Accept() // the kernel was faster than the context
		must(t, err)
		must(t, served.Close())
	}
	c, err := dialVsock(ctx, at("1"))
	if err != nil {
		without := errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) ||
			errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.ETIMEDOUT)
		if !without || !strings.Contains(err.Error(), fmt.Sprintf("connect to %s", at("1"))) {
			t.Errorf("connect: %v", err)
		}
		return
	}
	defer c.Close()
	served, err := l.Accept()
	must(t, err)
	checkVsock(t, c, served, "cid:1")
}

// closeVsock: a listener that is closed ends Accept, and its copies are files of their own.
func closeVsock(t *testing.T) {
	l, err := listen(config.Address{Network: "vsock", Address: fmt.Sprintf("any:%d", 1<<30+8)}, config.Socket{})
	must(t, err)
	file, err := l.(*vsockListener).File()
	must(t, err)
	must(t, file.Close())
	ended := make(chan error)
	go func() { _, err := l.Accept(); ended <- err }()
	time.Sleep(10 * time.Millisecond)
	must(t, l.Close())
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept on a closed listener: %v", err)
	}
}
