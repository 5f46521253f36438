package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tmemd/tmemd/nbd"
)

// TLS is how one part of the daemon encrypts. The paths are absolute, or empty.
type TLS struct {
	Mode        nbd.TLSMode
	Certificate string // PEM, with the chain to the authority behind it
	Key         string // PEM
	ClientCA    string // PEM, of the authorities of the others; empty asks clients of NBD for no certificate
}

// TLSTable is the table of the file that a TLS is configured in.
type TLSTable string

// The tables.
const (
	NBDTLS     TLSTable = "nbd.tls"
	DonorTLS   TLSTable = "donor.tls"
	RamsterTLS TLSTable = "ramster.tls"
)

// authorities is the key of those of the others.
func (t TLSTable) authorities() string {
	if t == RamsterTLS {
		return "ca"
	}
	return "client_ca"
}

func (t TLSTable) key(name string) string { return string(t) + "." + name }

var tlsModes = map[string]nbd.TLSMode{"off": nbd.TLSOff, "optional": nbd.TLSOptional, "required": nbd.TLSRequired}

// TLSError is what is wrong with one of the files.
type TLSError struct {
	Setting string // the key in the configuration: "nbd.tls.key"
	Hint    string
	err     error
}

// Error implements error.
func (e *TLSError) Error() string { return e.err.Error() }

// Unwrap gives the error below.
func (e *TLSError) Unwrap() error { return e.err }

const (
	maxPEMFile = 1 << 20 // bytes
	tlsHint    = "give it a PEM file that this user may read"
)

// Load reads the files. An error is a *TLSError.
func (t TLS) Load(table TLSTable) (*nbd.TLSKeys, error) {
	certificate, err := readPEM(table.key("certificate"), t.Certificate)
	if err != nil {
		return nil, err
	}
	key, err := readPEM(table.key("key"), t.Key)
	if err != nil {
		return nil, err
	}
	if !hasBlock(certificate, "CERTIFICATE") {
		return nil, &TLSError{table.key("certificate"), tlsHint, fmt.Errorf("there is no certificate in %s", t.Certificate)}
	}
	var keys nbd.TLSKeys
	if keys.Certificate, err = tls.X509KeyPair(certificate, key); err != nil {
		return nil, &TLSError{table.key("key"), "give it the private key, in PEM and without a passphrase, that the certificate was made for",
			fmt.Errorf("%s and %s: %w", t.Certificate, t.Key, err)}
	}
	if t.ClientCA == "" {
		return &keys, nil
	}
	setting := table.key(table.authorities())
	authorities, err := readPEM(setting, t.ClientCA)
	if err != nil {
		return nil, err
	}
	keys.ClientCAs = x509.NewCertPool()
	if !keys.ClientCAs.AppendCertsFromPEM(authorities) {
		whose := "clients"
		if table == RamsterTLS {
			whose = "donors"
		}
		return nil, &TLSError{setting, "give it the certificates, in PEM, of the authorities that sign those of " + whose,
			fmt.Errorf("there is no certificate in %s", t.ClientCA)}
	}
	return &keys, nil
}

func readPEM(setting, path string) ([]byte, error) {
	st, err := os.Stat(path)
	switch {
	case err != nil:
	case !st.Mode().IsRegular():
		err = fmt.Errorf("%s is not a file", path)
	case st.Size() > maxPEMFile:
		err = fmt.Errorf("%s has %d bytes, the limit is %d", path, st.Size(), maxPEMFile)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, &TLSError{setting, tlsHint, err}
	}
	return text, nil
}

func hasBlock(text []byte, kind string) bool {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil || block.Type == kind {
			return block != nil
		}
	}
}

// Validity says when a certificate is no good now.
func Validity(c *x509.Certificate, now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("the certificate expired at %s", c.NotAfter.Format(time.RFC3339))
	case now.Before(c.NotBefore):
		return fmt.Errorf("the certificate is good only from %s on", c.NotBefore.Format(time.RFC3339))
	}
	return nil
}

// tlsEntry is a table of TLS as the file has it.
type tlsEntry struct{ mode, certificate, key, authorities *string }

func (e tlsEntry) given() bool { return e.certificate != nil || e.key != nil || e.authorities != nil }

func (p *parser) tls() {
	f := p.file.NBD.TLS
	e := tlsEntry{f.Mode, f.Certificate, f.Key, f.ClientCA}
	if mode, ok := p.tlsMode(NBDTLS, e, "off", "optional", "required"); ok {
		p.config.NBD.TLS.Mode = mode
		p.tlsFiles(NBDTLS, e, &p.config.NBD.TLS, false)
	}
}

// peerTLS is for a part that has both sides show certificates, or neither.
func (p *parser) peerTLS(table TLSTable, e tlsEntry, to *PeerTLS) {
	mode, ok := p.tlsMode(table, e, "off", "required")
	if !ok {
		return
	}
	to.Mode, to.Plain = mode, e.mode != nil && mode == nbd.TLSOff
	p.tlsFiles(table, e, &to.TLS, true)
}

// tlsMode reads the mode, one of those that are listed.
func (p *parser) tlsMode(table TLSTable, e tlsEntry, modes ...string) (mode nbd.TLSMode, ok bool) {
	at := table.key("mode")
	p.from(at, "")
	switch {
	case e.mode != nil && !slices.Contains(modes, *e.mode):
		last := len(modes) - 1
		p.reject(at, "write "+strings.Join(modes[:last], ", ")+" or "+modes[last], "%q is no mode", *e.mode)
		return 0, false
	case e.mode != nil:
		return tlsModes[*e.mode], true
	case e.given():
		return nbd.TLSRequired, true // who has a certificate means it
	}
	return nbd.TLSOff, true
}

// tlsFiles reads what is needed for the mode. With mutual, so are the authorities.
func (p *parser) tlsFiles(table TLSTable, e tlsEntry, to *TLS, mutual bool) {
	wrong, needed := len(p.errs), to.Mode != nbd.TLSOff
	p.tlsFile(table, "certificate", e.certificate, &to.Certificate, needed)
	p.tlsFile(table, "key", e.key, &to.Key, needed)
	p.tlsFile(table, table.authorities(), e.authorities, &to.ClientCA, needed && mutual)
	if !needed || len(p.errs) > wrong {
		return
	}
	var bad *TLSError
	if _, err := to.Load(table); errors.As(err, &bad) {
		p.reject(bad.Setting, bad.Hint, "%v", bad)
	}
}

func (p *parser) tlsFile(table TLSTable, name string, entry, to *string, needed bool) {
	key := table.key(name)
	p.from(key, "")
	p.blame(key, string(table))
	switch {
	case entry != nil && !filepath.IsAbs(*entry):
		p.reject(key, "write the whole path, from the / on", "%q is not an absolute path", *entry)
	case entry != nil:
		*to = filepath.Clean(*entry)
	case needed:
		p.reject(key, "write "+exampleOf(key), "it is needed for TLS")
	}
}
