package nbd

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestShutdownWaitsForClients(t *testing.T) {
	s, device := twoExports(t)
	c := s.attached(t, "swap")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("with a client attached: %v", err)
	}
	if !bytes.Equal(c.readBack(0, 16), device.data[:16]) {
		t.Error("the client is not served any more")
	}
	if _, err := net.Dial("unix", s.path); err == nil {
		t.Error("still accepting")
	}
	done := make(chan error)
	go func() { done <- s.Shutdown(context.Background(), false) }()
	c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// New requests and options are refused while a request in flight is finished.
func TestForcedShutdown(t *testing.T) {
	device := newMemoryDevice(8 << 20)
	device.gate = make(chan struct{})
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}, ShutdownGrace: time.Hour})
	open := device.opener(t)
	busy, early := s.attached(t, "swap"), s.greeted(t, 1)
	busy.send(requestBytes(0, wireFlush, 1, 0, 0))
	eventually(t, "the request is with the device", func() bool { return device.waiting.Load() == 1 })

	done := make(chan error)
	go func() { done <- s.Shutdown(context.Background(), true) }()
	eventually(t, "the shutdown began", s.draining.Load)

	early.send(option(optList), option(optInfo, infoData("swap")), option(optGo, infoData("swap")), option(optAbort))
	early.expectReply(optList, replyErrShutdown)
	early.expectReply(optInfo, replyErrShutdown)
	early.expectReply(optGo, replyErrShutdown)
	early.expectReply(optAbort, repAck)

	before := device.bytes()
	busy.send(requestBytes(0, wireRead, 2, 0, 4096), requestBytes(0, wireWrite, 3, 0, 3<<20, filled(3<<20)...),
		requestBytes(0, wireTrim, 4, 0, 4096))
	busy.expect(2, errnoShutdown, 0)
	busy.expect(3, errnoShutdown, 0)
	busy.expect(4, errnoShutdown, 0)
	open()
	busy.expect(1, 0, 0)
	busy.send(requestBytes(0, wireDisconnect, 0, 0, 0))
	busy.expectClosed()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(device.bytes(), before) {
		t.Error("a request was served after the shutdown began")
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "again.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(context.Background(), l); !errors.Is(err, ErrServerClosed) {
		t.Errorf("Serve after a shutdown: %v", err)
	}
}

// When the grace is over, connections are closed: idle ones, those that go on
// asking, and those that wait for a device once they have their reply.
func TestForcedShutdownEnds(t *testing.T) {
	device := newMemoryDevice(1 << 20)
	device.gate = make(chan struct{})
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}, ShutdownGrace: time.Millisecond})
	open := device.opener(t)
	idle, busy, early := s.attached(t, "swap"), s.attached(t, "swap"), s.greeted(t, 1)
	busy.send(requestBytes(0, wireFlush, 1, 0, 0))
	eventually(t, "the request is with the device", func() bool { return device.waiting.Load() == 1 })
	done := make(chan error)
	go func() { done <- s.Shutdown(context.Background(), true) }()
	idle.expectClosed()
	early.expectClosed()
	eventually(t, "only the one with a request at the device is left", func() bool { return s.Stats().Connections.Now == 1 })
	open()
	busy.expect(1, 0, 0)
	busy.expectClosed()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A client that takes no replies is cut when the caller's patience ends.
func TestForcedShutdownCuts(t *testing.T) {
	device := newMemoryDevice(8 << 20)
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}, ShutdownGrace: time.Millisecond})
	flood(t, s.attached(t, "swap"), 1<<20)
	eventually(t, "a reply is due that the socket does not hold", func() bool { return device.tries.Load() > 0 })
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx, true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if err := s.Shutdown(context.Background(), true); err != nil {
		t.Errorf("the second Shutdown: %v", err)
	}
}

