package nbd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Config is what a server is made of. A zero limit means its default.
type Config struct {
	Exports []Export     // served from the start; AddExport adds more
	Log     *slog.Logger // nil logs nothing
	TLS     TLS

	// OwnerContext names the metadata context that tells who has a range, such as
	// "tmem:owner": namespace, colon, name. Empty, there is none.
	OwnerContext string

	HandshakeTimeout time.Duration // from accept to transmission; default 10 s
	MaxConnections   int           // open at once, handshakes included, each good for 4 MiB of buffers; default 256
	MaxHandshakes    int           // of these, not in transmission yet; default 64

	Workers        int   // goroutines for requests that wait for a device; default 256, two connections of Linux
	MaxOutstanding int   // such requests of one connection; default 128, what Linux has in flight
	BufferBytes    int64 // memory for such requests, at least MaxPayload; default 128 MiB
	TouchBuffers   bool  // fault buffers in when they are mapped: for serving the host's own swap

	// StallTimeout bounds how long a client may hold buffers that others wait
	// for without sending or taking a byte; then its connection is closed.
	// Default 2 min, generous since a client out of memory is slow. Nothing else
	// is bounded in time after the handshake.
	StallTimeout time.Duration

	// ShutdownGrace is how long a forced shutdown goes on reading requests, to
	// answer them with ESHUTDOWN. Default 200 ms.
	ShutdownGrace time.Duration
}

// ErrServerClosed is what Serve returns on a server that is shut down.
var ErrServerClosed = errors.New("NBD server is shut down")

// Reasons for refusing a connection, as Stats spells them.
const (
	refusedConnections = "connection_limit"
	refusedHandshakes  = "handshake_limit"
	refusedShutdown    = "shutdown"
)

// Server serves exports to NBD clients. Its methods may be called from any
// goroutine. Close ends it.
type Server struct {
	config Config      // immutable, defaults filled in
	log    *limitedLog // immutable
	pool   *bufferPool // immutable
	epoch  time.Time   // immutable, the zero of now

	jobs        chan *job    // holds as many as there are workers
	idleWorkers atomic.Int64 // workers that no job is reserved for
	panics      atomic.Uint64
	draining    atomic.Bool // forced shutdown: requests are answered with ESHUTDOWN

	running sync.WaitGroup // workers, watch and connections
	closing chan struct{}  // closed by Close

	mu          sync.Mutex
	exports     []*export                // guarded by mu, in the order in which they were added
	connections map[*connection]struct{} // guarded by mu
	listeners   map[net.Listener]struct{}
	handshaking int           // guarded by mu, connections not in transmission
	started     bool          // guarded by mu, workers and watch run
	closed      bool          // guarded by mu
	emptied     chan struct{} // guarded by mu; if not nil, closed when the last connection goes
	lastID      uint64        // guarded by mu, number of the newest connection and their total
	refused     map[string]uint64
	failures    map[string]uint64
	denied      map[string]uint64 // guarded by mu, exports that clients might not open, by reason
	encryptions uint64            // guarded by mu, TLS handshakes that succeeded
	removed     CommandStats      // guarded by mu, of exports that are gone
}

// NewServer returns a server for the exports of config. It runs nothing before
// Serve is called.
func NewServer(config Config) (*Server, error) {
	if err := config.complete(); err != nil {
		return nil, fmt.Errorf("NBD server: %w", err)
	}
	s := &Server{
		config:      config,
		log:         newLimitedLog(config.Log),
		pool:        newBufferPool(config.BufferBytes, config.TouchBuffers),
		epoch:       time.Now(),
		jobs:        make(chan *job, config.Workers),
		closing:     make(chan struct{}),
		connections: make(map[*connection]struct{}),
		listeners:   make(map[net.Listener]struct{}),
		refused:     make(map[string]uint64),
		failures:    make(map[string]uint64),
		denied:      make(map[string]uint64),
	}
	for _, e := range config.Exports {
		if err := s.AddExport(e); err != nil {
			return nil, fmt.Errorf("NBD server: %w", err)
		}
	}
	if config.TouchBuffers {
		if err := s.pool.prepare(); err != nil {
			s.pool.close()
			return nil, fmt.Errorf("NBD server: %w", err)
		}
	}
	return s, nil
}

// complete fills in defaults and refuses what cannot work.
func (c *Config) complete() error {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for _, limit := range []struct {
		name  string
		value *int
		zero  int
	}{
		{"MaxConnections", &c.MaxConnections, 256},
		{"MaxHandshakes", &c.MaxHandshakes, 64},
		{"Workers", &c.Workers, 256},
		{"MaxOutstanding", &c.MaxOutstanding, 128},
	} {
		if *limit.value < 0 {
			return fmt.Errorf("%s must not be negative, it is %d", limit.name, *limit.value)
		}
		if *limit.value == 0 {
			*limit.value = limit.zero
		}
	}
	for _, limit := range []struct {
		name  string
		value *time.Duration
		zero  time.Duration
	}{
		{"HandshakeTimeout", &c.HandshakeTimeout, 10 * time.Second},
		{"StallTimeout", &c.StallTimeout, 2 * time.Minute},
		{"ShutdownGrace", &c.ShutdownGrace, 200 * time.Millisecond},
	} {
		if *limit.value < 0 {
			return fmt.Errorf("%s must not be negative, it is %v", limit.name, *limit.value)
		}
		if *limit.value == 0 {
			*limit.value = limit.zero
		}
	}
	namespace, leaf, _ := strings.Cut(c.OwnerContext, ":")
	if c.OwnerContext != "" && (namespace == "" || leaf == "" || namespace == "base" ||
		len(c.OwnerContext) > maxExportName || !validString([]byte(c.OwnerContext))) {
		return fmt.Errorf("OwnerContext must be a namespace other than base, a colon and a name, it is %q", c.OwnerContext)
	}
	if c.BufferBytes == 0 {
		c.BufferBytes = 128 << 20
	}
	if c.BufferBytes < MaxPayload {
		return fmt.Errorf("BufferBytes must be at least %d, the largest request, it is %d", MaxPayload, c.BufferBytes)
	}
	return c.TLS.check()
}

