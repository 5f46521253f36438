package daemon

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/nbd/tlstest"
)

// peers are an authority's certificates for a donor and for owners, as files in a folder.
func peers(t *testing.T) (files string, authority *tlstest.Authority) {
	t.Helper()
	files, authority = t.TempDir(), tlstest.NewAuthority(t, "tmemd test")
	authority.WriteFile(t, files, "ca.crt")
	tlstest.WriteFiles(t, files, "donor", authority.Server(t))
	tlstest.WriteFiles(t, files, "host1", authority.Client(t, "host1"))
	tlstest.WriteFiles(t, files, "host2", authority.Client(t, "host2"))
	foreign := tlstest.NewAuthority(t, "another")
	tlstest.WriteFiles(t, files, "foreign", foreign.Client(t, "host1"))
	return files, authority
}

const tcpDonor = `
[donor]
listen = ["tcp://127.0.0.1:0"]
size = "64MiB"
self_sizing = false
[donor.tls]
certificate = "FILES/donor.crt"
key = "FILES/donor.key"
client_ca = "FILES/ca.crt"
[[donor.client]]
name = "cert:host1"
quota = "QUOTA"
`

const tcpOwner = `
[[export]]
size = "8MiB"
[[backend]]
kind = "ramster"
size = "1GiB"
staging = "1MiB"
copies = 1
donors = ["east=tcp://ADDRESS"]
[ramster.tls]
certificate = "FILES/CERT.crt"
key = "FILES/CERT.key"
ca = "FILES/ca.crt"
`

func startTCPDonor(t *testing.T, files, quota string) (i *instance, address string) {
	t.Helper()
	i = startDonor(t, donorFolder(t), strings.NewReplacer("FILES", files, "QUOTA", quota).Replace(tcpDonor))
	return i, strings.TrimPrefix(i.lent().Listen[0], "tcp://")
}

func startOwner(t *testing.T, files, certificate, address string) *instance {
	t.Helper()
	return configured(t, t.TempDir(), strings.NewReplacer("FILES", files, "CERT", certificate, "ADDRESS", address).Replace(tcpOwner))
}

// TestDonorOverTLS: both sides show certificates, and read new ones when they are told to.
func TestDonorOverTLS(t *testing.T) {
	files, authority := peers(t)
	donor, address := startTCPDonor(t, files, "32MiB")
	i := startOwner(t, files, "host1", address)
	i.awaitDonors("east")
	c := i.attach()
	must(t, c.WritePages(1, 0, 1000))
	i.await("the donor to have pages", func() bool { return i.donors()["east"].Pages > 600 })
	must(t, c.CheckPages(1, 0, 1000))
	if l := donor.lent(); l.Sessions != 1 || l.Clients[0].Name != "cert:host1" || l.Clients[0].Sessions != 1 || l.Denied != 0 {
		t.Errorf("lent: %+v", l)
	}

	// Both read their certificates anew; the session stays.
	tlstest.WriteFiles(t, files, "donor", authority.Server(t))
	told, err := donor.client.Reload(context.Background())
	if err != nil || told.Donor == nil || told.TLS != nil || told.Donor.Certificate != "server" {
		t.Errorf("reloaded %+v, %v", told, err)
	}
	told, err = i.client.Reload(context.Background())
	if err != nil || told.Ramster == nil || told.Ramster.Certificate != "host1" {
		t.Errorf("reloaded %+v, %v", told, err)
	}
	must(t, os.WriteFile(filepath.Join(files, "host1.key"), nil, 0o600))
	var wrong *cli.Error
	if _, err = i.client.Reload(context.Background()); !errors.As(err, &wrong) || !strings.Contains(wrong.Problem, "the old certificates are used on: ramster.tls.key: ") {
		t.Errorf("a broken key: %v", err)
	}
	must(t, c.CheckPages(1, 0, 1000))
	must(t, c.Close())
	i.stop()
	donor.stop()
}

// TestStrangers: who shows no certificate, a foreign one, or one that nobody lends to
// learns nothing, and both sides say what is wrong.
func TestStrangers(t *testing.T) {
	files, _ := peers(t)
	donor, address := startTCPDonor(t, files, "32MiB")
	for certificate, logged := range map[string]string{
		"host2":   "the donor lets us in no more: it must list this host as a client",
		"foreign": "remote error: tls:",
	} {
		i := startOwner(t, files, certificate, address)
		i.awaitLog(logged)
		if d := i.donors()["east"]; d.State == "up" || d.Pages > 0 {
			t.Errorf("%s: %+v", certificate, d)
		}
		c := i.attach()
		must(t, c.WritePages(1, 0, 1000)) // more than is staged goes to storage
		must(t, c.CheckPages(1, 0, 1000))
		must(t, c.Close())
		i.stop()
	}
	donor.awaitLog("no [[donor.client]] has one of its names")
	donor.awaitLog("refused a client of lent memory")
	conn, err := net.Dial("tcp", address)
	must(t, err)
	_, err = conn.Write(bytes.Repeat([]byte("tmemram\x01"), 11))
	must(t, err)
	answer := make([]byte, 64)
	if n, _ := conn.Read(answer); n > 7 || n > 0 && answer[0] != 21 { // a TLS alert, or nothing
		t.Errorf("somebody without TLS is told % x", answer[:n])
	}
	conn.Close()
	if donor.lentPages() != 0 || donor.lent().Denied < 3 {
		t.Errorf("lent: %+v", donor.lent())
	}
	donor.stop()
}

