package daemon

import (
	"crypto/x509"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/nbd"
)

// exposure is what to warn about on an address that others can reach, or "".
func exposure(t config.TLS) string {
	switch {
	case t.Mode == nbd.TLSOff:
		return "WHOEVER REACHES THIS ADDRESS CAN READ AND WRITE ALL PAGES: NBD is served without TLS; set [nbd.tls], or listen on a Unix socket"
	case t.Mode == nbd.TLSOptional && t.ClientCA == "":
		return "WHOEVER REACHES THIS ADDRESS CAN READ AND WRITE ALL PAGES, and without TLS if they like: set mode = \"required\" and client_ca in [nbd.tls]"
	case t.Mode == nbd.TLSOptional:
		return "clients on this address may do without TLS, and see no export then; mode = \"required\" in [nbd.tls] says so to them"
	case t.ClientCA == "":
		return "WHOEVER REACHES THIS ADDRESS CAN READ AND WRITE ALL PAGES: clients are not asked for certificates; set client_ca in [nbd.tls]"
	}
	return ""
}

// certificates are those of one part of the daemon. They are read anew while it runs.
type certificates struct {
	table config.TLSTable
	tls   config.TLS
	keys  atomic.Pointer[nbd.TLSKeys] // nil if TLS is off
}

// parts are the parts of the daemon that encrypt.
func (d *Daemon) parts() []*certificates {
	return []*certificates{&d.nbdKeys, &d.ramsterKeys, &d.donorKeys}
}

// loadKeys reads the certificates that the daemon starts with.
func (d *Daemon) loadKeys() error {
	d.nbdKeys.table, d.nbdKeys.tls = config.NBDTLS, d.config.NBD.TLS
	d.ramsterKeys.table, d.ramsterKeys.tls = config.RamsterTLS, d.config.Ramster.TLS
	d.donorKeys.table = config.DonorTLS
	if d.config.Donor != nil {
		d.donorKeys.tls = d.config.Donor.TLS.TLS
	}
	for _, c := range d.parts() {
		if c.tls.Mode == nbd.TLSOff {
			continue
		}
		keys, err := c.tls.Load(c.table)
		var bad *config.TLSError
		if errors.As(err, &bad) {
			return d.config.Fault(bad.Setting, bad.Hint, bad)
		}
		if err != nil {
			return err
		}
		// It serves nevertheless: a host that was down for long needs its swap, and
		// over a Unix socket it can have it.
		if err := config.Validity(keys.Certificate.Leaf, time.Now()); err != nil {
			d.log.Error("others will not accept the certificate", "certificate", c.tls.Certificate, "error", err)
		}
		if st, err := os.Stat(c.tls.Key); err == nil && st.Mode().Perm()&0o077 != 0 {
			d.log.Warn("others can read the private key: chmod 600 it", "key", c.tls.Key, "mode", st.Mode().Perm().String())
		}
		c.keys.Store(keys)
	}
	return nil
}

// showTLS describes TLS of NBD, or is nil if it is off.
func (d *Daemon) showTLS() *admin.TLS {
	return d.nbdKeys.show(d.config.NBD.TLS.Mode == nbd.TLSRequired)
}

// show describes them, or is nil if TLS is off.
func (c *certificates) show(required bool) *admin.TLS {
	keys := c.keys.Load()
	if keys == nil {
		return nil
	}
	leaf := keys.Certificate.Leaf
	return &admin.TLS{
		Required: required, ClientCertificates: keys.ClientCAs != nil, Certificate: certificateName(leaf), Expires: leaf.NotAfter,
	}
}

func certificateName(c *x509.Certificate) string {
	if c.Subject.CommonName == "" && len(c.DNSNames) > 0 {
		return c.DNSNames[0]
	}
	return c.Subject.CommonName
}

// reloadOn reloads at each signal until stop is called.
func (d *Daemon) reloadOn(signals <-chan os.Signal) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-signals:
				var told *admin.Error
				if _, err := d.reload(); errors.As(err, &told) {
					d.log.Info("a signal to reload did not do all", "reason", told.Message)
				}
			case <-done:
				return
			}
		}
	})
	return func() {
		close(done)
		running.Wait()
	}
}

// hasTerminal says whether the process was started from a terminal, which sends
// SIGHUP when it is closed. Everybody else means "reload" by it.
func hasTerminal() bool {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}
