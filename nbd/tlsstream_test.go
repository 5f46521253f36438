package nbd

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/nbd/tlsstream"
	"github.com/tmemd/tmemd/nbd/tlstest"
)

// streamPair is a stream with its batches on, and the client at its other
// end. sockets count what either side asks of the system.
func streamPair(t *testing.T) (stream *tlsstream.Stream, client *tls.Conn, server, other *countingConn) {
	t.Helper()
	authority := tlstest.NewAuthority(t, "tmemd test")
	a, b := socketPair(t)
	server, other = &countingConn{Conn: a}, &countingConn{Conn: b}
	t.Cleanup(func() { a.Close(); b.Close() })
	for _, c := range []net.Conn{a, b} {
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	keys := &TLSKeys{Certificate: authority.Server(t)}
	stream = tlsstream.Server(server, keys.config())
	client = tls.Client(other, trusting(authority))
	var handshakes sync.WaitGroup
	handshakes.Go(func() {
		if err := client.Handshake(); err != nil {
			t.Error(err)
		}
	})
	if err := stream.Handshake(); err != nil {
		t.Fatal(err)
	}
	handshakes.Wait()
	stream.Batch()
	server.reads.Store(0)
	server.writes.Store(0)
	return stream, client, server, other
}

func TestTLSStreamReadsBatches(t *testing.T) {
	stream, client, server, _ := streamPair(t)
	sent := patterned(1000, 1)
	for at := 0; at < len(sent); at += 100 { // ten records
		if _, err := client.Write(sent[at : at+100]); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 2000)
	n, err := stream.Read(got)
	if err != nil || !bytes.Equal(got[:n], sent) {
		t.Fatalf("one Read returned %d bytes of ten records of 100 (%v)", n, err)
	}
	if n := server.reads.Load(); n != 1 {
		t.Errorf("it took %d system calls", n)
	}
	// Less room than there are bytes: nothing is lost.
	if _, err := client.Write(sent); err != nil {
		t.Fatal(err)
	}
	var all []byte
	for len(all) < len(sent) {
		n, err := stream.Read(got[:7])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, got[:n]...)
	}
	if !bytes.Equal(all, sent) {
		t.Error("read in small pieces it is something else")
	}
}

