package nbd

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tmemd/tmemd/nbd/tlsstream"
	"github.com/tmemd/tmemd/nbd/tlstest"
)

const (
	optStartTLS = optionStartTLS
	optName     = optionExportName
)

// testKeys are keys that can be replaced.
type testKeys struct{ atomic.Pointer[TLSKeys] }

func newTestKeys(certificate tls.Certificate, clients *x509.CertPool) *testKeys {
	var k testKeys
	k.Store(&TLSKeys{Certificate: certificate, ClientCAs: clients})
	return &k
}

// listenTCP serves on TCP too and returns the address.
func (s *testServer) listenTCP(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveUntilCleanup(t, s.Server, l)
	return l.Addr().String()
}

func dialAddress(t testing.TB, network, address string) *testClient {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return newTestClient(t, c)
}

// startTLS turns a greeted client into an encrypted one, or says why it cannot
// be. With TLS 1.3 a server's refusal of the client's certificate comes later.
func (c *testClient) startTLS(config *tls.Config) (*testClient, error) {
	c.t.Helper()
	c.send(option(optStartTLS))
	c.expectReply(optStartTLS, repAck)
	encrypted := tls.Client(c.Conn, config)
	return newTestClient(c.t, encrypted), encrypted.Handshake()
}

// trusting is a client that believes in an authority and shows a certificate,
// whether the server asks for that one or not.
func trusting(a *tlstest.Authority, certificates ...tls.Certificate) *tls.Config {
	config := &tls.Config{RootCAs: a.Pool(), ServerName: "localhost"}
	if len(certificates) > 0 {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificates[0], nil }
	}
	return config
}

