package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/nbd/tlsstream"
)

// unanswered is how long a host may leave what was sent to it without a receipt.
const unanswered = 20 * time.Second

// dialDonor connects to a donor, and notes why it could not.
func (d *Daemon) dialDonor(ctx context.Context, address string) (net.Conn, error) {
	conn, err := d.dial(ctx, address)
	if err != nil {
		d.unreached.Store(address, err.Error())
	} else {
		d.unreached.Delete(address)
	}
	return conn, err
}

// dial connects to a donor, and is sure of who is there: over TCP by its certificate, else
// by the address, which is this machine's or its hypervisor's.
func (d *Daemon) dial(ctx context.Context, address string) (net.Conn, error) {
	a, err := config.ParseDonorAddress(address)
	if err != nil {
		return nil, err
	}
	if wrong := d.config.Ramster.Check(a, config.RamsterTLS); wrong != nil {
		return nil, wrong
	}
	if a.Network == "vsock" {
		return dialVsock(ctx, a)
	}
	conn, err := new(net.Dialer).DialContext(ctx, a.Network, a.Address)
	if err != nil {
		return nil, err
	}
	prepareTCP(conn)
	keys := d.ramsterKeys.keys.Load()
	if a.Network == "unix" || keys == nil {
		return conn, nil
	}
	host, _, err := net.SplitHostPort(a.Address)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c := peerConfig(keys)
	c.RootCAs, c.ServerName = keys.ClientCAs, host
	encrypted := tlsstream.Client(conn, c)
	if err := encrypted.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("shake hands over TLS: %w", err), conn.Close())
	}
	encrypted.Batch()
	return encrypted, nil
}

// peerConfig is what both sides have in common.
func peerConfig(keys *nbd.TLSKeys) *tls.Config {
	return &tls.Config{
		Certificates:           []tls.Certificate{keys.Certificate},
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		// Records of full size from the start: a batch of pages is what is sent.
		DynamicRecordSizingDisabled: true,
	}
}

// prepareTCP sets what a connection between hosts needs: small requests go out at once,
// and a host that is gone without a word is noticed. Failing to set these costs speed or
// time, not correctness.
func prepareTCP(conn net.Conn) {
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	_ = c.SetNoDelay(true)
	_ = c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3})
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unanswered.Milliseconds()))
	})
}