// A client waits for the answer to what it sent whole before it sends the rest
// of the next request: Read may not wait for that rest.
func TestTLSStreamDoesNotWait(t *testing.T) {
	stream, client, _, other := streamPair(t)
	hoard := &hoardingConn{Conn: other.Conn, on: true}
	socket := other.Conn
	other.Conn = hoard
	first, second := patterned(300, 1), patterned(300, 2)
	for _, b := range [][]byte{first, second} {
		if _, err := client.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	record := len(hoard.bytes) / 2
	send := func(b []byte) {
		t.Helper()
		if _, err := socket.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want []byte) {
		t.Helper()
		got := make([]byte, 1000)
		if n, err := stream.Read(got); err != nil || !bytes.Equal(got[:n], want) {
			t.Fatalf("read %d bytes (%v), want one record", n, err)
		}
	}
	for _, part := range []int{1, 4, 5, 6, record - 1} { // of the second record
		send(hoard.bytes[:record+part])
		expect(first)
		send(hoard.bytes[record+part:])
		expect(second)
		hoard.bytes = nil
		for _, b := range [][]byte{first, second} {
			if _, err := client.Write(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(hoard.bytes)
	expect(append(first, second...))
	hoard.on = false
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := stream.Read(make([]byte, 10)); n != 0 || err != io.EOF {
		t.Errorf("after the client's good-bye: %d bytes, %v", n, err)
	}
}

// hoardingConn keeps what is written.
type hoardingConn struct {
	net.Conn
	on    bool
	bytes []byte
}

func (c *hoardingConn) Write(b []byte) (int, error) {
	if !c.on {
		return c.Conn.Write(b)
	}
	c.bytes = append(c.bytes, b...)
	return len(b), nil
}

func TestTLSStreamWritesBatches(t *testing.T) {
	stream, client, server, _ := streamPair(t)
	data := patterned(256<<10, 3)
	for _, test := range []struct {
		name  string
		write func() error
		most  int64 // system calls
	}{
		{"one buffer", func() error { _, err := stream.Write(data); return err }, 5},
		{"a page", func() error { _, err := stream.Write(data[:4096]); return err }, 1},
		{"pieces", func() error {
			var pieces net.Buffers
			for at := 0; at < 32<<10; at += 16 + 4096 - 16 {
				pieces = append(pieces, data[at:at+16], data[at+16:at+4096])
			}
			return stream.WritePieces(pieces)
		}, 1},
		{"large pieces", func() error { return stream.WritePieces(net.Buffers{data[:16], data[16:]}) }, 5},
		{"nothing", func() error { return stream.WritePieces(nil) }, 0},
	} {
		server.writes.Store(0)
		before := server.written.Load()
		var got []byte
		var reading sync.WaitGroup
		want := map[string]int{"a page": 4096, "pieces": 32 << 10, "nothing": 0}
		n, some := want[test.name]
		if !some {
			n = len(data)
		}
		reading.Go(func() {
			got = make([]byte, n)
			if _, err := io.ReadFull(client, got); err != nil {
				t.Error(err)
			}
		})
		if err := test.write(); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		reading.Wait()
		if !bytes.Equal(got, data[:n]) {
			t.Errorf("%s: other bytes arrived", test.name)
		}
		if calls := server.writes.Load(); calls > test.most {
			t.Errorf("%s: %d system calls for %d bytes", test.name, calls, server.written.Load()-before)
		}
	}
}

// tlsClient is attached to "swap" over TCP and TLS.
func tlsClient(t *testing.T, s *testServer, authority *tlstest.Authority) *testClient {
	t.Helper()
	c := dialAddress(t, "tcp", s.listenTCP(t))
	c.greeting()
	c.send(be32(3))
	c, err := c.startTLS(trusting(authority))
	if err != nil {
		t.Fatal(err)
	}
	c.goTo("swap")
	return c
}

// Requests of every size, in place and handed over, are what they are without
// TLS.
func TestTLSTransmission(t *testing.T) {
	authority := tlstest.NewAuthority(t, "tmemd test")
	const size = 24 << 20
	for name, refuse := range map[string]func() bool{
		"in place":    nil,
		"handed over": always,
		"half":        func() bool { return rand.IntN(2) == 0 },
	} {
		t.Run(name, func(t *testing.T) {
			device := newMemoryDevice(size)
			device.refuse = refuse
			s := startServer(t, Config{
				TLS:     TLS{Mode: TLSRequired, Keys: newTestKeys(authority.Server(t), nil).Load},
				Exports: []Export{{Name: "swap", Device: device}},
			})
			c := tlsClient(t, s, authority)
			model := bytes.Clone(device.data)
			random := rand.New(rand.NewPCG(11, 17))
			lengths := []int{1, 28, 512, 4096, 4096, 4096, 16356, 16384, 128 << 10, 1 << 20, inPlaceLimit, inPlaceLimit + 1, 5 << 20}
			for round := range 8 {
				if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
					t.Fatal(err)
				}
				// A burst of writes that do not overlap, then a burst of reads.
				var requests []byte
				slot := size / len(lengths) / pageSize * pageSize
				order := random.Perm(len(lengths))
				for i, which := range order {
					n := min(lengths[which], slot)
					at, payload := i*slot, patterned(n, uint64(round*100+i))
					copy(model[at:], payload)
					requests = append(requests, requestBytes(0, wireWrite, uint64(i), uint64(at), uint32(n), payload...)...)
				}
				var sending sync.WaitGroup
				sending.Go(func() {
					if _, err := c.Write(requests); err != nil {
						t.Error(err)
					}
				})
				for range order {
					if cookie, errno := c.nextReply(); errno != 0 {
						t.Fatalf("write %d: errno %d", cookie, errno)
					}
				}
				sending.Wait()
				requests = requests[:0]
				for i, which := range order {
					requests = append(requests, requestBytes(0, wireRead, uint64(i), uint64(i*slot), uint32(min(lengths[which], slot)))...)
				}
				c.send(requests)
				for range order {
					cookie, errno := c.nextReply()
					if errno != 0 {
						t.Fatalf("read %d: errno %d", cookie, errno)
					}
					at, n := int(cookie)*slot, min(lengths[order[cookie]], slot)
					if !bytes.Equal(c.read(n), model[at:at+n]) {
						t.Fatalf("round %d: %d bytes at %d are not what was written", round, n, at)
					}
				}
			}
			c.send(requestBytes(0, wireDisconnect, 0, 0, 0))
			c.expectClosed()
		})
	}
}

// A forced stop tells an encrypted client too, and one that takes nothing is cut.
func TestTLSShutdown(t *testing.T) {
	authority := tlstest.NewAuthority(t, "tmemd test")
	config := func() Config {
		return Config{
			TLS:           TLS{Mode: TLSRequired, Keys: newTestKeys(authority.Server(t), nil).Load},
			Exports:       []Export{{Name: "swap", Device: newMemoryDevice(16 << 20)}},
			ShutdownGrace: 500 * time.Millisecond,
		}
	}
	t.Run("answered", func(t *testing.T) {
		s := startServer(t, config())
		c := tlsClient(t, s, authority)
		var stopping sync.WaitGroup
		stopping.Go(func() {
			if err := s.Shutdown(t.Context(), true); err != nil {
				t.Error(err)
			}
		})
		eventually(t, "the stop began", s.draining.Load)
		c.send(requestBytes(0, wireRead, 7, 0, 4096))
		c.expect(7, errnoShutdown, 0)
		c.expectClosed()
		stopping.Wait()
	})
	t.Run("cut", func(t *testing.T) {
		s := startServer(t, config())
		c := tlsClient(t, s, authority)
		for cookie := range uint64(32) { // more than the sockets hold, and never read
			c.send(requestBytes(0, wireRead, cookie, 0, 1<<20))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := s.Shutdown(ctx, true); err == nil {
			t.Error("the client took its replies without reading")
		}
		eventually(t, "the connection is gone", func() bool { return s.Stats().Connections.Now == 0 })
	})
}

// Encryption costs its cycles, not the batches: reported per request.
func BenchmarkTLS(b *testing.B) {
	authority := tlstest.NewAuthority(b, "tmemd test")
	for _, encrypted := range []bool{false, true} {
		for _, write := range []bool{false, true} {
			name := map[bool]string{false: "plain ", true: "TLS "}[encrypted] + map[bool]string{false: "reads", true: "writes"}[write]
			b.Run(name, func(b *testing.B) {
				s, err := NewServer(Config{
					TLS:     TLS{Mode: TLSOptional, Keys: newTestKeys(authority.Server(b), nil).Load},
					Exports: []Export{{Name: "swap", Device: rawDevice{patterned(64<<20, 2)}}},
				})
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				server, client := socketPair(b)
				defer client.Close()
				s.admit(server)
				c := &testClient{b, client}
				c.greeting()
				c.send(be32(3))
				if encrypted {
					if c, err = c.startTLS(trusting(authority)); err != nil {
						b.Fatal(err)
					}
				}
				c.goTo("swap")
				if err := c.SetDeadline(time.Time{}); err != nil {
					b.Fatal(err)
				}
				p := newPipeliner(c.Conn, 64<<20, write)
				b.SetBytes(benchPage)
				b.ReportAllocs()
				b.ResetTimer()
				if err := p.run(b.N, 64); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
