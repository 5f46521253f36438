package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/metrics"
	"github.com/tmemd/tmemd/metrics/statuspage"
)

// bound is an address where NBD is served.
type bound struct {
	config.Address          // as it really is: port 0 has become a port
	file           *os.File // inherited from the service manager and never ours to bind; nil for others
}

// listenAgain accepts on the address once more, after its listener was closed.
func (d *Daemon) listenAgain(b bound) (net.Listener, error) {
	if b.file != nil {
		return inherit(b.file)
	}
	return listen(b.Address, d.config.NBD.Socket)
}

// adminName is what an inherited socket is called (FileDescriptorName= of its
// systemd.socket unit) that serves the admin API. All others serve NBD.
const adminName = "admin"

const inheritHint = "give it listening stream sockets, Unix or TCP (ListenStream=, Accept=no); the one named admin serves tmemctl, the others NBD"

// bindNBD takes the sockets that the service manager handed over, and only if
// there are none the addresses of the configuration.
func (d *Daemon) bindNBD() error {
	for _, f := range d.options.Inherited {
		if f.Name() == adminName {
			continue
		}
		l, err := inherit(f)
		if err != nil {
			return cli.Failure(inheritHint, "%v", err)
		}
		d.listeners.nbd = append(d.listeners.nbd, l)
		d.bound = append(d.bound, bound{addressOf(l), f})
	}
	if len(d.bound) > 0 {
		d.log.Info("NBD is served on inherited sockets; listen and socket_mode, if they are set, do not count", "sockets", len(d.bound))
		return nil
	}
	for i, a := range d.config.Listen {
		l, err := d.listen(nbdSocket(i), a, d.config.NBD.Socket)
		if err != nil {
			return d.config.Fault(fmt.Sprintf("listen[%d]", i), cureListen(a, err), err)
		}
		d.listeners.nbd = append(d.listeners.nbd, l)
		d.bound = append(d.bound, bound{Address: boundAddress(a, l)})
	}
	return nil
}

// bindAdmin takes the socket for the admin API: inherited, or our own.
func (d *Daemon) bindAdmin() error {
	d.adminAddr = config.Address{Network: "unix", Address: d.folder.Path("admin.sock")}
	for _, f := range d.options.Inherited {
		if f.Name() != adminName {
			continue
		}
		l, err := inherit(f)
		if err != nil {
			return cli.Failure(inheritHint, "%v", err)
		}
		if l.Addr().Network() != "unix" || d.listeners.admin != nil {
			return errors.Join(cli.Failure("hand over one Unix socket by that name", "inherited socket %s: the admin API is served on one Unix socket", adminName), l.Close())
		}
		d.listeners.admin, d.adminAddr = l, addressOf(l)
	}
	if d.listeners.admin != nil {
		return nil
	}
	l, err := d.listen(adminSocket, d.adminAddr, config.Socket{Mode: 0o600, Owner: -1, Group: -1})
	if err != nil {
		return d.config.Fault("state_dir", cureListen(d.adminAddr, err), err)
	}
	d.listeners.admin = l
	return nil
}

func (d *Daemon) bindMetrics() error {
	if d.config.Metrics == "" {
		return nil
	}
	a := config.Address{Network: "tcp", Address: d.config.Metrics}
	l, err := d.listen(metricsSocket, a, config.Socket{})
	if errors.Is(err, errTaken) && !d.config.MetricsChosen {
		// The default belongs to whoever came first; several daemons on one
		// machine need not be told about each other.
		d.log.Warn("the default address for metrics is taken, using another port", "address", a.Address)
		a.Address = "127.0.0.1:0"
		l, err = listen(a, config.Socket{})
	}
	if err != nil {
		return d.config.Fault("metrics", cureListen(a, err), err)
	}
	d.listeners.metrics, d.metricsAddr = l, l.Addr().String()
	if tcp, ok := l.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		d.log.Warn("metrics can be read by others: their address is not a loopback address", "address", d.metricsAddr)
	}
	c := metrics.ServerConfig{Take: d.snapshot, Sampler: metrics.NewSampler(d.snapshot), Log: d.log, Series: d.config.MetricsExports}
	if d.config.StatusPage {
		c.Page = statuspage.NewHandler(c.Sampler)
	}
	d.metrics, err = metrics.NewServer(c)
	return err
}

// inherit makes a listener of a socket that another process has bound. Closing
// the listener leaves the file open, and a Unix socket in its folder.
func inherit(f *os.File) (net.Listener, error) {
	wrong := func(err error) error { return fmt.Errorf("inherited socket %s: %w", f.Name(), err) }
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, wrong(err)
	}
	var listens int
	var failed error
	if err := raw.Control(func(fd uintptr) {
		listens, failed = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	}); err != nil {
		return nil, wrong(err)
	}
	if failed != nil {
		return nil, wrong(os.NewSyscallError("getsockopt", failed))
	}
	if listens == 0 {
		return nil, wrong(errors.New("nobody listens on it"))
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, wrong(err)
	}
	switch l.(type) {
	case *net.UnixListener, *net.TCPListener:
		return l, nil
	}
	return nil, errors.Join(wrong(fmt.Errorf("the network is %s", l.Addr().Network())), l.Close())
}

func addressOf(l net.Listener) config.Address {
	return config.Address{Network: l.Addr().Network(), Address: l.Addr().String()}
}

// warnSockets says loudly who gets in that the operator may not have thought of.
func (d *Daemon) warnSockets() {
	tls := d.config.NBD.TLS
	tcp := false
	for _, b := range d.bound {
		if b.Network != "tcp" {
			continue
		}
		tcp = true
		if config.IsLoopback(b.Address.Address) {
			continue
		}
		if text := exposure(tls); text != "" {
			d.log.Warn(text, "address", b.String())
		}
	}
	if !tcp || tls.ClientCA == "" {
		return
	}
	for _, e := range d.exports {
		if !config.NeedsCertificates(e.Allow) {
			d.log.Warn("nobody can open the export over TCP: it has no rule for certificates, such as allow = [\"cert:NAME\"]", "export", e.Name)
		}
	}
}