func TestStartTLS(t *testing.T) {
	authority := tlstest.NewAuthority(t, "tmemd test")
	const unix, tcp = "unix", "tcp"
	type reply = wantReply
	first := func(id uint32) []reply { return []reply{{id, replyErrTLSFirst}} }
	list := []reply{{optList, repServer}, {optList, repServer}, {optList, repAck}}
	for _, test := range []struct {
		name      string
		mode      TLSMode
		network   string
		before    []byte // in the clear, answered by
		replies   []reply
		encrypt   bool
		after     []byte // encrypted, if encrypt is set, answered by
		encrypted []reply
		ending    ending
	}{
		{"off", TLSOff, tcp, option(optStartTLS), []reply{{optStartTLS, repUnsup}}, false, nil, nil, goesOn},
		{"off, with data", TLSOff, tcp, option(optStartTLS, filled(9)), []reply{{optStartTLS, repUnsup}}, false, nil, nil, goesOn},
		{"with data", TLSOptional, tcp, option(optStartTLS, filled(9)), []reply{{optStartTLS, replyErrInvalid}}, false, nil, nil, goesOn},
		{"with 1 MiB of data", TLSRequired, tcp, option(optStartTLS, filled(1<<20)), []reply{{optStartTLS, replyErrInvalid}}, false, nil, nil, goesOn},
		{"with too much data", TLSRequired, tcp, optionHeader(optStartTLS, 1<<20+1), nil, false, nil, nil, closes},
		{"with data, then without", TLSRequired, tcp, option(optStartTLS, filled(1)), []reply{{optStartTLS, replyErrInvalid}}, true, option(optList), list, goesOn},

		{"optional, not used", TLSOptional, tcp, option(optList), list, false, nil, nil, goesOn},
		{"optional, used", TLSOptional, tcp, nil, nil, true, option(optList), list, goesOn},
		{"optional, used after others", TLSOptional, tcp, join(option(optInfo, infoData("swap")), option(77)),
			[]reply{{optInfo, repInfo}, {optInfo, repAck}, {77, repUnsup}}, true, option(optGo, infoData("swap")), []reply{{optGo, repInfo}, {optGo, repAck}}, transmits},
		{"optional, Unix", TLSOptional, unix, nil, nil, true, option(optGo, infoData("swap")), []reply{{optGo, repInfo}, {optGo, repAck}}, transmits},
		{"twice", TLSOptional, tcp, nil, nil, true, join(option(optStartTLS), option(optList)), append([]reply{{optStartTLS, replyErrInvalid}}, list...), goesOn},
		{"twice, with data", TLSRequired, tcp, nil, nil, true, option(optStartTLS, filled(3)), []reply{{optStartTLS, replyErrInvalid}}, goesOn},
		{"garbage in TLS", TLSRequired, tcp, nil, nil, true, filled(16), nil, closes},

		{"required, ABORT", TLSRequired, tcp, option(optAbort), []reply{{optAbort, repAck}}, false, nil, nil, closes},
		{"required, LIST", TLSRequired, tcp, option(optList), first(optList), false, nil, nil, goesOn},
		{"required, LIST with data", TLSRequired, tcp, option(optList, filled(10)), first(optList), false, nil, nil, goesOn},
		{"required, GO", TLSRequired, tcp, option(optGo, infoData("swap")), first(optGo), false, nil, nil, goesOn},
		{"required, GO of an unknown export", TLSRequired, tcp, option(optGo, infoData("tape")), first(optGo), false, nil, nil, goesOn},
		{"required, INFO", TLSRequired, tcp, option(optInfo, infoData("swap")), first(optInfo), false, nil, nil, goesOn},
		{"required, unknown option", TLSRequired, tcp, option(77, filled(5000)), first(77), false, nil, nil, goesOn},
		{"required, EXPORT_NAME", TLSRequired, tcp, option(optName, []byte("swap")), nil, false, nil, nil, closes},
		{"required, EXPORT_NAME unknown", TLSRequired, tcp, option(optName, []byte("tape")), nil, false, nil, nil, closes},
		{"required, then GO", TLSRequired, tcp, option(optGo, infoData("swap")), first(optGo), true, option(optGo, infoData("swap")), []reply{{optGo, repInfo}, {optGo, repAck}}, transmits},
		{"required, then INFO and LIST", TLSRequired, tcp, nil, nil, true, join(option(optInfo, infoData("swap")), option(optList)), append([]reply{{optInfo, repInfo}, {optInfo, repAck}}, list...), goesOn},
		{"required, Unix without", TLSRequired, unix, option(optGo, infoData("swap")), []reply{{optGo, repInfo}, {optGo, repAck}}, false, nil, nil, transmits},
		{"required, Unix with", TLSRequired, unix, nil, nil, true, option(optGo, infoData("swap")), []reply{{optGo, repInfo}, {optGo, repAck}}, transmits},
		{"31 options, then TLS, then one more is too many", TLSRequired, tcp, bytes.Repeat(option(optList), 31),
			func() (r []reply) {
				for range 31 {
					r = append(r, reply{optList, replyErrTLSFirst})
				}
				return r
			}(), true, nil, nil, closes},
	} {
		t.Run(test.name, func(t *testing.T) {
			device := newMemoryDevice(1 << 20)
			s := startServer(t, Config{
				TLS:     TLS{Mode: test.mode, Keys: newTestKeys(authority.Server(t), nil).Load},
				Exports: []Export{{Name: "swap", Device: device}, {Name: "other", Device: newMemoryDevice(4096)}},
			})
			address := s.path
			if test.network == tcp {
				address = s.listenTCP(t)
			}
			c := dialAddress(t, test.network, address)
			c.greeting()
			c.send(be32(3))
			c.sendLoose(test.before)
			for _, w := range test.replies {
				c.expectReply(w.id, w.kind)
			}
			if test.encrypt {
				var err error
				if c, err = c.startTLS(trusting(authority)); err != nil {
					t.Fatal(err)
				}
				c.sendLoose(test.after)
				for _, w := range test.encrypted {
					c.expectReply(w.id, w.kind)
				}
				if got := s.Stats().TLS; test.ending != closes && (got.Now != 1 || got.Handshakes != 1 || got.Expires.IsZero() != (test.mode == TLSOff)) {
					t.Errorf("statistics: %+v", got)
				}
			}
			switch test.ending {
			case closes:
				c.expectClosed()
			case goesOn:
				c.send(option(optAbort))
				c.expectReply(optAbort, repAck)
				c.expectClosed()
			case transmits:
				if !bytes.Equal(c.readBack(4096, 512), device.data[4096:4096+512]) {
					t.Error("read the wrong bytes")
				}
				c.send(requestBytes(0, wireDisconnect, 0, 0, 0))
				c.expectClosed()
			}
			eventually(t, "the connection is gone", func() bool { return s.Stats().Connections.Now == 0 })
			if got := s.Stats().TLS.Now; got != 0 {
				t.Errorf("%d encrypted connections are left", got)
			}
		})
	}
}

