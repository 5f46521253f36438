package nbd

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// scriptedConn is a socket whose peer has said everything it will ever say.
type scriptedConn struct {
	net.Conn // nil; other methods are not called
	input    *bytes.Reader

	mu     sync.Mutex
	output []byte // guarded by mu
	closed bool   // guarded by mu
}

func (c *scriptedConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	return c.input.Read(p)
}

func (c *scriptedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	c.output = append(c.output, p...)
	return len(p), nil
}

func (c *scriptedConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

func (c *scriptedConn) RemoteAddr() net.Addr             { return &net.UnixAddr{Net: "unix"} }
func (c *scriptedConn) SetDeadline(time.Time) error      { return nil }
func (c *scriptedConn) SetReadDeadline(time.Time) error  { return nil }
func (c *scriptedConn) SetWriteDeadline(time.Time) error { return nil }

// converse runs a connection to its end and returns what the server said.
func converse(t *testing.T, s *Server, input []byte) []byte {
	c := &scriptedConn{input: bytes.NewReader(input)}
	s.admit(c)
	if err := s.waitEmpty(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := s.Stats().Panics; n > 0 {
		t.Fatalf("%d panics", n)
	}
	if lent := s.Stats().Buffers.PoolLent; lent != 0 {
		t.Fatalf("%d bytes are still lent", lent)
	}
	return c.output
}

func fuzzServer(f *testing.F, devices ...*memoryDevice) *Server {
	var exports []Export
	for i, d := range devices {
		exports = append(exports, Export{Name: []string{"swap", "two"}[i], Description: "fuzzed", Device: d})
	}
	s, err := NewServer(Config{Exports: exports, Workers: 2, MaxOutstanding: 3, BufferBytes: MaxPayload})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	return s
}

// Whatever a client says, the server answers in well-formed replies, at most
// one end to each option, and nothing breaks.
func FuzzHandshake(f *testing.F) {
	s := fuzzServer(f, newMemoryDevice(16<<10), newMemoryDevice(8192))
	for _, test := range handshakeCases() {
		if len(test.send) < 8192 {
			f.Add(test.flags, test.send)
		}
	}
	f.Fuzz(func(t *testing.T, flags uint32, input []byte) {
		output := converse(t, s, join(be32(flags), input))
		want := join(be64(protocol.NEGOTIATION_MAGIC_OLDSTYLE), be64(protocol.NEGOTIATION_MAGIC_OPTION), be16(3))
		if !bytes.HasPrefix(output, want) {
			t.Fatalf("greeting % x", output[:min(len(output), 18)])
		}
		output = output[18:]
		if flags > 3 && len(output) > 0 {
			t.Fatalf("answered % x to client flags %#x", output, flags)
		}
		for endings := 0; len(output) > 0; {
			if binary.BigEndian.Uint64(output) != protocol.NEGOTIATION_MAGIC_REPLY {
				return // an EXPORT_NAME was answered, which looks like nothing
			}
			id, kind := binary.BigEndian.Uint32(output[8:]), binary.BigEndian.Uint32(output[12:])
			length := binary.BigEndian.Uint32(output[16:])
			if length >= 4096 {
				t.Fatalf("a reply of %d bytes", length)
			}
			output = output[20+length:]
			if kind == repAck || kind&(1<<31) != 0 {
				endings++
			}
			if endings > maxOptions {
				t.Fatalf("%d options answered", endings)
			}
			if id == optGo && kind == repAck {
				return
			}
		}
	})
}

// Whatever is requested, each request up to the first fatal one gets exactly
// one reply, with the errno that a simple reading of the protocol gives, and
// reads of what nobody changed bring what is there.
func FuzzTransmission(f *testing.F) {
	const size = 64 << 10
	for _, seed := range [][]byte{
		join(requestBytes(0, wireRead, 1, 4096, 4096), requestBytes(0, wireWrite, 2, 0, 100, filled(100)...), requestBytes(0, wireFlush, 3, 0, 0)),
		join(requestBytes(1, wireTrim, 1, 0, size), requestBytes(2, wireWriteZeroes, 2, 5, 1000), requestBytes(0, wireDisconnect, 3, 0, 0)),
		join(requestBytes(0, wireRead, 1, size, 1), requestBytes(0, wireWrite, 2, size, 10, filled(10)...), requestBytes(0, wireRead, 3, 0, MaxPayload+1)),
		join(requestBytes(0, wireWrite, 1, 1<<64-1, 3, filled(3)...), requestBytes(0, 7, 2, 0, 1<<31), requestBytes(0, wireWrite, 9, 0, MaxPayload+1)),
		join(requestBytes(8, wireWrite, 1, 0, 30, filled(30)...), requestBytes(0, wireWrite, 2, 0, 5000, filled(4000)...)),
		join(requestBytes(0, wireRead, 1, 0, size), requestBytes(0, wireRead, 1, 0, size), requestBytes(0, wireRead, 1, 7, 0)),
	} {
		f.Add(false, seed)
		f.Add(true, seed)
	}
	hello := join(be32(3), option(optGo, infoData("swap")))
	f.Fuzz(func(t *testing.T, refuse bool, input []byte) {
		device := newMemoryDevice(size)
		if refuse {
			device.refuse = always
		}
		original := device.bytes()
		s, err := NewServer(Config{
			Exports: []Export{{Name: "swap", Device: device}}, Workers: 2, MaxOutstanding: 3, BufferBytes: MaxPayload,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		input = numbered(input)
		want, changed := readStream(input, size)
		output := converse(t, s, join(hello, input))
		output = output[18+20+12+20:]
		for len(output) > 0 {
			cookie, errno := binary.BigEndian.Uint64(output[8:]), binary.BigEndian.Uint32(output[4:])
			output = output[replySize:]
			expected, ok := want.take(cookie, errno)
			if !ok {
				t.Fatalf("a reply to cookie %#x with errno %d, which nothing asks for", cookie, errno)
			}
			if expected.wire != wireRead || errno != 0 {
				continue
			}
			data := output[:expected.length]
			output = output[expected.length:]
			if !changed && !bytes.Equal(data, original[expected.offset:expected.offset+uint64(expected.length)]) {
				t.Fatalf("%+v brought the wrong bytes", expected)
			}
		}
		if len(want) > 0 {
			t.Fatalf("no reply to %+v", want)
		}
		if !changed && !bytes.Equal(device.data, original) {
			t.Fatal("the device changed though no write was complete")
		}
	})
}

// numbered gives each request of a stream a cookie of its own, so that replies
// in any order can be told apart, and the magic number, which is hard to guess;
// a request that starts with 0xff keeps what it has.
func numbered(b []byte) []byte {
	b = bytes.Clone(b)
	at := 0
	for i := uint64(0); len(b)-at >= requestSize; i++ {
		if b[at] != 0xff {
			binary.BigEndian.PutUint32(b[at:], protocol.TRANSMISSION_MAGIC_REQUEST)
		}
		binary.BigEndian.PutUint64(b[at+8:], i)
		if q, _ := parseRequest(b[at:]); q.wire == wireWrite {
			at += int(min(q.length, MaxPayload))
		}
		if at += requestSize; at > len(b) {
			break
		}
	}
	return b
}

// expectation is a request and the errno of its reply.
type expectation struct {
	request
	errno uint32
}

type expectations []expectation

// take removes the first request that such a reply may belong to.
func (e *expectations) take(cookie uint64, errno uint32) (expectation, bool) {
	for i, x := range *e {
		if x.cookie == cookie && x.errno == errno {
			*e = append((*e)[:i], (*e)[i+1:]...)
			return x, true
		}
	}
	return expectation{}, false
}

// readStream is the plainest server there is: it says what each request of the
// stream must bring, and whether any of them changes the device.
func readStream(b []byte, size uint64) (want expectations, changed bool) {
	r := bytes.NewReader(b)
	for {
		var h protocol.TransmissionRequestHeader
		if binary.Read(r, binary.BigEndian, &h) != nil || h.RequestMagic != 0x25609513 || h.Type == 2 {
			return want, changed
		}
		if h.Type == 1 {
			if h.Length > 32<<20 {
				return want, changed
			}
			if n, _ := io.CopyN(io.Discard, r, int64(h.Length)); n < int64(h.Length) {
				return want, changed
			}
		}
		end := h.Offset + uint64(h.Length)
		outside := end > size || end < h.Offset
		x := expectation{request: request{h.CommandFlags, h.Type, h.Handle, h.Offset, h.Length}}
		switch {
		case h.Type > 6 || h.Type == 5,
			h.CommandFlags&^3 != 0,
			h.CommandFlags&2 != 0 && h.Type != 6,
			h.Type == 3 && (h.Offset != 0 || h.Length != 0),
			outside && (h.Type == 0 || h.Type == 4):
			x.errno = 22
		case outside:
			x.errno = 28
		case h.Type != 0 && h.Type != 3:
			changed = true
		}
		want = append(want, x)
	}
}
