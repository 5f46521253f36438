package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tmemd/tmemd/nbd"
)

// TLS is how the NBD server encrypts. The paths are absolute, or empty.
type TLS struct {
	Mode        nbd.TLSMode
	Certificate string // PEM, with the chain to the authority behind it
	Key         string // PEM
	ClientCA    string // PEM; empty asks clients for no certificate
}

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
	tlsCertificate = "nbd.tls.certificate"
	tlsKey         = "nbd.tls.key"
	tlsClientCA    = "nbd.tls.client_ca"

	maxPEMFile = 1 << 20 // bytes
	tlsHint    = "give it a PEM file that this user may read"
)

// Load reads the files. An error is a *TLSError.
func (t TLS) Load() (*nbd.TLSKeys, error) {
	certificate, err := readPEM(tlsCertificate, t.Certificate)
	if err != nil {
		return nil, err
	}
	key, err := readPEM(tlsKey, t.Key)
	if err != nil {
		return nil, err
	}
	if !hasBlock(certificate, "CERTIFICATE") {
		return nil, &TLSError{tlsCertificate, tlsHint, fmt.Errorf("there is no certificate in %s", t.Certificate)}
	}
	var keys nbd.TLSKeys
	if keys.Certificate, err = tls.X509KeyPair(certificate, key); err != nil {
		return nil, &TLSError{tlsKey, "give it the private key, in PEM and without a passphrase, that the certificate was made for",
			fmt.Errorf("%s and %s: %w", t.Certificate, t.Key, err)}
	}
	if t.ClientCA == "" {
		return &keys, nil
	}
	authorities, err := readPEM(tlsClientCA, t.ClientCA)
	if err != nil {
		return nil, err
	}
	keys.ClientCAs = x509.NewCertPool()
	if !keys.ClientCAs.AppendCertsFromPEM(authorities) {
		return nil, &TLSError{tlsClientCA, "give it the certificates, in PEM, of the authorities that sign those of clients",
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

func (p *parser) tls() {
	f, c := &p.file.NBD.TLS, &p.config.NBD.TLS
	given := f.Certificate != nil || f.Key != nil || f.ClientCA != nil
	p.from("nbd.tls.mode", "")
	switch {
	case f.Mode != nil:
		mode, known := tlsModes[*f.Mode]
		if !known {
			p.reject("nbd.tls.mode", "write off, optional or required", "%q is no mode", *f.Mode)
			return
		}
		c.Mode = mode
	case given:
		c.Mode = nbd.TLSRequired // who has a certificate means it
	}
	wrong := len(p.errs)
	p.tlsFile(tlsCertificate, f.Certificate, &c.Certificate, c.Mode != nbd.TLSOff)
	p.tlsFile(tlsKey, f.Key, &c.Key, c.Mode != nbd.TLSOff)
	p.tlsFile(tlsClientCA, f.ClientCA, &c.ClientCA, false)
	if c.Mode == nbd.TLSOff || len(p.errs) > wrong {
		return
	}
	var bad *TLSError
	if _, err := c.Load(); errors.As(err, &bad) {
		p.reject(bad.Setting, bad.Hint, "%v", bad)
	}
}

func (p *parser) tlsFile(key string, entry, to *string, needed bool) {
	p.from(key, "")
	p.blame(key, "nbd.tls")
	switch {
	case entry != nil && !filepath.IsAbs(*entry):
		p.reject(key, "write the whole path, from the / on", "%q is not an absolute path", *entry)
	case entry != nil:
		*to = filepath.Clean(*entry)
	case needed:
		p.reject(key, "write "+exampleOf(key), "it is needed for TLS")
	}
}