// What was negotiated in the clear counts for nothing once TLS is spoken: a
// client that was answered by somebody between would not know of it.
func TestStartTLSForgets(t *testing.T) {
	a := tlstest.NewAuthority(t, "tmemd test")
	keys := newTestKeys(a.Server(t), nil)
	s := startServer(t, Config{
		Exports: []Export{{Name: "swap", Device: newMemoryDevice(8192)}}, TLS: TLS{Mode: TLSOptional, Keys: keys.Load},
	})
	for _, id := range []uint32{optionStructuredReply, optionExtendedHeaders} {
		c := s.greeted(t, 3)
		c.send(option(id), option(optionSetMetaContext, metaData("swap", allocationName)))
		c.expectReply(id, repAck)
		c.expectReply(optionSetMetaContext, replyMetaContext)
		c.expectReply(optionSetMetaContext, repAck)
		c, err := c.startTLS(trusting(a))
		if err != nil {
			t.Fatal(err)
		}
		c.goTo("swap")
		c.send(requestBytes(0, wireBlockStatus, 7, 0, 4096))
		c.expect(7, errnoInvalid, 0) // a simple reply
		c.readBack(0, 16)
	}
}

// What comes in the clear behind STARTTLS may be anybody's. It must not be
// answered as if it had come encrypted, and not be lost either: it breaks TLS.
func TestStartTLSInjection(t *testing.T) {
	authority := tlstest.NewAuthority(t, "tmemd test")
	for _, mode := range []TLSMode{TLSOptional, TLSRequired} {
		for name, injected := range map[string][]byte{
			"LIST":         option(optList),
			"GO":           option(optGo, infoData("swap")),
			"ABORT":        option(optAbort),
			"EXPORT_NAME":  option(optName, []byte("swap")),
			"half a magic": be32(0x49484156),
			"one byte":     {0x49},
		} {
			t.Run(fmt.Sprintf("mode %d, %s", mode, name), func(t *testing.T) {
				s := startServer(t, Config{
					TLS:     TLS{Mode: mode, Keys: newTestKeys(authority.Server(t), nil).Load},
					Exports: []Export{{Name: "swap", Device: newMemoryDevice(4096)}},
				})
				c := dialAddress(t, "tcp", s.listenTCP(t))
				c.greeting()
				c.send(be32(3), option(optStartTLS), injected)
				c.expectReply(optStartTLS, repAck)
				encrypted := tls.Client(c.Conn, trusting(authority))
				if err := encrypted.Handshake(); err == nil {
					t.Error("TLS did not notice what was there before it")
				}
				eventually(t, "the connection is gone", func() bool { return s.Stats().Connections.Now == 0 })
				if got := s.Stats(); got.HandshakeFailures[failedTLS] != 1 || got.TLS.Handshakes != 0 {
					t.Errorf("failures %v, %+v", got.HandshakeFailures, got.TLS)
				}
			})
		}
	}
}

