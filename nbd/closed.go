package nbd

import (
	"context"
	"fmt"
)

// CloseExport keeps clients out of an export from now on: they are told why, if they
// may open it at all, until OpenExport. While there are clients it fails with
// ErrExportInUse.
func (s *Server) CloseExport(name, why string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.findLocked(name)
	if e == nil {
		return fmt.Errorf("export %q: %w", name, ErrExportUnknown)
	}
	if e.clients > 0 {
		return fmt.Errorf("export %q: %w", name, ErrExportInUse)
	}
	e.refusal = why
	return nil
}

// CutExport closes an export as CloseExport does, but not its clients' connections come
// first: they are cut, and no reply is sent on them any more when it returns, but for what
// a socket has taken. It does not wait for requests that a device works on; AwaitCut does.
func (s *Server) CutExport(name, why string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.findLocked(name)
	if e == nil {
		return fmt.Errorf("export %q: %w", name, ErrExportUnknown)
	}
	e.refusal = why
	for c := range s.connections {
		if c.export != nil && c.export.exportBooks == e.exportBooks {
			c.transport.Close()
		}
	}
	return nil
}

// AwaitCut waits until the export has no client.
func (s *Server) AwaitCut(ctx context.Context, name string) error {
	for {
		c := s.anyClient(name)
		if c == nil {
			return nil
		}
		select {
		case <-c.gone:
		case <-ctx.Done():
			return fmt.Errorf("wait for clients of export %q to leave: %w", name, context.Cause(ctx))
		}
	}
}

func (s *Server) anyClient(name string) *connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.findLocked(name)
	if e == nil {
		return nil
	}
	for c := range s.connections {
		if c.export != nil && c.export.exportBooks == e.exportBooks {
			return c
		}
	}
	return nil
}

// OpenExport lets clients into an export again.
func (s *Server) OpenExport(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.findLocked(name)
	if e == nil {
		return fmt.Errorf("export %q: %w", name, ErrExportUnknown)
	}
	e.refusal = ""
	return nil
}

// peek is attach without becoming a client.
func (s *Server) peek(c *connection, name string) (e *export, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e = s.resolveLocked(c, name); e != nil && e.refusal != "" {
		return nil, e.refusal
	}
	return e, ""
}
