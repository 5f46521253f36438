package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// Options and replies by the names that tests use.
const (
	optAbort = protocol.NEGOTIATION_ID_OPTION_ABORT
	optList  = protocol.NEGOTIATION_ID_OPTION_LIST
	optInfo  = protocol.NEGOTIATION_ID_OPTION_INFO
	optGo    = protocol.NEGOTIATION_ID_OPTION_GO

	repAck     = protocol.NEGOTIATION_TYPE_REPLY_ACK
	repServer  = protocol.NEGOTIATION_TYPE_REPLY_SERVER
	repInfo    = protocol.NEGOTIATION_TYPE_REPLY_INFO
	repUnsup   = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
	repUnknown = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN
)

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func be64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// option encodes an option with its data.
func option(id uint32, data ...[]byte) []byte {
	d := join(data...)
	return join(optionHeader(id, uint32(len(d))), d)
}

// optionHeader encodes an option's header alone.
func optionHeader(id, length uint32) []byte {
	return join(be64(protocol.NEGOTIATION_MAGIC_OPTION), be32(id), be32(length))
}

// infoData is the data of INFO and GO.
func infoData(name string, infos ...uint16) []byte {
	b := join(be32(uint32(len(name))), []byte(name), be16(uint16(len(infos))))
	for _, i := range infos {
		b = append(b, be16(i)...)
	}
	return b
}

// requestBytes encodes a request with its payload.
func requestBytes(flags, command uint16, cookie, offset uint64, length uint32, payload ...byte) []byte {
	return join(be32(protocol.TRANSMISSION_MAGIC_REQUEST), be16(flags), be16(command),
		be64(cookie), be64(offset), be32(length), payload)
}

// testClient speaks NBD badly or well, as told.
type testClient struct {
	t testing.TB
	net.Conn
}

// dial connects without a word.
func (s *testServer) dial(t testing.TB) *testClient {
	t.Helper()
	c, err := net.Dial("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return newTestClient(t, c)
}

func newTestClient(t testing.TB, c net.Conn) *testClient {
	// A test that hangs says nothing: fail instead.
	if err := c.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &testClient{t, c}
}

// greeted connects and answers the greeting with flags.
func (s *testServer) greeted(t testing.TB, flags uint32) *testClient {
	t.Helper()
	c := s.dial(t)
	c.greeting()
	c.send(be32(flags))
	return c
}

// attached connects to the export called name.
func (s *testServer) attached(t testing.TB, name string) *testClient {
	t.Helper()
	c := s.greeted(t, 3)
	c.goTo(name)
	return c
}

func (c *testClient) greeting() {
	c.t.Helper()
	want := join(be64(protocol.NEGOTIATION_MAGIC_OLDSTYLE), be64(protocol.NEGOTIATION_MAGIC_OPTION), be16(3))
	if got := c.read(18); !bytes.Equal(got, want) {
		c.t.Fatalf("greeting % x, want % x", got, want)
	}
}

func (c *testClient) goTo(name string) {
	c.t.Helper()
	c.send(option(optGo, infoData(name)))
	c.expectReply(optGo, repInfo)
	c.expectReply(optGo, repAck)
}

func (c *testClient) send(parts ...[]byte) {
	c.t.Helper()
	if _, err := c.Write(join(parts...)); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// sendLoose sends to a server that may have hung up by now.
func (c *testClient) sendLoose(b []byte) {
	c.t.Helper()
	if _, err := c.Write(b); err != nil && !hungUp(err) {
		c.t.Fatalf("send: %v", err)
	}
}

func (c *testClient) read(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if m, err := io.ReadFull(c, b); err != nil {
		c.t.Fatalf("read %d bytes, got %d: %v", n, m, err)
	}
	return b
}

// expectReply reads a reply to an option and returns its data.
func (c *testClient) expectReply(id, kind uint32) []byte {
	c.t.Helper()
	h := c.read(20)
	if magic := binary.BigEndian.Uint64(h); magic != protocol.NEGOTIATION_MAGIC_REPLY {
		c.t.Fatalf("reply magic %#x", magic)
	}
	gotID, gotKind := binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:])
	data := c.read(int(binary.BigEndian.Uint32(h[16:])))
	if gotID != id || gotKind != kind {
		c.t.Fatalf("reply to option %d of type %#x (%q), want option %d, type %#x", gotID, gotKind, data, id, kind)
	}
	return data
}

// nextOption reads a reply to an option.
func (c *testClient) nextOption() (id, kind uint32) {
	c.t.Helper()
	h := c.read(20)
	c.read(int(binary.BigEndian.Uint32(h[16:])))
	return binary.BigEndian.Uint32(h[8:]), binary.BigEndian.Uint32(h[12:])
}

// expectClosed checks that the server says nothing more and hangs up.
func (c *testClient) expectClosed() {
	c.t.Helper()
	n, err := c.Read(make([]byte, 64))
	if n > 0 || (!errors.Is(err, io.EOF) && !hungUp(err)) {
		c.t.Fatalf("read %d bytes (%v), want the end of the stream", n, err)
	}
}

// hungUp says whether err means that the peer closed the socket.
func hungUp(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// expect reads a transmission reply for cookie and returns n bytes of data.
func (c *testClient) expect(cookie uint64, errno uint32, n int) []byte {
	c.t.Helper()
	gotCookie, gotErrno := c.nextReply()
	if gotCookie != cookie || gotErrno != errno {
		c.t.Fatalf("reply to cookie %#x with errno %d, want cookie %#x, errno %d", gotCookie, gotErrno, cookie, errno)
	}
	if errno != 0 {
		return nil
	}
	return c.read(n)
}

// nextReply reads a transmission reply's header.
func (c *testClient) nextReply() (cookie uint64, errno uint32) {
	c.t.Helper()
	h := c.read(replySize)
	if magic := binary.BigEndian.Uint32(h); magic != protocol.TRANSMISSION_MAGIC_REPLY {
		c.t.Fatalf("reply magic %#x", magic)
	}
	return binary.BigEndian.Uint64(h[8:]), binary.BigEndian.Uint32(h[4:])
}

// readBack reads from the export with a request of its own.
func (c *testClient) readBack(offset uint64, n int) []byte {
	c.t.Helper()
	const cookie = 0xbeefcafe
	c.send(requestBytes(0, wireRead, cookie, offset, uint32(n)))
	return c.expect(cookie, 0, n)
}
