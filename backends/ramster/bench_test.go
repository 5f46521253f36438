package ramster_test

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/ramster"
	"github.com/tmemd/tmemd/backends/ramster/donor"
	"github.com/tmemd/tmemd/nbd/tlstest"
)

// newRemote makes a cache with two donors over loopback TCP and mutual TLS 1.3, and
// pages of it that both have.
func newRemote(b *testing.B, copies int, pages uint64) (*ramster.Cache, *backendtest.Host) {
	authority := tlstest.NewAuthority(b, "hosts")
	server := &tls.Config{
		Certificates: []tls.Certificate{authority.Server(b)}, ClientCAs: authority.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true,
	}
	client := &tls.Config{
		Certificates: []tls.Certificate{authority.Client(b, "owner")}, RootCAs: authority.Pool(), ServerName: "localhost",
		MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true,
	}
	config := ramster.Config{
		Staging: 64 << 20, Copies: copies, Deadline: 5 * time.Second,
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return (&tls.Dialer{Config: client}).DialContext(ctx, "tcp", address)
		},
	}
	for _, name := range []string{"east", "west"} {
		d, err := donor.New(donor.Config{
			Identity: [16]byte{name[0]}, Limit: 1 << 30, Clients: map[string]donor.Grant{"owner": {Quota: 1 << 30}},
			Identify: func(c net.Conn) ([]string, error) {
				return []string{"owner"}, c.(*tls.Conn).Handshake()
			},
		})
		if err != nil {
			b.Fatal(err)
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		var serving sync.WaitGroup
		serving.Go(func() { _ = d.Serve(tls.NewListener(listener, server)) })
		b.Cleanup(func() {
			listener.Close()
			if err := d.Close(); err != nil {
				b.Error(err)
			}
			serving.Wait()
		})
		config.Donors = append(config.Donors, ramster.Donor{Name: name, Address: listener.Addr().String()})
	}
	c, err := ramster.New(config)
	if err != nil {
		b.Fatal(err)
	}
	h := &backendtest.Host{Backend: c}
	if err := h.Open(1, pages); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		h.Close(1)
		if err := c.Close(); err != nil {
			b.Error(err)
		}
	})
	return c, h
}

// BenchmarkRemoteLoad loads pages at random that donors have, so many at a time.
func BenchmarkRemoteLoad(b *testing.B) {
	const pages = 1 << 14
	for _, depth := range []int{1, 16} {
		b.Run(map[int]string{1: "depth=1", 16: "depth=16"}[depth], func(b *testing.B) {
			c, h := newRemote(b, 2, pages)
			for page := range uint64(pages) {
				if _, err := h.Write(backends.Key{Export: 1, Page: page}, backendtest.Page(backendtest.Structured, page)); err != nil {
					b.Fatal(err)
				}
			}
			for c.Remote().Staged > 0 {
				time.Sleep(time.Millisecond)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var next atomic.Int64
			var workers sync.WaitGroup
			for worker := range uint64(depth) {
				workers.Go(func() {
					random := rand.New(rand.NewPCG(worker, 1))
					dst := make([]byte, backends.PageSize)
					for next.Add(1) <= int64(b.N) {
						if err := h.Read(backends.Key{Export: 1, Page: random.Uint64N(pages)}, dst); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			workers.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pages/s")
		})
	}
}

// BenchmarkRemoteStore stores pages, and waits until donors have the last of them.
func BenchmarkRemoteStore(b *testing.B) {
	const pages = 1 << 14
	for _, copies := range []int{1, 2} {
		b.Run(map[int]string{1: "copies=1", 2: "copies=2"}[copies], func(b *testing.B) {
			c, h := newRemote(b, copies, pages)
			data := make([][]byte, 256)
			for i := range data {
				data[i] = backendtest.Page(backendtest.Structured, uint64(i))
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				for {
					refusal, err := h.Write(backends.Key{Export: 1, Page: uint64(i) % pages}, data[i%len(data)])
					if err != nil {
						b.Fatal(err)
					}
					if refusal == backends.Accepted {
						break
					}
					time.Sleep(100 * time.Microsecond)
				}
			}
			for c.Remote().Staged > 0 {
				time.Sleep(100 * time.Microsecond)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pages/s")
		})
	}
}