// now is the server's clock: monotonic, since it was made.
func (s *Server) now() time.Duration { return time.Since(s.epoch) }

// Serve accepts connections from l until ctx is done or StopAccepting is called,
// and returns nil then, or the listener's error. It closes l. Connections that
// are open by then live on. It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if !s.addListener(l) {
		l.Close()
		return ErrServerClosed
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		s.dropListener(l)
		close(stopped)
	})
	defer func() {
		if !stop() {
			<-stopped
		}
		s.dropListener(l)
	}()
	for {
		socket, err := l.Accept()
		if err == nil {
			s.admit(socket)
			continue
		}
		if !s.hasListener(l) {
			return nil
		}
		if !passingAcceptError(err) {
			return fmt.Errorf("accept NBD connections: %w", err)
		}
		s.log.warn("cannot accept a connection", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// passingAcceptError tells errors that go away by themselves from a broken
// listener.
func passingAcceptError(err error) bool {
	for _, passing := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EPROTO,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// addListener registers l and starts the workers with the first one. It is
// false if the server is shut down.
func (s *Server) addListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.draining.Load() {
		return false
	}
	s.listeners[l] = struct{}{}
	s.startLocked()
	return true
}

// startLocked starts the server's own goroutines, once.
func (s *Server) startLocked() {
	if s.started {
		return
	}
	s.started = true
	s.idleWorkers.Store(int64(s.config.Workers))
	for range s.config.Workers {
		s.running.Go(s.work)
	}
	s.running.Go(s.watch)
}

// dropListener closes l if it is still open.
func (s *Server) dropListener(l net.Listener) {
	s.mu.Lock()
	_, open := s.listeners[l]
	delete(s.listeners, l)
	s.mu.Unlock()
	if open {
		l.Close()
	}
}

func (s *Server) hasListener(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.listeners[l]
	return ok
}

// admit serves a new connection, or closes it when there are too many.
func (s *Server) admit(socket net.Conn) {
	s.mu.Lock()
	reason := s.refusalLocked()
	if reason != "" {
		s.refused[reason]++
		s.mu.Unlock()
		socket.Close()
		s.log.warn("refused a connection", "reason", reason, "remote", remoteName(socket))
		return
	}
	s.startLocked()
	s.lastID++
	c := newConnection(s, socket, s.lastID)
	s.connections[c] = struct{}{}
	s.handshaking++
	s.running.Go(c.run)
	s.mu.Unlock()
}

func (s *Server) refusalLocked() string {
	switch {
	case s.closed || s.draining.Load():
		return refusedShutdown
	case len(s.connections) >= s.config.MaxConnections:
		return refusedConnections
	case s.handshaking >= s.config.MaxHandshakes:
		return refusedHandshakes
	}
	return ""
}

// attach makes the connection a client of the export called name, or of the
// default one if name is empty. It is nil if there is none, or no more; why is set if
// it is closed.
func (s *Server) attach(c *connection, name string) (e *export, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e = s.resolveLocked(c, name)
	if e == nil || s.draining.Load() {
		return nil, ""
	}
	if e.refusal != "" {
		return nil, e.refusal
	}
	e.clients++
	c.export = e
	s.handshaking--
	return e, ""
}

// forget takes a connection off the books: the last thing that it does.
func (s *Server) forget(c *connection, failure string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.connections, c)
	close(c.gone)
	if c.export == nil {
		s.handshaking--
	} else {
		c.export.clients--
		c.counters.snapshot(&c.export.closed)
	}
	if failure != "" {
		s.failures[failure]++
	}
	if len(s.connections) == 0 && s.emptied != nil {
		close(s.emptied)
		s.emptied = nil
	}
}

// Stats returns a snapshot for metrics.
func (s *Server) Stats() Stats {
	stats := Stats{
		Panics:  s.panics.Load(),
		Buffers: BufferStats{PoolLimit: s.config.BufferBytes},
	}
	stats.Buffers.Pool, stats.Buffers.PoolLent = s.pool.usage()

	s.mu.Lock()
	defer s.mu.Unlock()
	stats.Connections.Now = len(s.connections)
	stats.Connections.Handshaking = s.handshaking
	stats.Connections.Total = s.lastID
	stats.Connections.Refused = byReason(refusedReasons, s.refused)
	stats.HandshakeFailures = byReason(failedReasons, s.failures)
	stats.AccessDenied = byReason(deniedReasons, s.denied)
	stats.TLS.Handshakes = s.encryptions
	stats.TLS.Expires = s.config.TLS.expires()
	stats.Buffers.Connections = int64(len(s.connections)-s.handshaking) * connectionBytes

	index := make(map[*exportBooks]int, len(s.exports))
	for i, e := range s.exports {
		index[e.exportBooks] = i
		stats.Exports = append(stats.Exports, ExportStats{
			Name: e.Name, Size: int64(e.size), ReadOnly: e.ReadOnly, Clients: e.clients, Commands: e.closed,
		})
	}
	for c := range s.connections {
		if c.encrypted {
			stats.TLS.Now++
		}
		if c.export != nil {
			c.counters.snapshot(&stats.Exports[index[c.export.exportBooks]].Commands)
		}
	}
	stats.Commands = s.removed
	for i := range stats.Exports {
		stats.Commands.add(&stats.Exports[i].Commands)
	}
	return stats
}
