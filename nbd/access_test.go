package nbd

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/tmemd/tmemd/nbd/tlstest"
)

// lockedBuffer is a log that a test reads.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// Who may open what, in every way to ask for it.
func TestAccess(t *testing.T) {
	authority := tlstest.NewAuthority(t, "tmemd test")
	me, other := uint32(os.Geteuid()), uint32(os.Geteuid()+1)
	myGroup, otherGroup := uint32(os.Getegid()), uint32(os.Getegid()+1)
	certificate := func(commonName string, names ...string) *tls.Certificate {
		c := authority.Client(t, commonName, names...)
		return &c
	}
	const (
		unix, tcp = "unix", "tcp"
		demanded  = true // client certificates
	)
	for _, test := range []struct {
		name     string
		access   *Access
		demanded bool
		network  string
		shows    *tls.Certificate // encrypted if certificates are demanded
		want     string           // the reason for refusing, or "" for letting in
	}{
		{"no rules, Unix", nil, false, unix, nil, ""},
		{"no rules, TCP", nil, false, tcp, nil, ""},
		{"no rules, Unix, certificates demanded", nil, demanded, unix, nil, ""},
		{"no rules, TCP, certificate", nil, demanded, tcp, certificate("client1"), deniedCertificate},

		{"empty rules, Unix", &Access{}, false, unix, nil, deniedCredentials},
		{"empty rules, TCP", &Access{}, false, tcp, nil, deniedAnonymous},
		{"empty rules, certificate", &Access{}, demanded, tcp, certificate("client1"), deniedCertificate},

		{"user", &Access{UIDs: []uint32{other, me}}, false, unix, nil, ""},
		{"another user", &Access{UIDs: []uint32{other}}, false, unix, nil, deniedCredentials},
		{"group", &Access{GIDs: []uint32{myGroup}}, false, unix, nil, ""},
		{"another group", &Access{GIDs: []uint32{otherGroup}}, false, unix, nil, deniedCredentials},
		{"another user, group", &Access{UIDs: []uint32{other}, GIDs: []uint32{myGroup}}, false, unix, nil, ""},
		{"user number as group number", &Access{GIDs: []uint32{otherGroup}, UIDs: []uint32{other}}, false, unix, nil, deniedCredentials},
		{"user, TCP", &Access{UIDs: []uint32{me}}, false, tcp, nil, deniedAnonymous},
		{"certificate rules, Unix without", &Access{Certificates: []string{"client1"}, AnyCertificate: true}, demanded, unix, nil, deniedCredentials},

		{"common name", &Access{Certificates: []string{"client1"}}, demanded, tcp, certificate("client1"), ""},
		{"one of several", &Access{Certificates: []string{"client0", "client1"}}, demanded, tcp, certificate("client1"), ""},
		{"DNS name", &Access{Certificates: []string{"swap.example.org"}}, demanded, tcp, certificate("client1", "a.example.org", "swap.example.org"), ""},
		{"DNS name without a common name", &Access{Certificates: []string{"swap.example.org"}}, demanded, tcp, certificate("", "swap.example.org"), ""},
		{"URI", &Access{Certificates: []string{"spiffe://example.org/host/7"}}, demanded, tcp, certificate("", "spiffe://example.org/host/7"), ""},
		{"another name", &Access{Certificates: []string{"client2"}}, demanded, tcp, certificate("client1"), deniedCertificate},
		{"a longer name", &Access{Certificates: []string{"client"}}, demanded, tcp, certificate("client1"), deniedCertificate},
		{"a shorter name", &Access{Certificates: []string{"client11"}}, demanded, tcp, certificate("client1"), deniedCertificate},
		{"capitals", &Access{Certificates: []string{"Client1"}}, demanded, tcp, certificate("client1"), deniedCertificate},
		{"a name below", &Access{Certificates: []string{"example.org"}}, demanded, tcp, certificate("", "swap.example.org"), deniedCertificate},
		{"an asterisk is a name like others", &Access{Certificates: []string{"*"}}, demanded, tcp, certificate("client1"), deniedCertificate},
		{"an asterisk in the certificate", &Access{Certificates: []string{"swap.example.org"}}, demanded, tcp, certificate("", "*.example.org"), deniedCertificate},
		{"any certificate", &Access{AnyCertificate: true}, demanded, tcp, certificate("client1"), ""},
		{"any certificate, Unix", &Access{AnyCertificate: true}, demanded, unix, certificate("client1"), ""},
		{"certificate or user, Unix", &Access{Certificates: []string{"client2"}, UIDs: []uint32{me}}, demanded, unix, certificate("client1"), ""},
		{"no name at all, no rule fits", &Access{Certificates: []string{""}}, demanded, tcp, certificate(""), deniedAnonymous},
		{"no certificate asked for, rule wants one", &Access{Certificates: []string{"client1"}}, false, tcp, nil, deniedAnonymous},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log lockedBuffer
			keys := newTestKeys(authority.Server(t), nil)
			if test.demanded {
				keys = newTestKeys(authority.Server(t), authority.Pool())
			}
			device := newMemoryDevice(64 << 10)
			s := startServer(t, Config{
				Log: slog.New(slog.NewTextHandler(&log, nil)),
				TLS: TLS{Mode: TLSOptional, Keys: keys.Load},
				Exports: []Export{
					{Name: "closed", Device: newMemoryDevice(4096), Access: &Access{}},
					{Name: "swap", Device: device, Access: test.access},
				},
			})
			address := s.path
			if test.network == tcp {
				address = s.listenTCP(t)
			}
			connect := func(t *testing.T) *testClient {
				c := dialAddress(t, test.network, address)
				c.greeting()
				c.send(be32(3))
				if test.shows == nil {
					return c
				}
				c, err := c.startTLS(trusting(authority, *test.shows))
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
			open := test.want == ""
			c := connect(t)
			c.send(option(optList))
			if open {
				if got := c.expectReply(optList, repServer); !bytes.HasSuffix(got, []byte("swap")) {
					t.Errorf("listed %q", got)
				}
			}
			c.expectReply(optList, repAck) // and nothing else
			c.send(option(optInfo, infoData("swap")), option(optInfo, infoData("")), option(optInfo, infoData("closed")), option(optInfo, infoData("tape")))
			var texts []string
			for i := range 4 {
				if open && i < 2 {
					c.expectReply(optInfo, repInfo)
					c.expectReply(optInfo, repAck)
					continue
				}
				texts = append(texts, string(c.expectReply(optInfo, repUnknown)))
			}
			for _, text := range texts {
				if text != texts[len(texts)-1] {
					t.Errorf("one can tell a hidden export from none: %q", texts)
				}
			}
			if !open {
				c.send(option(optGo, infoData("swap")))
				c.expectReply(optGo, repUnknown)
			} else {
				c.goTo("swap")
				if !bytes.Equal(c.readBack(4096, 512), device.data[4096:4096+512]) {
					t.Error("read the wrong bytes")
				}
			}
			byName := connect(t)
			byName.send(option(optName, []byte("swap")))
			if open {
				byName.read(10)
				byName.readBack(0, 16)
			} else {
				byName.expectClosed()
			}
			// For "closed" by INFO, and for "swap" by INFO, GO and EXPORT_NAME.
			want := map[string]uint64{}
			switch {
			case !open:
				want[test.want] = 4
			case test.shows != nil:
				want[deniedCertificate] = 1
			case test.network == unix:
				want[deniedCredentials] = 1
			default:
				want[deniedAnonymous] = 1
			}
			eventually(t, "all is counted", func() bool { return fmt.Sprint(s.Stats().AccessDenied) == fmt.Sprint(byReason(deniedReasons, want)) })
			if text := log.String(); !strings.Contains(text, "refused an export") || !strings.Contains(text, "export=closed") {
				t.Errorf("the log says %s", text)
			}
		})
	}
}

// Rules belong to the server once it has them.
func TestAccessCopied(t *testing.T) {
	access := &Access{UIDs: []uint32{uint32(os.Geteuid())}}
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: newMemoryDevice(4096), Access: access}}})
	access.UIDs[0]++
	s.attached(t, "swap")
}

// Users and groups have numbers of their own, which may be equal by chance.
func TestAccessCredentials(t *testing.T) {
	client := &connection{credentials: &Credentials{PID: 1, UID: 1000, GID: 2000}}
	for _, test := range []struct {
		access Access
		want   bool
	}{
		{Access{UIDs: []uint32{1000}}, true},
		{Access{GIDs: []uint32{2000}}, true},
		{Access{UIDs: []uint32{0, 1}, GIDs: []uint32{3, 2000}}, true},
		{Access{UIDs: []uint32{2000}, GIDs: []uint32{1000}}, false},
		{Access{UIDs: []uint32{0}, GIDs: []uint32{0}}, false},
		{Access{Certificates: []string{"", "1000"}, AnyCertificate: true}, false},
	} {
		if got := test.access.admits(client); got != test.want {
			t.Errorf("%+v: admitted %v, want %v", test.access, got, test.want)
		}
	}
}