func TestTLSHandshakeFails(t *testing.T) {
	authority, stranger := tlstest.NewAuthority(t, "tmemd test"), tlstest.NewAuthority(t, "somebody else")
	good := authority.Client(t, "client1")
	raw := func(b []byte) func(*testing.T, *testClient) {
		return func(t *testing.T, c *testClient) {
			c.send(option(optStartTLS))
			c.expectReply(optStartTLS, repAck)
			c.sendLoose(b)
			if b == nil {
				c.Close()
			}
		}
	}
	speaks := func(config *tls.Config) func(*testing.T, *testClient) {
		return func(t *testing.T, c *testClient) {
			encrypted, err := c.startTLS(config)
			if err == nil { // TLS 1.3 clients are done before the server has looked at their certificate
				_, err = encrypted.Read(make([]byte, 1))
			}
			if err == nil {
				t.Error("the server did not hang up")
			}
		}
	}
	old := trusting(authority, good)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	twelve := trusting(authority)
	twelve.MaxVersion = tls.VersionTLS12
	for _, test := range []struct {
		name   string
		client func(*testing.T, *testClient)
		reason string
	}{
		{"no TLS", raw(option(optList)), failedTLS},
		{"zeros", raw(make([]byte, 100)), failedTLS},
		{"a record of 16 MiB", raw([]byte{22, 3, 1, 255, 255}), failedTLS},
		{"empty records", raw(bytes.Repeat([]byte{22, 3, 1, 0, 0}, 100)), failedTLS},
		{"alerts", raw(bytes.Repeat([]byte{21, 3, 3, 0, 2, 1, 90}, 100)), failedTLS},
		{"gone", raw(nil), failedTLS},
		{"silent", raw([]byte{}), failedTimeout},
		{"half a record, then silent", raw([]byte{22, 3, 1, 1}), failedTimeout},
		{"TLS 1.1", speaks(old), failedTLS},
		{"no certificate", speaks(trusting(authority)), failedTLS},
		{"no certificate, TLS 1.2", speaks(twelve), failedTLS},
		{"a stranger's certificate", speaks(trusting(authority, stranger.Client(t, "client1"))), failedTLS},
		{"a server's certificate", speaks(trusting(authority, authority.Server(t))), failedTLS},
		{"an expired certificate", speaks(trusting(authority, authority.Issue(t, &x509.Certificate{
			Subject: pkix.Name{CommonName: "client1"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			NotAfter: time.Now().Add(-time.Minute),
		}))), failedTLS},
		{"a certificate of the future", speaks(trusting(authority, authority.Issue(t, &x509.Certificate{
			Subject: pkix.Name{CommonName: "client1"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			NotBefore: time.Now().Add(time.Hour),
		}))), failedTLS},
		{"a client that does not trust us", speaks(trusting(stranger, good)), failedTLS},
	} {
		t.Run(test.name, func(t *testing.T) {
			config := Config{
				TLS:     TLS{Mode: TLSRequired, Keys: newTestKeys(authority.Server(t), authority.Pool()).Load},
				Exports: []Export{{Name: "swap", Device: newMemoryDevice(4096), Access: &Access{AnyCertificate: true}}},
			}
			if test.reason == failedTimeout {
				config.HandshakeTimeout = 300 * time.Millisecond
			}
			s := startServer(t, config)
			address := s.listenTCP(t)
			c := dialAddress(t, "tcp", address)
			c.greeting()
			c.send(be32(3))
			test.client(t, c)
			eventually(t, "the connection is gone", func() bool { return s.Stats().Connections.Now == 0 })
			stats := s.Stats()
			failures := uint64(0)
			for _, n := range stats.HandshakeFailures {
				failures += n
			}
			if failures != 1 || stats.HandshakeFailures[test.reason] != 1 || stats.TLS.Handshakes != 0 {
				t.Errorf("failures %v, %+v; want %s", stats.HandshakeFailures, stats.TLS, test.reason)
			}
			if test.reason == failedTimeout {
				return // too little time for another one on a busy machine
			}
			// The server is none the worse for it.
			c = dialAddress(t, "tcp", address)
			c.greeting()
			c.send(be32(3))
			c, err := c.startTLS(trusting(authority, good))
			if err != nil {
				t.Fatal(err)
			}
			c.goTo("swap")
		})
	}
}

// helloRecords is a ClientHello of the largest size that crypto/tls takes,
// as the records that carry it.
func helloRecords() []byte {
	const body = 65000
	message := join([]byte{1, 0, body >> 8, body & 0xff}, []byte{3, 3}, make([]byte, body-2))
	var b []byte
	for len(message) > 0 {
		n := min(len(message), 16<<10)
		b = append(b, 22, 3, 1, byte(n>>8), byte(n))
		b, message = append(b, message[:n]...), message[n:]
	}
	return b
}

// pipeClient connects through a pipe, on which a write returns when it was read.
func (s *testServer) pipeClient(t *testing.T) *testClient {
	server, client := net.Pipe()
	t.Cleanup(func() { client.Close() })
	s.admit(server)
	c := newTestClient(t, client)
	c.greeting()
	c.send(be32(3))
	c.send(option(optStartTLS))
	c.expectReply(optStartTLS, repAck)
	return c
}

// Nobody who has not shown that he may is read more than tlsstream.MaxHandshake from.
func TestTLSHandshakeBytes(t *testing.T) {
	authority := tlstest.NewAuthority(t, "tmemd test")
	for _, test := range []struct {
		name  string
		write func(c *testClient) (n int, err error)
	}{
		{"ClientHello", func(c *testClient) (int, error) { return c.Write(helloRecords()) }},
		{"certificates", func(c *testClient) (int, error) {
			// A chain of certificates that is just a lot of bytes.
			counting := &countingConn{Conn: c.Conn}
			certificate := authority.Client(c.t, "client1")
			for range 400 {
				certificate.Certificate = append(certificate.Certificate, authority.Certificate.Raw)
			}
			config := trusting(authority, certificate)
			config.MaxVersion = tls.VersionTLS12
			err := tls.Client(counting, config).Handshake()
			return int(counting.written.Load()), err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startServer(t, Config{
				TLS:     TLS{Mode: TLSRequired, Keys: newTestKeys(authority.Server(t), authority.Pool()).Load},
				Exports: []Export{{Name: "swap", Device: newMemoryDevice(4096)}},
			})
			n, err := test.write(s.pipeClient(t))
			if err == nil {
				t.Error("the server took it all")
			}
			if n < tlsstream.MaxHandshake/2 || n > tlsstream.MaxHandshake {
				t.Errorf("it took %d bytes, the limit is %d", n, tlsstream.MaxHandshake)
			}
			eventually(t, "the connection is gone", func() bool { return s.Stats().Connections.Now == 0 })
			if got := s.Stats().HandshakeFailures; got[failedTLS] != 1 {
				t.Errorf("failures %v", got)
			}
		})
	}
}

type countingConn struct {
	net.Conn
	written, writes, reads atomic.Int64
}

func (c *countingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.written.Add(int64(n))
	c.writes.Add(1)
	return n, err
}

func (c *countingConn) Read(b []byte) (int, error) {
	c.reads.Add(1)
	return c.Conn.Read(b)
}

// As many strangers as there may be, each with as much of a handshake as it may
// send, cost what the package comment says.
func TestTLSHandshakeMemory(t *testing.T) {
	const strangers, each = 64, 192 << 10
	authority := tlstest.NewAuthority(t, "tmemd test")
	s := startServer(t, Config{
		TLS:           TLS{Mode: TLSRequired, Keys: newTestKeys(authority.Server(t), authority.Pool()).Load},
		Exports:       []Export{{Name: "swap", Device: newMemoryDevice(4096)}},
		MaxHandshakes: strangers, HandshakeTimeout: time.Minute,
	})
	hello := helloRecords()[:tlsstream.MaxHandshake-1]
	inUse := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := inUse()
	clients := make([]*testClient, strangers)
	for i := range clients {
		clients[i] = s.pipeClient(t)
		clients[i].send(hello)
	}
	if after := inUse(); after > before+strangers*each {
		t.Errorf("%d strangers cost %d bytes each", strangers, (after-before)/strangers)
	}
	server, client := net.Pipe()
	defer client.Close()
	s.admit(server)
	if got := s.Stats().Connections; got.Handshaking != strangers || got.Refused[refusedHandshakes] != 1 {
		t.Errorf("%+v, want %d handshakes and one refused", got, strangers)
	}
	for _, c := range clients {
		c.Close()
	}
	eventually(t, "all are gone", func() bool { return s.Stats().Connections.Now == 0 })
}

// Keys that are replaced serve the next handshake; who is there stays.
func TestTLSKeysReplaced(t *testing.T) {
	old, renewed := tlstest.NewAuthority(t, "before"), tlstest.NewAuthority(t, "after")
	keys := newTestKeys(old.Server(t), old.Pool())
	device := newMemoryDevice(1 << 20)
	s := startServer(t, Config{
		TLS:     TLS{Mode: TLSRequired, Keys: keys.Load},
		Exports: []Export{{Name: "swap", Device: device, Access: &Access{Certificates: []string{"client1"}}}},
	})
	address := s.listenTCP(t)
	attach := func(a *tlstest.Authority) (*testClient, error) {
		c := dialAddress(t, "tcp", address)
		c.greeting()
		c.send(be32(3))
		return c.startTLS(trusting(a, a.Client(t, "client1")))
	}
	first, err := attach(old)
	if err != nil {
		t.Fatal(err)
	}
	first.goTo("swap")
	keys.Store(&TLSKeys{Certificate: renewed.Server(t), ClientCAs: renewed.Pool()})
	if _, err := attach(old); err == nil {
		t.Error("the old certificate is shown still")
	}
	second, err := attach(renewed)
	if err != nil {
		t.Fatal(err)
	}
	second.goTo("swap")
	for _, c := range []*testClient{first, second} {
		if !bytes.Equal(c.readBack(4096, 4096), device.data[4096:8192]) {
			t.Error("read the wrong bytes")
		}
	}
	var names []string
	for _, c := range s.Clients() {
		names = append(names, fmt.Sprint(c.Encrypted, " ", c.Certificate))
	}
	if got := strings.Join(names, ", "); got != "true client1, true client1" {
		t.Errorf("clients: %s", got)
	}
}

func TestTLSConfig(t *testing.T) {
	authority := tlstest.NewAuthority(t, "tmemd test")
	none := func() *TLSKeys { return nil }
	for _, test := range []struct {
		name string
		tls  TLS
		good bool
	}{
		{"off", TLS{}, true},
		{"off, with keys", TLS{Keys: none}, true},
		{"on", TLS{Mode: TLSRequired, Keys: newTestKeys(authority.Server(t), nil).Load}, true},
		{"without a source", TLS{Mode: TLSOptional}, false},
		{"without keys", TLS{Mode: TLSRequired, Keys: none}, false},
		{"unknown mode", TLS{Mode: 3, Keys: newTestKeys(authority.Server(t), nil).Load}, false},
		{"negative mode", TLS{Mode: -1}, false},
	} {
		s, err := NewServer(Config{TLS: test.tls})
		if (err == nil) != test.good {
			t.Errorf("%s: %v", test.name, err)
		}
		if err == nil {
			s.Close()
		}
	}
}
