package peer

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// echoDonor answers each GET with the same page and everything else with OK. It does as
// little as it can, so that a benchmark is about the peer.
func echoDonor(conn net.Conn) {
	defer conn.Close()
	in, out := bufio.NewReaderSize(conn, 1<<17), bufio.NewWriterSize(conn, 1<<16)
	blob := make([]byte, 1600)
	reply := make([]byte, wire.ReplySize, wire.ReplySize+wire.MaxPayload)
	for {
		if in.Buffered() < wire.RequestSize && out.Flush() != nil {
			return
		}
		b, err := in.Peek(wire.RequestSize)
		if err != nil {
			return
		}
		r, err := wire.DecodeRequest(b)
		if err != nil {
			return
		}
		if _, err := in.Discard(wire.RequestSize + int(r.Length)); err != nil {
			return
		}
		a := wire.Reply{Operation: r.Operation, Number: r.Number}
		body := blob[:0]
		switch r.Operation {
		case wire.Hello:
			body = blob[:wire.WelcomeSize]
		case wire.Stats:
			body = blob[:wire.StatsSize]
		case wire.Get:
			body = blob
			a.Generation = 1
		}
		a.Length = uint32(len(body))
		for i := range max(1, int(r.Count)*gets(r)) {
			if r.Operation == wire.Get {
				a.Page, a.Flags = r.Page+uint64(i), 0
				if i+1 < int(r.Count) {
					a.Flags = wire.More
				}
			}
			a.Encode(reply)
			if _, err := out.Write(reply[:wire.ReplySize]); err != nil {
				return
			}
			if _, err := out.Write(body); err != nil {
				return
			}
		}
	}
}

// way is how a benchmark's connections are made.
type way struct {
	name string
	make func(testing.TB) (net.Listener, func(context.Context) (net.Conn, error))
}

func ways() []way {
	return []way{
		{"unix", func(t testing.TB) (net.Listener, func(context.Context) (net.Conn, error)) {
			path := filepath.Join(t.TempDir(), "donor")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			return l, func(ctx context.Context) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", path)
			}
		}},
		{"tcp", func(t testing.TB) (net.Listener, func(context.Context) (net.Conn, error)) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			return l, func(ctx context.Context) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "tcp", l.Addr().String())
			}
		}},
		{"tls", func(t testing.TB) (net.Listener, func(context.Context) (net.Conn, error)) {
			server, client := certificates(t)
			l, err := tls.Listen("tcp", "127.0.0.1:0", server)
			if err != nil {
				t.Fatal(err)
			}
			return l, func(ctx context.Context) (net.Conn, error) {
				d := tls.Dialer{Config: client}
				return d.DialContext(ctx, "tcp", l.Addr().String())
			}
		}},
	}
}

func certificates(t testing.TB) (server, client *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"donor"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13,
			DynamicRecordSizingDisabled: true,
		}, &tls.Config{
			RootCAs: pool, ServerName: "donor", MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true,
		}
}

// overSocket makes a peer of an echoDonor that is reached in this way.
func overSocket(t testing.TB, w way) *Peer {
	l, dial := w.make(t)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { echoDonor(c) })
		}
	})
	var sessions atomic.Uint64
	p, err := New(Config{Dial: dial, Session: func() uint64 { return sessions.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		l.Close()
		serving.Wait()
	})
	up(t, p)
	return p
}

// token is a Sink and a Completion that tells a goroutine, and allocates nothing.
type token struct {
	c   chan error
	sum uint64
}

func (k *token) Page(page, generation uint64, blob []byte) { k.sum += uint64(blob[0]) + page }
func (k *token) Ended(err error)                           { k.c <- err }
func (k *token) Done(_ wire.Status, err error)             { k.c <- err }

// 16 goroutines, each with one request at a time.
func BenchmarkPeer(b *testing.B) {
	for _, w := range ways() {
		for _, load := range []struct {
			name    string
			workers int
			run     int // pages of a fetch; 0: puts only
			put     int // of so many requests one is a put; 0: none
		}{
			{"fetch/depth=1", 1, 1, 0}, {"fetch/depth=16", 16, 1, 0}, {"fetch/depth=128", 128, 1, 0}, {"fetch-8/depth=16", 16, 8, 0},
			{"put/depth=16", 16, 0, 1}, {"put/depth=128", 128, 0, 1}, {"mixed/depth=16", 16, 1, 2},
		} {
			b.Run(w.name+"/"+load.name, func(b *testing.B) {
				p := overSocket(b, w)
				blob := make([]byte, 1600)
				if _, err := io.ReadFull(rand.Reader, blob); err != nil {
					b.Fatal(err)
				}
				var left atomic.Int64
				pages := max(1, load.run)
				left.Store(int64(b.N))
				b.ReportAllocs()
				b.SetBytes(1600)
				b.ResetTimer()
				var workers sync.WaitGroup
				for n := range load.workers {
					workers.Go(func() {
						k := &token{c: make(chan error, 1)}
						for i := uint64(1); left.Add(-int64(pages)) > -int64(pages); i++ {
							if load.put > 0 && i%uint64(load.put) == 0 {
								if !p.Put(1, uint64(n), i, blob, k) {
									b.Error("no room")
									return
								}
							} else if err := p.Fetch(1, uint64(n), pages, k); err != nil {
								b.Error(err)
								return
							}
							if err := <-k.c; err != nil {
								b.Error(err)
							}
						}
					})
				}
				workers.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pages/s")
				s := p.Stats()
				b.ReportMetric(float64(s.RoundTrips)/float64(s.Writes), "requests/write")
			})
		}
	}
}
