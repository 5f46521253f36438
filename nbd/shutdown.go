package nbd

import (
	"context"
	"fmt"
	"net"
	"time"
)

// StopAccepting closes the listeners and makes their Serve calls return.
// Connections that are open live on, and Serve may be called again.
func (s *Server) StopAccepting() {
	s.mu.Lock()
	listeners := make([]net.Listener, 0, len(s.listeners))
	for l := range s.listeners {
		listeners = append(listeners, l)
	}
	clear(s.listeners)
	s.mu.Unlock()
	for _, l := range listeners {
		l.Close()
	}
}

// Shutdown stops accepting and waits until all clients are gone, or until ctx
// is done, and returns ctx's error then.
//
// Without force clients are served as long as they stay: only they can leave
// without losing something. With force new requests are answered with
// ESHUTDOWN, requests that a device works on are finished, and connections are
// closed; those whose clients do not even take replies are cut when ctx is
// done. Linux turns ESHUTDOWN into an I/O error, which kills whoever needed
// that page of a swap device: the caller must have a reason.
func (s *Server) Shutdown(ctx context.Context, force bool) error {
	if !force {
		s.StopAccepting()
		if err := s.waitEmpty(ctx); err != nil {
			return fmt.Errorf("wait for clients to leave: %w", err)
		}
		return nil
	}
	s.mu.Lock()
	s.draining.Store(true)
	deadline := time.Now().Add(s.config.ShutdownGrace)
	for c := range s.connections {
		// The only way to wake a reader that also lets it go on reading a while.
		// A socket that refuses is closed already.
		_ = c.transport.SetReadDeadline(deadline)
	}
	s.mu.Unlock()
	s.StopAccepting()
	if err := s.waitEmpty(ctx); err != nil {
		s.cutConnections()
		return fmt.Errorf("wait for requests in flight: %w", err)
	}
	return nil
}

// Close cuts all connections, waits for the requests in flight and for every
// goroutine of the server, and gives its memory back. It is for the end of a
// process or test: Shutdown before it is kinder.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.running.Wait()
		return nil
	}
	s.closed = true
	s.mu.Unlock()

	s.StopAccepting()
	s.cutConnections()
	// Without a deadline it cannot fail.
	_ = s.waitEmpty(context.Background())
	close(s.closing)
	close(s.jobs)
	s.running.Wait()
	s.pool.close()
	return nil
}

func (s *Server) cutConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.connections {
		c.transport.Close()
	}
}

// waitEmpty waits until there is no connection, or ctx is done.
func (s *Server) waitEmpty(ctx context.Context) error {
	s.mu.Lock()
	if len(s.connections) == 0 {
		s.mu.Unlock()
		return nil
	}
	if s.emptied == nil {
		s.emptied = make(chan struct{})
	}
	emptied := s.emptied
	s.mu.Unlock()
	select {
	case <-emptied:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// watch closes connections that hold buffers others wait for and do not move.
// Without it a few dead clients could keep the pool for ever.
func (s *Server) watch() {
	tick := time.NewTicker(max(s.config.StallTimeout/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-s.closing:
			return
		case <-tick.C:
		}
		if s.pool.contended() {
			s.closeStalled()
		}
	}
}

func (s *Server) closeStalled() {
	limit := s.now() - s.config.StallTimeout
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.connections {
		stalled := c.sending.since(limit) || c.receiving.since(limit)
		if !stalled || c.borrowed.Load() == 0 {
			continue
		}
		c.transport.Close()
		s.log.warn("closed a connection that holds buffers and does not move",
			"client", c.remote, "bytes", c.borrowed.Load())
	}
}
