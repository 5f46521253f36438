package nbd

import "slices"

// Access says who may open an export: whoever one of its rules fits, and nobody
// else.
//
// An export without rules (nil) is open to all who can connect, with one
// exception: if the server knows clients by certificates, it is closed to those
// that do not come over a Unix socket.
type Access struct {
	// Certificates are names of clients that showed a certificate: subject
	// common name, DNS name or URI, compared byte by byte.
	Certificates   []string
	AnyCertificate bool

	// User and group of the process that connected to a Unix socket, as
	// SO_PEERCRED tells them. Its supplementary groups do not count.
	UIDs []uint32
	GIDs []uint32
}

// Reasons for not letting a client open an export, as Stats spells them.
const (
	deniedAnonymous   = "no_identity" // neither certificate nor peer credentials
	deniedCertificate = "certificate"
	deniedCredentials = "credentials"
)

func (a *Access) clone() *Access {
	if a == nil {
		return nil
	}
	return &Access{
		Certificates: slices.Clone(a.Certificates), AnyCertificate: a.AnyCertificate,
		UIDs: slices.Clone(a.UIDs), GIDs: slices.Clone(a.GIDs),
	}
}

// admits says whether a rule fits the client.
func (a *Access) admits(c *connection) bool {
	if len(c.certificate) > 0 && a.AnyCertificate {
		return true
	}
	for _, name := range c.certificate {
		if slices.Contains(a.Certificates, name) {
			return true
		}
	}
	p := c.credentials
	return p != nil && (slices.Contains(a.UIDs, p.UID) || slices.Contains(a.GIDs, p.GID))
}

// denial returns why the client may not open the export, or "" if it may.
func (s *Server) denial(c *connection, e *export) string {
	switch {
	case e.Access != nil && e.Access.admits(c):
		return ""
	case e.Access == nil && (c.isLocal() || !s.config.TLS.demandsCertificates()):
		return ""
	case len(c.certificate) > 0:
		return deniedCertificate
	case c.credentials != nil:
		return deniedCredentials
	}
	return deniedAnonymous
}

// visible lists the exports that the client may open. It learns of no others.
func (s *Server) visible(c *connection) []*export {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.visibleLocked(c)
}

func (s *Server) visibleLocked(c *connection) []*export {
	var visible []*export
	for _, e := range s.exports {
		if s.denial(c, e) == "" {
			visible = append(visible, e)
		}
	}
	return visible
}

// resolve returns the export that a client means by name, or nil. An empty name
// is the first export that it may open. One that it may not open is as unknown
// as one that there is not.
func (s *Server) resolve(c *connection, name string) *export {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.resolveLocked(c, name)
}

func (s *Server) resolveLocked(c *connection, name string) *export {
	if name == "" {
		if visible := s.visibleLocked(c); len(visible) > 0 {
			return visible[0]
		}
		return nil
	}
	e := s.findLocked(name)
	if e == nil {
		return nil
	}
	reason := s.denial(c, e)
	if reason == "" {
		return e
	}
	s.denied[reason]++
	s.log.warn("refused an export", append([]any{"export", name, "reason", reason}, c.who()...)...)
	return nil
}

// who describes the client for a log line.
func (c *connection) who() []any {
	who := []any{"client", c.remote}
	if len(c.certificate) > 0 {
		who = append(who, "certificate", c.certificate)
	}
	if p := c.credentials; p != nil {
		who = append(who, "pid", p.PID, "uid", p.UID, "gid", p.GID)
	}
	return who
}

// noteTLS notes that a connection speaks TLS, and the names that the client
// proved. A session that it was put into in the clear, perhaps by somebody
// between, is forgotten (N9).
func (s *Server) noteTLS(c *connection, names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.encrypted, c.certificate, c.session = true, names, session{}
	s.encryptions++
}
