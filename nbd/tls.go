package nbd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/tmemd/tmemd/nbd/tlsstream"
)

// TLSMode says whether connections are encrypted.
type TLSMode int

// The modes. Required spares Unix sockets: what goes over them stays on the
// host, and the host's own swap must not depend on more than it has to.
const (
	TLSOff      TLSMode = iota // STARTTLS is not known
	TLSOptional                // as the client likes
	TLSRequired                // nothing but STARTTLS and ABORT is answered before, on TCP
)

// TLS is how a server speaks TLS: 1.2 or newer, without session resumption, so
// that each connection shows its certificate anew.
type TLS struct {
	Mode TLSMode
	// Keys returns what handshakes are made with. Each asks anew, so that keys
	// can be replaced while the server runs; connections that are open keep
	// theirs. It may not return nil, and has to say the same about whether there
	// are ClientCAs. Unused if Mode is TLSOff.
	Keys func() *TLSKeys
}

// TLSKeys is what a server proves its name with, and how it knows clients. It
// must not be changed once it is in use.
type TLSKeys struct {
	Certificate tls.Certificate
	// ClientCAs are the authorities whose certificates clients have to show, for
	// client authentication. Nil asks clients for nothing.
	ClientCAs *x509.CertPool
}

func (t TLS) check() error {
	switch {
	case t.Mode < TLSOff || t.Mode > TLSRequired:
		return fmt.Errorf("unknown TLS mode %d", t.Mode)
	case t.Mode != TLSOff && (t.Keys == nil || t.Keys() == nil):
		return errors.New("TLS without keys")
	}
	return nil
}

// demandsCertificates says whether clients are known by certificates.
func (t TLS) demandsCertificates() bool {
	return t.Mode != TLSOff && t.Keys().ClientCAs != nil
}

// expires is when the server's certificate does.
func (t TLS) expires() time.Time {
	if t.Mode == TLSOff {
		return time.Time{}
	}
	if leaf := t.Keys().Certificate.Leaf; leaf != nil {
		return leaf.NotAfter
	}
	return time.Time{}
}

func (k *TLSKeys) config() *tls.Config {
	c := &tls.Config{
		Certificates:           []tls.Certificate{k.Certificate},
		MinVersion:             tls.VersionTLS12,
		SessionTicketsDisabled: true,
		// Records of full size from the start: nobody renders a page meanwhile.
		DynamicRecordSizingDisabled: true,
	}
	if k.ClientCAs != nil {
		c.ClientCAs, c.ClientAuth = k.ClientCAs, tls.RequireAndVerifyClientCert
	}
	return c
}

// mayNegotiate says whether the client may go on without STARTTLS.
func (h *handshake) mayNegotiate() bool {
	c := h.connection
	return h.server.config.TLS.Mode != TLSRequired || c.tls != nil || c.isLocal()
}

// startTLS answers STARTTLS. When it returns without an error that it did not
// reply, the connection is encrypted, and nothing of what was said before
// counts.
//
// Until here every byte was read from the socket when it was wanted, so none
// that came in the clear can be taken for one of the encrypted stream: what a
// client, or somebody between, sends behind STARTTLS is fed to the TLS handshake
// and fails it.
func (h *handshake) startTLS() error {
	c := h.connection
	switch {
	case h.server.config.TLS.Mode == TLSOff:
		return h.refuse(replyErrUnsupported, "")
	case h.left > 0:
		return h.refuse(replyErrInvalid, "STARTTLS takes no data")
	case c.tls != nil:
		return h.refuse(replyErrInvalid, "TLS is spoken already")
	}
	if err := h.reply(replyAck); err != nil {
		return err
	}
	if err := h.send(); err != nil {
		return err
	}
	stream := tlsstream.Server(c.transport, h.server.config.TLS.Keys().config())
	if err := stream.Handshake(); err != nil {
		return tlsFailed(err)
	}
	c.tls, c.socket = stream, stream
	certificates := certificateNames(stream.ConnectionState())
	h.server.noteTLS(c, certificates)
	*h = handshake{server: h.server, connection: c, fixed: h.fixed, noZeroes: h.noZeroes}
	return nil
}

// tlsFailed gives a failed TLS handshake its reason. A client that leaves in the
// middle of one counts as failed: that is how some say that they do not like
// our certificate.
func tlsFailed(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &handshakeError{failedTimeout, err}
	}
	return &handshakeError{failedTLS, err}
}

// certificateNames are the names of a client whose certificate was verified:
// subject common name, DNS names and URIs.
func certificateNames(state tls.ConnectionState) []string {
	if len(state.VerifiedChains) == 0 {
		return nil
	}
	leaf := state.PeerCertificates[0]
	var names []string
	if leaf.Subject.CommonName != "" {
		names = append(names, leaf.Subject.CommonName)
	}
	names = append(names, leaf.DNSNames...)
	for _, uri := range leaf.URIs {
		names = append(names, uri.String())
	}
	return names
}

// isLocal says whether the client is on this host for certain.
func (c *connection) isLocal() bool {
	_, local := c.transport.(*net.UnixConn)
	return local
}
