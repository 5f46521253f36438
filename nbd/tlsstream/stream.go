package tlsstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
)

const (
	// recordBuffer is how many bytes of records one system call moves: four
	// records of full size, with their headers. A connection that batches has
	// one for each direction, on the Go heap, and the second only once it wrote.
	recordBuffer = 4*(recordSize+512) + 512
	// recordSize is the plaintext of a full record.
	recordSize = 16 << 10

	unlimited = -1

	// MaxHandshake bounds what the other side of a Server may send until its TLS handshake
	// is done, in bytes. crypto/tls itself would take 64 KiB of ClientHello and 256 KiB
	// of certificates from anybody. A chain of three certificates takes 6 KiB, or 20
	// with the largest post-quantum signatures.
	MaxHandshake = 32 << 10
)

// ErrHandshakeTooLong is what Handshake fails with beyond that.
var ErrHandshakeTooLong = fmt.Errorf("the client sent more than %d bytes of TLS handshake", MaxHandshake)

// Stream is an encrypted connection.
//
// Read returns what the socket held, decrypted, up to the space there is, once Batch was
// called. Write and WritePieces send their records with as few system calls as a buffer of
// 66 KiB allows. One goroutine reads; writers are serialised by the caller.
type Stream struct {
	*tls.Conn
	records *recordSocket // immutable
	pieces  *bufio.Writer // joins small pieces to full records; the writers'
}

// Server makes the server's side of a connection. Nothing is read before Handshake.
func Server(conn net.Conn, config *tls.Config) *Stream {
	records := &recordSocket{Conn: conn, allowance: MaxHandshake}
	return &Stream{Conn: tls.Server(records, config), records: records}
}

// Client makes the client's side.
func Client(conn net.Conn, config *tls.Config) *Stream {
	records := &recordSocket{Conn: conn, allowance: unlimited}
	return &Stream{Conn: tls.Client(records, config), records: records}
}

// Handshake has to come before everything else.
func (s *Stream) Handshake() error { return s.HandshakeContext(context.Background()) }

// HandshakeContext is Handshake until ctx ends.
func (s *Stream) HandshakeContext(ctx context.Context) error {
	if err := s.Conn.HandshakeContext(ctx); err != nil {
		return err
	}
	s.records.allowance = unlimited
	return nil
}

// Batch makes Read take all that the socket holds. A handshake, which reads
// a few bytes at a time, does without the buffer that it needs.
func (s *Stream) Batch() { s.records.in, s.records.patient = make([]byte, recordBuffer), true }

// Read implements net.Conn. It waits for the first record only.
func (s *Stream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if err != nil || s.records.in == nil {
		return n, err
	}
	s.records.patient = false
	for n < len(b) {
		more, err := s.Conn.Read(b[n:])
		n += more
		if err != nil {
			break // errNotHere, or one that the next Read returns again
		}
	}
	s.records.patient = true
	return n, nil
}

// Write implements net.Conn.
func (s *Stream) Write(b []byte) (int, error) {
	s.records.hold()
	n, err := s.Conn.Write(b)
	if e := s.records.release(); err == nil {
		err = e
	}
	return n, err
}

// WritePieces writes all pieces as one stream.
func (s *Stream) WritePieces(pieces net.Buffers) error {
	if s.pieces == nil {
		s.pieces = bufio.NewWriterSize(s.Conn, recordSize)
	}
	s.records.hold()
	for _, p := range pieces {
		// Its error comes back from Flush.
		_, _ = s.pieces.Write(p)
	}
	err := s.pieces.Flush()
	if e := s.records.release(); err == nil {
		err = e
	}
	return err
}

// Close implements net.Conn. It says good-bye, unless a write is under way: then
// the purpose is to break that.
func (s *Stream) Close() error {
	if !s.records.mu.TryLock() {
		return s.records.Conn.Close()
	}
	s.records.mu.Unlock()
	return s.Conn.Close()
}

// errNotHere is what recordSocket says instead of waiting. crypto/tls takes it
// for a deadline that passed: it keeps what it has of a record and goes on when
// it is asked again.
var errNotHere net.Error = notHere{}

type notHere struct{}

func (notHere) Error() string   { return "no more bytes are here" }
func (notHere) Timeout() bool   { return true }
func (notHere) Temporary() bool { return true }

// recordSocket is the socket as crypto/tls sees it. Reading belongs to the
// connection's goroutine; crypto/tls writes from others too (it answers key
// updates while it reads).
type recordSocket struct {
	net.Conn
	allowance int    // bytes that may still be read, or unlimited
	in        []byte // what was read ahead is in[start:end]; nil reads nothing ahead
	start     int
	end       int
	patient   bool // wait if nothing is here; counts once there is in

	mu      sync.Mutex // held over writes to the socket; the last of all locks
	out     []byte     // records held back
	holding bool
}

// Read implements net.Conn.
func (r *recordSocket) Read(b []byte) (int, error) {
	if r.in == nil {
		return r.readDirect(b)
	}
	if r.start == r.end {
		if !r.patient {
			return 0, errNotHere
		}
		n, err := r.Conn.Read(r.in)
		r.start, r.end = 0, n
		if n == 0 {
			return 0, err
		}
	}
	n := copy(b, r.in[r.start:r.end])
	r.start += n
	return n, nil
}

// readDirect reads within the allowance.
func (r *recordSocket) readDirect(b []byte) (int, error) {
	if r.allowance == unlimited {
		return r.Conn.Read(b)
	}
	if r.allowance == 0 {
		return 0, ErrHandshakeTooLong
	}
	n, err := r.Conn.Read(b[:min(len(b), r.allowance)])
	r.allowance -= n
	return n, err
}

// Write implements net.Conn.
func (r *recordSocket) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.out)+len(b) > recordBuffer || !r.holding {
		if err := r.flushLocked(); err != nil {
			return 0, err
		}
	}
	if r.holding && len(b) <= recordBuffer {
		r.out = append(r.out, b...)
		return len(b), nil
	}
	return r.Conn.Write(b)
}

// hold keeps back what is written until release, or until it is a buffer full.
func (r *recordSocket) hold() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holding = true
}

func (r *recordSocket) release() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holding = false
	return r.flushLocked()
}

func (r *recordSocket) flushLocked() error {
	if len(r.out) == 0 {
		return nil
	}
	_, err := r.Conn.Write(r.out)
	r.out = r.out[:0]
	return err
}