// Close ends every kind of connection and waits for what a device works on.
func TestClose(t *testing.T) {
	device := newMemoryDevice(8 << 20)
	device.gate = make(chan struct{})
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}})
	idle, busy, half := s.attached(t, "swap"), s.attached(t, "swap"), s.greeted(t, 1)
	s.dial(t)
	flood(t, s.attached(t, "swap"), 1<<20)
	partial := s.attached(t, "swap")
	partial.send(requestBytes(0, wireWrite, 1, 0, 4<<20, filled(1000)...))
	half.send(optionHeader(optGo, 10))
	busy.send(requestBytes(0, wireFlush, 1, 0, 0))
	eventually(t, "the request is with the device", func() bool { return device.waiting.Load() == 1 })
	open := device.opener(t)
	closed := make(chan error, 2)
	go func() { closed <- s.Close() }()
	go func() { closed <- s.Close() }()
	idle.expectClosed()
	select {
	case <-closed:
		t.Error("Close returned while a device worked on a request")
	case <-time.After(20 * time.Millisecond):
	}
	open()
	for range 2 {
		if err := <-closed; err != nil {
			t.Error(err)
		}
	}
	if got := s.Stats().Connections; got.Now != 0 || got.Handshaking != 0 {
		t.Errorf("after Close: %+v", got)
	}
}

func TestSeveralListeners(t *testing.T) {
	s, device := twoExports(t)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, tcp) }()
	socket, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	remote := newTestClient(t, socket)
	remote.greeting()
	remote.send(be32(1))
	remote.goTo("zweite Auslagerung")
	local := s.attached(t, "swap")

	clients := s.Clients()
	if len(clients) != 2 {
		t.Fatalf("clients: %+v", clients)
	}
	if got := clients[0]; got.Remote != socket.LocalAddr().String() || got.Credentials != nil || got.Export != "zweite Auslagerung" {
		t.Errorf("over TCP: %+v", got)
	}
	want := Credentials{PID: int32(os.Getpid()), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	if got := clients[1]; got.Remote != "unix" || got.Credentials == nil || *got.Credentials != want ||
		got.Export != "swap" || got.ID <= clients[0].ID || got.Since.IsZero() {
		t.Errorf("over a Unix socket: %+v, %+v", got, got.Credentials)
	}

	// One Serve ends: its connections and the other listener live on.
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if c, err := net.Dial("tcp", tcp.Addr().String()); err == nil {
		c.Close()
		t.Error("still accepting over TCP")
	}
	remote.readBack(0, 4096)
	if !bytes.Equal(local.readBack(0, 4096), device.data[:4096]) {
		t.Error("read the wrong bytes")
	}
	s.attached(t, "swap").readBack(0, 1)

	// The same for StopAccepting, after which Serve may be called again.
	s.StopAccepting()
	eventually(t, "nobody accepts", func() bool {
		c, err := net.Dial("unix", s.path)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	local.readBack(0, 4096)
	again, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { served <- s.Serve(context.Background(), again) }()
	s.attached(t, "swap").readBack(0, 1)
	s.StopAccepting()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// brokenListener fails at once with something, as often as told.
type brokenListener struct {
	net.Listener
	errors []error
}

func (l *brokenListener) Accept() (net.Conn, error) {
	err := l.errors[0]
	l.errors = l.errors[1:]
	return nil, err
}

func TestListenerFails(t *testing.T) {
	s, _ := twoExports(t)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "broken.sock"))
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("socket caught fire")
	passing := &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	err = s.Serve(context.Background(), &brokenListener{l, []error{passing, passing, broken}})
	if !errors.Is(err, broken) {
		t.Errorf("Serve: %v", err)
	}
}

func TestConfigLimits(t *testing.T) {
	for _, config := range []Config{
		{MaxConnections: -1}, {MaxHandshakes: -1}, {Workers: -1}, {MaxOutstanding: -1},
		{HandshakeTimeout: -1}, {StallTimeout: -1}, {ShutdownGrace: -1},
		{BufferBytes: -1}, {BufferBytes: MaxPayload - 1},
	} {
		if _, err := NewServer(config); err == nil {
			t.Errorf("accepted %+v", config)
		}
	}
	s, err := NewServer(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close of a server that never served: %v", err)
	}
}