// TestWrongName: a donor that is not who its address says is not used, and the list
// says why.
func TestWrongName(t *testing.T) {
	files, authority := peers(t)
	tlstest.WriteFiles(t, files, "donor", authority.Issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "east"}, DNSNames: []string{"east"}}))
	donor, address := startTCPDonor(t, files, "32MiB")
	i := startOwner(t, files, "host1", address)
	i.await("a reason", func() bool {
		return strings.HasPrefix(i.donors()["east"].Reason, "shake hands over TLS: tls: failed to verify certificate: ")
	})
	i.stop()
	donor.stop()
}

// TestQuota: what is beyond it goes on to storage.
func TestQuota(t *testing.T) {
	files, _ := peers(t)
	donor, address := startTCPDonor(t, files, "1MiB")
	i := startOwner(t, files, "host1", address)
	i.awaitDonors("east")
	c := i.attach()
	must(t, c.WritePages(2, 0, 2000))
	must(t, c.CheckPages(2, 0, 2000))
	if l := donor.lent().Clients[0]; l.UsedBytes > 1<<20 || l.Pages == 0 {
		t.Errorf("lent %+v", l)
	}
	if s := i.status(); s.Exports[0].Pages.Storage == 0 {
		t.Errorf("nothing went to storage: %+v", s.Exports[0])
	}
	must(t, c.Close())
	i.stop()
	donor.stop()
}

// TestListedDonors: a file and DNS name donors; who is named no more goes.
func TestListedDonors(t *testing.T) {
	first, second := donorFolder(t), donorFolder(t)
	a, b := startDonor(t, first, donorText), startDonor(t, second, donorText)
	list := filepath.Join(t.TempDir(), "donors")
	write := func(text string) {
		t.Helper()
		must(t, os.WriteFile(list, []byte(strings.NewReplacer("A", first, "B", second).Replace(text)), 0o600))
	}
	write("# who lends\none=unix://A/donor.sock\n")
	i := start(t, t.TempDir(), "--backend", "none")
	ctx := context.Background()
	_, err := i.client.Load(ctx, admin.LoadRequest{Kind: "ramster", Settings: []admin.Setting{{Key: "donors_file", Value: list}}})
	must(t, err)
	i.awaitDonors("one")
	write("one=unix://A/donor.sock\n\ntwo=unix://B/donor.sock\n")
	told, err := i.client.Reload(ctx)
	if err != nil || len(told.DonorsFiles) != 1 || told.DonorsFiles[0] != list {
		t.Errorf("%+v, %v", told, err)
	}
	i.awaitDonors("one", "two")
	write("one=tcp://10.0.0.1:10810\n")
	if got := reported(func() error { _, err := i.client.Reload(ctx); return err }()); !strings.HasPrefix(got,
		"error: the donors of ramster stay as they were: donors_file: tcp://10.0.0.1:10810 needs TLS\nhint: ") {
		t.Errorf("reload said %q", got)
	}
	write("two=unix://B/donor.sock\n")
	_, err = i.client.Reload(ctx)
	must(t, err)
	i.awaitDonors("two")
	i.stop()
	a.stop()
	b.stop()
}

// TestDonorsOfDNS: SRV records name donors.
func TestDonorsOfDNS(t *testing.T) {
	files, _ := peers(t)
	donor, address := startTCPDonor(t, files, "32MiB")
	_, port, err := net.SplitHostPort(address)
	must(t, err)
	text := strings.NewReplacer("FILES", files, "CERT", "host1", `donors = ["east=tcp://ADDRESS"]`, `donors_srv = "_tmemd._tcp.example.org"`).Replace(tcpOwner)
	dir, log := t.TempDir(), &logBuffer{}
	o := options(t, dir, log, "--config", writeConfig(t, dir, text))
	o.LookUp = func(_ context.Context, name string) ([]*net.SRV, error) {
		if name != "_tmemd._tcp.example.org" {
			return nil, fmt.Errorf("no such name: %s", name)
		}
		var number uint16
		_, err := fmt.Sscan(port, &number)
		return []*net.SRV{{Target: "127.0.0.1.", Port: number}}, err
	}
	i := run(t, o, log)
	i.awaitDonors("127.0.0.1-" + port)
	i.stop()
	donor.stop()
}
