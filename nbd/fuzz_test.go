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

// Whatever is requested in whatever framing, each request up to the first fatal
// one gets exactly one reply, with the errno that a simple reading of the protocol
// gives, and reads of what nobody changed bring what is there.
func FuzzTransmission(f *testing.F) {
	const size = 64 << 10
	for _, seed := range [][]byte{
		join(requestBytes(0, wireRead, 1, 4096, 4096), requestBytes(0, wireWrite, 2, 0, 100, filled(100)...), requestBytes(0, wireFlush, 3, 0, 0)),
		join(requestBytes(1, wireTrim, 1, 0, size), requestBytes(2, wireWriteZeroes, 2, 5, 1000), requestBytes(0, wireDisconnect, 3, 0, 0)),
		join(requestBytes(0, wireRead, 1, size, 1), requestBytes(0, wireWrite, 2, size, 10, filled(10)...), requestBytes(0, wireRead, 3, 0, MaxPayload+1)),
		join(requestBytes(0, wireWrite, 1, 1<<64-1, 3, filled(3)...), requestBytes(0, 7, 2, 0, 1<<31), requestBytes(0, wireWrite, 9, 0, MaxPayload+1)),
		join(requestBytes(8, wireWrite, 1, 0, 30, filled(30)...), requestBytes(0, wireWrite, 2, 0, 5000, filled(4000)...)),
		join(requestBytes(0, wireRead, 1, 0, size), requestBytes(0, wireRead, 1, 0, size), requestBytes(0, wireRead, 1, 7, 0)),
		join(requestBytes(8, wireBlockStatus, 1, 5, size-5), requestBytes(0, wireCache, 1, 0, size), requestBytes(4, wireRead, 1, 1, 9999)),
	} {
		f.Add(uint8(framingSimple), false, seed)
		f.Add(uint8(framingStructured), true, seed)
	}
	for _, seed := range [][]request{
		{{wire: wireRead, length: 9000}, {wire: wireTrim, length: size}, {wire: wireFlush}},
		{{wire: wireBlockStatus, offset: 7, length: 30000}, {wire: wireWriteZeroes, flags: commandFastZero, length: 1 << 40}, {wire: wireCache}},
		{{wire: wireRead, flags: commandDF, length: size}, {wire: wireTrim, flags: commandPayloadLen, length: 32}, {wire: wireDisconnect}, {wire: wireDisconnect}},
	} {
		var stream []byte
		for _, q := range seed {
			stream = append(stream, framingExtended.encode(q)...)
		}
		f.Add(uint8(framingExtended), false, stream)
		f.Add(uint8(framingExtended), true, stream)
	}
	f.Fuzz(func(t *testing.T, mode uint8, refuse bool, input []byte) {
		framing := framing(mode % 3)
		device := newMemoryDevice(size)
		punctured(device, 0x71a4)
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
		input = framing.numbered(input)
		want, changed := framing.readStream(input, size)
		hello, welcome := be32(3), 18
		switch framing {
		case framingStructured:
			hello, welcome = append(hello, option(optionStructuredReply)...), welcome+20
		case framingExtended:
			hello, welcome = append(hello, option(optionExtendedHeaders)...), welcome+20
		}
		if framing != framingSimple {
			hello, welcome = append(hello, option(optionSetMetaContext, metaData("", allocationName))...), welcome+20+4+len(allocationName)+20
		}
		hello, welcome = append(hello, option(optGo, infoData("swap"))...), welcome+20+12+20
		output := bytes.NewReader(converse(t, s, join(hello, input))[welcome:])
		for output.Len() > 0 {
			a, err := readAnswer(output, framing, want.find)
			if err != nil {
				t.Fatal(err)
			}
			expected, ok := want.take(a.cookie, a.errno)
			if !ok {
				t.Fatalf("a reply to cookie %#x with errno %d, which nothing asks for", a.cookie, a.errno)
			}
			if expected.wire != wireRead || a.errno != 0 {
				continue
			}
			if !changed && !bytes.Equal(a.data, original[expected.offset:expected.offset+expected.length]) {
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
func (f framing) numbered(b []byte) []byte {
	b = bytes.Clone(b)
	magic := uint32(0x25609513)
	if f == framingExtended {
		magic = 0x21e41c71
	}
	at := 0
	for i := uint64(0); len(b)-at >= f.requestSize(); i++ {
		if b[at] != 0xff {
			binary.BigEndian.PutUint32(b[at:], magic)
		}
		binary.BigEndian.PutUint64(b[at+8:], i)
		if q, _ := f.parse(b[at:]); f.hasPayload(q) {
			at += int(min(q.length, MaxPayload))
		}
		if at += f.requestSize(); at > len(b) {
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

// find returns a request that has the cookie.
func (e *expectations) find(cookie uint64) (request, bool) {
	for _, x := range *e {
		if x.cookie == cookie {
			return x.request, true
		}
	}
	return request{}, false
}

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
func (f framing) readStream(b []byte, size uint64) (want expectations, changed bool) {
	r := bytes.NewReader(b)
	const fua, noHole, df, one, fast, payload = 1, 2, 4, 8, 16, 32
	for {
		var h struct {
			Magic       uint32
			Flags, Type uint16
			Cookie      uint64
			Offset      uint64
		}
		var short uint32
		var length uint64
		if binary.Read(r, binary.BigEndian, &h) != nil {
			return want, changed
		}
		if f == framingExtended {
			if binary.Read(r, binary.BigEndian, &length) != nil || h.Magic != 0x21e41c71 {
				return want, changed
			}
		} else {
			if binary.Read(r, binary.BigEndian, &short) != nil || h.Magic != 0x25609513 {
				return want, changed
			}
			length = uint64(short)
		}
		carries := h.Type == 1 || f == framingExtended && h.Flags&payload != 0
		if h.Type == 2 && !carries {
			return want, changed
		}
		if carries {
			if length > 32<<20 {
				return want, changed
			}
			if n, _ := io.CopyN(io.Discard, r, int64(length)); n < int64(length) {
				return want, changed
			}
		}
		legal := map[uint16]uint16{0: fua, 1: fua, 3: fua, 4: fua, 5: fua, 6: fua | noHole | fast, 7: fua | one}[h.Type]
		if h.Type == 0 && f != framingSimple {
			legal |= df
		}
		if h.Type == 1 && f == framingExtended {
			legal |= payload
		}
		end := h.Offset + length
		outside := end > size || end < h.Offset
		x := expectation{request: request{h.Flags, h.Type, h.Cookie, h.Offset, length}}
		switch {
		case h.Type > 7 || h.Type == 2,
			h.Flags&^legal != 0,
			h.Type == 3 && (h.Offset != 0 || length != 0),
			h.Type == 7 && (f == framingSimple || length == 0),
			outside && h.Type != 1 && h.Type != 6:
			x.errno = 22
		case outside:
			x.errno = 28
		case h.Type == 1 || h.Type == 4 || h.Type == 6:
			changed = true
		}
		want = append(want, x)
	}
}
