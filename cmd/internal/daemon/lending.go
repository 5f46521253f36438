package daemon

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/donor"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/nbd/tlsstream"
)

// lending is the memory that this host lends.
type lending struct {
	donor *donor.Donor     // immutable after Open, as is bound
	bound []config.Address // where it is lent

	noName, noClient atomic.Int64 // when it was last complained about either, in Unix seconds
}

// lentName is how the names of memory files begin that are lent. They stay when the
// daemon ends, however it ends: what is in them is other hosts' swap.
const lentName = "donor"

// isLent says whether a memory file is lent.
func (d *Daemon) isLent(name string) bool {
	if d.config.Donor == nil {
		return false
	}
	return name == lentName+".arena" || name == lentName+".chunks" || name == lentName+".pools"
}

func donorSocket(i int) string { return fmt.Sprintf("donor%d", i) }

// bindLent takes the addresses where memory is lent.
func (d *Daemon) bindLent() error {
	if d.config.Donor == nil {
		return nil
	}
	d.lent = &lending{}
	for i, a := range d.config.Donor.Listen {
		l, err := d.listen(donorSocket(i), a, d.config.Donor.Socket)
		if err != nil {
			return d.config.Fault(fmt.Sprintf("donor.listen[%d]", i), cureListen(a, err), err)
		}
		d.listeners.lent = append(d.listeners.lent, l)
		d.lent.bound = append(d.lent.bound, boundAddress(a, l))
	}
	return nil
}

// openLent takes the memory: with the pages that the last run left, in whichever way it
// ended. What cannot be used is given up, and owners notice.
func (d *Daemon) openLent() error {
	if d.config.Donor == nil {
		return nil
	}
	c := d.config.Donor
	settings := donor.Config{
		Identity: d.identityOf(lentName), Limit: c.Size, SelfSizing: c.SelfSizing, Floor: c.MinSize,
		Memory: arena.Place{Folder: d.memory, Name: lentName}, Clients: c.Clients, Identify: d.identifyOwner, Log: d.log,
	}
	if d.memory != nil {
		made, err := donor.Open(settings)
		if err == nil {
			d.lent.donor = made
			d.log.Info("memory that was lent before is lent on", "pages", lentPages(made.Stats()))
			return nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			d.log.Warn("pages that other hosts had here are gone: they have to make them again of other copies", "error", err)
		}
		if err := d.memory.RemoveExcept(func(name string) bool { return !d.isLent(name) }); err != nil {
			return fmt.Errorf("give up memory that was lent: %w", err)
		}
	}
	made, err := donor.New(settings)
	if err != nil {
		return d.config.Fault("donor.size", "choose a smaller size", d.memoryError(err))
	}
	d.lent.donor = made
	return nil
}

func lentPages(s donor.Stats) (pages int64) {
	for _, c := range s.Clients {
		pages += c.Persistent + c.Ephemeral
	}
	return pages
}

// serveLent lends on sockets that are bound.
func (d *Daemon) serveLent(list []net.Listener) {
	for i, l := range list {
		d.noteSocket(donorSocket(i), l)
		if l.Addr().Network() == "tcp" {
			l = encryptedListener{l, d}
		}
		d.running.Go(func() {
			if err := d.lent.donor.Serve(l); !errors.Is(err, donor.ErrClosed) && !errors.Is(err, net.ErrClosed) {
				d.notServed(err)
			}
		})
	}
}

// closeLent ends it. The memory stays, for the next run.
func (d *Daemon) closeLent() error {
	if d.lent == nil || d.lent.donor == nil {
		return nil
	}
	if s := d.lent.donor.Stats(); d.memory != nil && lentPages(s) > 0 {
		d.log.Info("memory that is lent stays taken until tmemd lends it on or the host is started anew", "bytes", s.HeldBytes, "pages", lentPages(s))
	}
	d.memory.Leave()
	return d.lent.donor.Close()
}

// encryptedListener has owners shake hands, if TLS is on: when they are identified, not
// here, where one would hold up all others.
type encryptedListener struct {
	net.Listener
	daemon *Daemon
}

// Accept implements net.Listener.
func (l encryptedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	prepareTCP(conn)
	keys := l.daemon.donorKeys.keys.Load()
	if keys == nil {
		return conn, nil
	}
	c := peerConfig(keys)
	c.ClientCAs, c.ClientAuth = keys.ClientCAs, tls.RequireAndVerifyClientCert
	return &abrupt{tlsstream.Server(conn, c)}, nil
}

// abrupt is a connection that is closed without a good-bye, which takes seconds if the
// other side does not read: the next session of an owner waits for the end of this one.
type abrupt struct{ *tlsstream.Stream }

// Close implements net.Conn.
func (c *abrupt) Close() error { return c.NetConn().Close() }

// identifyOwner is donor's Config.Identify: the names are those of [[donor.client]].
func (d *Daemon) identifyOwner(conn net.Conn) (names []string, err error) {
	switch c := conn.(type) {
	case *abrupt:
		if err := c.Handshake(); err != nil {
			d.lent.complain(&d.lent.noName, d.log, "refused a client of lent memory", "client", conn.RemoteAddr().String(), "error", err)
			return nil, fmt.Errorf("shake hands over TLS: %w", err)
		}
		c.Batch()
		leaf := c.ConnectionState().PeerCertificates[0] // verified
		if leaf.Subject.CommonName != "" {
			names = append(names, "cert:"+leaf.Subject.CommonName)
		}
		for _, name := range leaf.DNSNames {
			names = append(names, "cert:"+name)
		}
		for _, uri := range leaf.URIs {
			names = append(names, "cert:"+uri.String())
		}
	case *net.UnixConn:
		u, err := userOf(c)
		if err != nil {
			return nil, err
		}
		names = []string{fmt.Sprintf("uid:%d", u.Uid), fmt.Sprintf("gid:%d", u.Gid)}
	case *vsockConn:
		names = []string{fmt.Sprintf("cid:%d", c.remote.cid)}
	default:
		host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
		if err != nil {
			return nil, err
		}
		names = []string{"ip:" + host}
	}
	if !d.config.Donor.Admits(names) {
		d.lent.complain(&d.lent.noClient, d.log, "refused a client of lent memory: no [[donor.client]] has one of its names", "client", conn.RemoteAddr().String(), "names", names)
	}
	return names, nil
}

// complain logs, once a second at most: strangers must not fill the disk. Each reason has its
// own second, or one client could hide another, who asks again only half a minute later.
func (l *lending) complain(last *atomic.Int64, log *slog.Logger, message string, args ...any) {
	now := time.Now().Unix()
	if last.Swap(now) != now {
		log.Warn(message, args...)
	}
}

// userOf asks the kernel who is at the other end.
func userOf(c *net.UnixConn) (u *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { u, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("find out who connects: %w", err)
	}
	return u, nil
}
