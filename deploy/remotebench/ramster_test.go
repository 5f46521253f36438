package remotebench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/ramster"
	"github.com/tmemd/tmemd/backends/ramster/donor"
	"github.com/tmemd/tmemd/nbd/client"
	"github.com/tmemd/tmemd/nbd/tlsstream"
	"github.com/tmemd/tmemd/nbd/tlstest"
)

// donateVariable makes this program a donor: its certificate, key and authority.
const donateVariable = "REMOTEBENCH_DONATE"

// donate lends memory until its standard input ends.
func donate() {
	files := strings.Split(os.Getenv(donateVariable), ":")
	certificate, err := tls.LoadX509KeyPair(files[0], files[1])
	if err != nil {
		panic(err)
	}
	authority, err := os.ReadFile(files[2])
	if err != nil {
		panic(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(authority)
	d, err := donor.New(donor.Config{
		Identity: [16]byte([]byte(fmt.Sprintf("%16d", os.Getpid()))), Limit: 1 << 30, Clients: map[string]donor.Grant{"owner": {Quota: 1 << 30}},
		Identify: func(c net.Conn) ([]string, error) {
			s := c.(*tlsstream.Stream)
			if err := s.Handshake(); err != nil {
				return nil, err
			}
			s.Batch()
			return []string{s.ConnectionState().PeerCertificates[0].Subject.CommonName}, nil
		},
	})
	if err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		listener.Close()
	}()
	_ = d.Serve(encrypted{listener, &tls.Config{
		Certificates: []tls.Certificate{certificate}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true,
	}})
	if err := d.Close(); err != nil {
		panic(err)
	}
}

// encrypted is a listener as the daemon has it.
type encrypted struct {
	net.Listener
	config *tls.Config
}

// Accept implements net.Listener.
func (l encrypted) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tlsstream.Server(conn, l.config), nil
}

// dialEncrypted connects as the daemon does.
func dialEncrypted(ctx context.Context, address string, config *tls.Config) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	s := tlsstream.Client(conn, config)
	if err := s.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	s.Batch()
	return s, nil
}

// remote is ramster with donors in processes of their own.
type remote struct {
	cache  *ramster.Cache
	host   *backendtest.Host
	donors []func() error
	source client.Pages
	pages  uint64
}

func newRamster(b *testing.B, copies int, source client.Pages) contender {
	folder := b.TempDir()
	authority := tlstest.NewAuthority(b, "hosts")
	certificate, key := tlstest.WriteFiles(b, folder, "donor", authority.Server(b))
	files := strings.Join([]string{certificate, key, authority.WriteFile(b, folder, "ca.crt")}, ":")
	dialer := &tls.Config{
		Certificates: []tls.Certificate{authority.Client(b, "owner")}, RootCAs: authority.Pool(), ServerName: "localhost",
		MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true,
	}
	r := &remote{source: source, pages: pages}
	config := ramster.Config{
		Copies: copies, Deadline: 5 * time.Second,
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return dialEncrypted(ctx, address, dialer)
		},
	}
	for n := range 2 {
		address, end := startDonor(b, files)
		r.donors = append(r.donors, end)
		config.Donors = append(config.Donors, ramster.Donor{Name: fmt.Sprintf("donor%d", n), Address: address})
	}
	var err error
	if r.cache, err = ramster.New(config); err != nil {
		b.Fatal(err)
	}
	r.host = &backendtest.Host{Backend: r.cache}
	if err := r.host.Open(1, pages); err != nil {
		b.Fatal(err)
	}
	return r
}

func startDonor(b *testing.B, files string) (address string, end func() error) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	process := exec.Command(self)
	process.Env = append(os.Environ(), donateVariable+"="+files)
	process.Stderr = os.Stderr
	in, err := process.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := process.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := process.Start(); err != nil {
		b.Fatal(err)
	}
	if _, err := fmt.Fscanln(out, &address); err != nil {
		b.Fatalf("the donor says no address: %v", err)
	}
	return address, func() error {
		in.Close()
		return process.Wait()
	}
}

// write waits while the staging area is full: elsewhere the page would go to storage,
// which is not what is measured.
func (r *remote) write(page uint64) error {
	for {
		refusal, err := r.host.Write(backends.Key{Export: 1, Page: page}, r.source.Page(int(page)))
		if err != nil || refusal == backends.Accepted {
			return err
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// settle waits until donors have everything.
func (r *remote) settle() {
	for r.cache.Remote().Staged > 0 {
		time.Sleep(50 * time.Microsecond)
	}
}

func (r *remote) fill() error {
	for page := range r.pages {
		if err := r.write(page); err != nil {
			return err
		}
	}
	r.settle()
	return nil
}

// measure has as many goroutines as requests are outstanding, as tmemd's workers are. The
// host compares what it reads.
func (r *remote) measure(c cell) (float64, error) {
	var workers sync.WaitGroup
	var done atomic.Int64
	errs := make(chan error, c.depth)
	var latencies []time.Duration
	begin := time.Now()
	for worker := range uint64(c.depth) {
		workers.Go(func() {
			random := rand.New(rand.NewPCG(worker, 1))
			dst := make([]byte, backends.PageSize)
			for last := time.Now(); last.Sub(begin) < cellTime && (!c.burst || done.Load() < burst); {
				page := random.Uint64N(r.pages)
				var err error
				if c.writes {
					err = r.write(page)
				} else {
					err = r.host.Read(backends.Key{Export: 1, Page: page}, dst)
				}
				if err != nil {
					errs <- err
					return
				}
				done.Add(1)
				now := time.Now()
				if c.latency {
					latencies = append(latencies, now.Sub(last)) // of one worker
				}
				last = now
			}
		})
	}
	workers.Wait()
	elapsed := time.Since(begin)
	if c.writes {
		r.settle()
	}
	if !c.burst {
		elapsed = time.Since(begin)
	}
	select {
	case err := <-errs:
		return 0, err
	default:
		return figure(c, int(done.Load()), elapsed, latencies), nil
	}
}

func (r *remote) close() error {
	r.host.Close(1)
	err := r.cache.Close()
	for _, end := range r.donors {
		if e := end(); err == nil {
			err = e
		}
	}
	return err
}
