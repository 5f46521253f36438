package nbd

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/tmemd/tmemd/nbd/tlstest"
)

func sessionOption(id byte, generation uint64) []byte {
	return option(OptionSession, bytes.Repeat([]byte{id}, SessionSize), be64(generation))
}

// join sends OptionSession and expects an answer of the kind.
func (c *testClient) join(id byte, generation uint64, kind uint32) {
	c.t.Helper()
	c.send(sessionOption(id, generation))
	c.expectReply(OptionSession, kind)
}

func TestSessionEndsOlderConnections(t *testing.T) {
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: newMemoryDevice(1 << 20)}}})
	attach := func(id byte, generation uint64) *testClient {
		c := s.greeted(t, 3)
		c.join(id, generation, repAck)
		c.goTo("swap")
		return c
	}
	outsider := s.attached(t, "swap")
	first, second := attach(1, 10), attach(1, 10)
	other := attach(2, 5)
	negotiating := s.greeted(t, 3)
	negotiating.join(1, 10, repAck)

	// Two of one generation live side by side; another session is left alone.
	for _, c := range []*testClient{outsider, first, second, other} {
		c.readBack(0, 16)
	}
	newer := attach(1, 11)
	for _, c := range []*testClient{first, second, negotiating} {
		c.expectClosed()
	}
	for _, c := range []*testClient{outsider, other, newer} {
		c.readBack(0, 16)
	}
	late := s.greeted(t, 3)
	late.join(1, 10, replyErrPolicy)
	newer.readBack(0, 16)
}

// TestSessionWaitsForRequests: what an older connection still has the device do
// is over when the newer one is let in.
func TestSessionWaitsForRequests(t *testing.T) {
	device := newMemoryDevice(1 << 20)
	device.refuse, device.gate = func() bool { return true }, make(chan struct{})
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}})
	open := device.opener(t)
	older := s.greeted(t, 3)
	older.join(1, 1, repAck)
	older.goTo("swap")
	older.send(requestBytes(0, wireWrite, 1, 0, 4096, bytes.Repeat([]byte{'o'}, 4096)...))
	eventually(t, "the write waits in the device", func() bool { return device.waiting.Load() == 1 })

	newer := s.greeted(t, 3)
	newer.send(sessionOption(1, 2))
	older.expectClosed()
	if err := newer.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := newer.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Fatal("the newer connection was let in while the older one still writes")
	}
	if err := newer.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	open()
	newer.expectReply(OptionSession, repAck)
	if n := device.writes.Load(); n == 0 {
		t.Error("the older connection's write was let go of and is not done yet")
	}
}

// TestSessionGivesUpWaiting: a device that hangs does not hang a handshake.
func TestSessionGivesUpWaiting(t *testing.T) {
	device := newMemoryDevice(1 << 20)
	device.refuse, device.gate = func() bool { return true }, make(chan struct{})
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}, HandshakeTimeout: 400 * time.Millisecond})
	device.opener(t)
	older := s.greeted(t, 3)
	older.join(1, 1, repAck)
	older.goTo("swap")
	older.send(requestBytes(0, wireRead, 1, 0, 4096))
	eventually(t, "the read waits in the device", func() bool { return device.waiting.Load() == 1 })
	newer := s.greeted(t, 3)
	newer.send(sessionOption(1, 2))
	newer.expectReply(OptionSession, replyErrPolicy)
}

func TestSessionRefusesWhatIsNone(t *testing.T) {
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: newMemoryDevice(1 << 20)}}})
	c := s.greeted(t, 3)
	for _, data := range [][]byte{nil, filled(1), filled(SessionSize), filled(SessionSize + 7), filled(SessionSize + 9), filled(70 << 10), make([]byte, SessionSize+8)} {
		c.send(option(OptionSession, data))
		c.expectReply(OptionSession, replyErrInvalid)
	}
	c.join(1, 0, repAck) // and the framing is kept
	c.goTo("swap")
}

// TestSessionForgottenByTLS: one that was said in the clear may be anybody's, and
// does not count (N9). Said again, it does.
func TestSessionForgottenByTLS(t *testing.T) {
	a := tlstest.NewAuthority(t, "tmemd test")
	s := startServer(t, Config{
		Exports: []Export{{Name: "swap", Device: newMemoryDevice(1 << 20)}}, TLS: TLS{Mode: TLSOptional, Keys: newTestKeys(a.Server(t), nil).Load},
	})
	attach := func(again bool) *testClient {
		c := s.greeted(t, 3)
		c.join(1, 10, repAck)
		c, err := c.startTLS(trusting(a))
		if err != nil {
			t.Fatal(err)
		}
		if again {
			c.join(1, 10, repAck)
		}
		c.goTo("swap")
		return c
	}
	outside, inside := attach(false), attach(true)
	newer := s.greeted(t, 3)
	newer.join(1, 11, repAck)
	inside.expectClosed()
	outside.readBack(0, 16)
}

// untouchable is a connection's socket that only its own goroutine may use.
type untouchable struct {
	net.Conn
	t *testing.T
}

func (u untouchable) Close() error {
	u.t.Error("the socket was closed, which may block, and is the connection's own")
	return nil
}

// TestSessionClosesTransports: what ends another connection neither waits for its
// TLS nor looks at what startTLS replaces.
func TestSessionClosesTransports(t *testing.T) {
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: newMemoryDevice(1 << 20)}}})
	server, client := net.Pipe()
	defer client.Close()
	if err := client.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	older := newConnection(s.Server, server, 1)
	older.session = session{id: [SessionSize]byte{1}, generation: 1}
	older.socket = untouchable{server, t}
	s.mu.Lock()
	s.connections[older] = struct{}{}
	s.mu.Unlock()
	ended, ok := s.joinSession(newConnection(s.Server, server, 2), session{id: older.session.id, generation: 2})
	s.mu.Lock()
	delete(s.connections, older)
	s.mu.Unlock()
	if !ok || len(ended) != 1 || ended[0] != older {
		t.Fatalf("joinSession ends %v, %t", ended, ok)
	}
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the older connection's client reads: %v", err)
	}
}
