package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/config"
)

// TestVsock connects this machine with itself, where the kernel can.
func TestVsock(t *testing.T) {
	const port = 1<<30 + 7
	at := func(cid string) config.Address {
		return config.Address{Network: "vsock", Address: fmt.Sprintf("%s:%d", cid, port)}
	}
	l, err := listen(at("any"), config.Socket{})
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EACCES) {
		t.Skip(err)
	}
	must(t, err)
	defer l.Close()
	t.Run("close", func(t *testing.T) { closeVsock(t) })
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	c, err := dialVsock(ctx, at("1"))
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.ETIMEDOUT) {
		t.Skip("no loopback: ", err)
	}
	must(t, err)
	served, err := l.Accept()
	must(t, err)
	if _, err := c.Write([]byte("abc")); err != nil {
		t.Error(err)
	}
	b := make([]byte, 3)
	if _, err := io.ReadFull(served, b); err != nil || string(b) != "abc" {
		t.Errorf("%q, %v", b, err)
	}
	names, err := (&Daemon{config: &config.Config{Donor: &config.Donor{}}, lent: &lending{}, log: slog.New(slog.DiscardHandler)}).identifyOwner(served)
	if err != nil || len(names) != 1 || names[0] != "cid:1" {
		t.Errorf("names %v, %v", names, err)
	}
	must(t, served.SetReadDeadline(time.Now()))
	if _, err := served.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read behind its deadline: %v", err)
	}
	must(t, c.Close())
	must(t, served.Close())
	gone, stop := context.WithCancel(context.Background())
	stop()
	if _, err := dialVsock(gone, at("1")); err == nil {
		t.Error("connected to nobody")
	}
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
