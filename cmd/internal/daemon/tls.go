package daemon

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
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

// loadKeys reads the certificates that the daemon starts with.
func (d *Daemon) loadKeys() error {
	t := d.config.NBD.TLS
	if t.Mode == nbd.TLSOff {
		return nil
	}
	keys, err := t.Load()
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
		d.log.Error("clients will not accept the certificate", "certificate", t.Certificate, "error", err)
	}
	if st, err := os.Stat(t.Key); err == nil && st.Mode().Perm()&0o077 != 0 {
		d.log.Warn("others can read the private key: chmod 600 it", "key", t.Key, "mode", st.Mode().Perm().String())
	}
	d.keys.Store(keys)
	return nil
}

// reload reads the certificates anew. New connections get them, open ones keep
// theirs. After an error the old ones stay.
func (d *Daemon) reload() (admin.TLS, error) {
	t := d.config.NBD.TLS
	if t.Mode == nbd.TLSOff {
		return admin.TLS{}, &admin.Error{
			Status: http.StatusConflict, Message: "there is nothing to read anew: TLS is off", Hint: "other settings need a restart; see [nbd.tls] for TLS",
		}
	}
	d.reloading.Lock()
	defer d.reloading.Unlock()
	keys, err := t.Load()
	if err == nil {
		err = config.Validity(keys.Certificate.Leaf, time.Now())
	}
	if err != nil {
		d.log.Error("the certificates were not replaced, the old ones are used on", "error", err)
		told := &admin.Error{Status: http.StatusConflict, Message: fmt.Sprintf("the old certificates are used on: %v", err), Hint: "put a good one in its place"}
		var bad *config.TLSError
		if errors.As(err, &bad) {
			told.Message, told.Hint = fmt.Sprintf("the old certificates are used on: %s: %v", bad.Setting, bad), bad.Hint
		}
		return admin.TLS{}, told
	}
	d.keys.Store(keys)
	shown := d.showTLS()
	d.log.Info("certificates read anew", "certificate", shown.Certificate, "expires", shown.Expires)
	return *shown, nil
}

// Reload implements admin.Service.
func (s service) Reload() (admin.TLS, error) { return s.d.reload() }

// showTLS describes TLS, or is nil if it is off.
func (d *Daemon) showTLS() *admin.TLS {
	keys := d.keys.Load()
	if keys == nil {
		return nil
	}
	leaf := keys.Certificate.Leaf
	return &admin.TLS{
		Required: d.config.NBD.TLS.Mode == nbd.TLSRequired, ClientCertificates: keys.ClientCAs != nil,
		Certificate: certificateName(leaf), Expires: leaf.NotAfter,
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
				// reload logs what went wrong with files.
				if _, err := d.reload(); errors.As(err, &told) && d.config.NBD.TLS.Mode == nbd.TLSOff {
					d.log.Info("a signal to reload did nothing", "reason", told.Message)
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
