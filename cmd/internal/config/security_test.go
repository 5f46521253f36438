package config

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/nbd/tlstest"
)

// tlsFolder is a folder with server.crt, server.key, clients.crt, another key
// (other.key) and files that are none of these.
func tlsFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	authority := tlstest.NewAuthority(t, "tmemd test")
	authority.WriteFile(t, dir, "clients.crt")
	tlstest.WriteFiles(t, dir, "server", authority.Server(t))
	tlstest.WriteFiles(t, dir, "other", authority.Server(t))
	for name, text := range map[string]string{"empty": "", "text": "Once upon a time\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "long"), make([]byte, maxPEMFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

const tlsText = "[nbd.tls]\ncertificate = \"DIR/server.crt\"\nkey = \"DIR/server.key\"\n"

func TestTLS(t *testing.T) {
	dir := tlsFolder(t)
	for text, want := range map[string]TLS{
		"":                                {},
		"[nbd.tls]\n":                     {},
		"[nbd.tls]\nmode = \"off\"\n":     {},
		tlsText:                           {nbd.TLSRequired, dir + "/server.crt", dir + "/server.key", ""},
		tlsText + "mode = \"optional\"\n": {nbd.TLSOptional, dir + "/server.crt", dir + "/server.key", ""},
		tlsText + "mode = \"off\"\n":      {nbd.TLSOff, dir + "/server.crt", dir + "/server.key", ""},
		tlsText + "client_ca = \"DIR/clients.crt\"\n": {nbd.TLSRequired, dir + "/server.crt", dir + "/server.key", dir + "/clients.crt"},
	} {
		config, err := parseText(t, dir, text)
		if err != nil {
			t.Errorf("%s\n%v", text, err)
			continue
		}
		if config.NBD.TLS != want {
			t.Errorf("%s\nTLS = %+v, want %+v", text, config.NBD.TLS, want)
		}
		if want.Mode == nbd.TLSOff {
			continue
		}
		keys, err := config.NBD.TLS.Load(NBDTLS)
		if err != nil || keys.Certificate.Leaf.Subject.CommonName != "server" || (keys.ClientCAs != nil) != (want.ClientCA != "") {
			t.Errorf("%s\nkeys %+v, %v", text, keys, err)
		}
	}
}

func TestTLSErrors(t *testing.T) {
	const pemHint = "hint: give it a PEM file that this user may read\n"
	for _, test := range []struct{ name, text, want string }{
		{"mode", "[nbd.tls]\nmode = \"on\"\n", `
error: DIR/tmemd.toml:2: nbd.tls.mode: "on" is no mode
2| mode = "on"
 |        ^
hint: write off, optional or required
`},
		{"no files", "[nbd.tls]\nmode = \"required\"\n", `
error: DIR/tmemd.toml:1: nbd.tls.certificate: it is needed for TLS
1| [nbd.tls]
 |  ^
hint: write certificate = "/etc/tmemd/server.crt"
error: DIR/tmemd.toml:1: nbd.tls.key: it is needed for TLS
1| [nbd.tls]
 |  ^
hint: write key = "/etc/tmemd/server.key"
`},
		{"no key", "[nbd]\nworkers = 4\n[nbd.tls]\ncertificate = \"DIR/server.crt\"\n", `
error: DIR/tmemd.toml:3: nbd.tls.key: it is needed for TLS
3| [nbd.tls]
 |  ^
hint: write key = "/etc/tmemd/server.key"
`},
		{"relative", "[nbd.tls]\ncertificate = \"server.crt\"\nkey = \"DIR/server.key\"\n", `
error: DIR/tmemd.toml:2: nbd.tls.certificate: "server.crt" is not an absolute path
2| certificate = "server.crt"
 |               ^
hint: write the whole path, from the / on
`},
		{"missing file", "[nbd.tls]\ncertificate = \"DIR/none\"\nkey = \"DIR/server.key\"\n", `
error: DIR/tmemd.toml:2: nbd.tls.certificate: stat DIR/none: no such file or directory
2| certificate = "DIR/none"
 |               ^
` + pemHint},
		{"folder", "[nbd.tls]\ncertificate = \"DIR/server.crt\"\nkey = \"DIR\"\n", `
error: DIR/tmemd.toml:3: nbd.tls.key: DIR is not a file
3| key = "DIR"
 |       ^
` + pemHint},
		{"long file", tlsText + "client_ca = \"DIR/long\"\n", `
error: DIR/tmemd.toml:4: nbd.tls.client_ca: DIR/long has 1048577 bytes, the limit is 1048576
4| client_ca = "DIR/long"
 |             ^
` + pemHint},
		{"no certificate", "[nbd.tls]\ncertificate = \"DIR/server.key\"\nkey = \"DIR/server.key\"\n", `
error: DIR/tmemd.toml:2: nbd.tls.certificate: there is no certificate in DIR/server.key
2| certificate = "DIR/server.key"
 |               ^
` + pemHint},
		{"another key", "[nbd.tls]\ncertificate = \"DIR/server.crt\"\nkey = \"DIR/other.key\"\n", `
error: DIR/tmemd.toml:3: nbd.tls.key: DIR/server.crt and DIR/other.key: tls: private key does not match public key
3| key = "DIR/other.key"
 |       ^
hint: give it the private key, in PEM and without a passphrase, that the certificate was made for
`},
		{"no key in the file", "[nbd.tls]\ncertificate = \"DIR/server.crt\"\nkey = \"DIR/empty\"\n", `
error: DIR/tmemd.toml:3: nbd.tls.key: DIR/server.crt and DIR/empty: tls: failed to find any PEM data in key input
3| key = "DIR/empty"
 |       ^
hint: give it the private key, in PEM and without a passphrase, that the certificate was made for
`},
		{"authority", tlsText + "client_ca = \"DIR/text\"\n", `
error: DIR/tmemd.toml:4: nbd.tls.client_ca: there is no certificate in DIR/text
4| client_ca = "DIR/text"
 |             ^
hint: give it the certificates, in PEM, of the authorities that sign those of clients
`},
		{"misspelt", "[nbd.tls]\nclient_cas = \"DIR/clients.crt\"\n", `
error: DIR/tmemd.toml:2: nbd.tls.client_cas: unknown key
2| client_cas = "DIR/clients.crt"
 | ^
hint: did you mean client_ca?
`},
		{"rule", "[[export]]\nallow = [\"uid:0\", \"user:root\"]\n", `
error: DIR/tmemd.toml:2: export.allow: "user:root" is no rule
2| allow = ["uid:0", "user:root"]
 |                   ^
hint: ` + AccessSyntax + "\n"},
		{"nobody", "[[export]]\nallow = []\n", `
error: DIR/tmemd.toml:2: export.allow: nobody may open the export
2| allow = []
 | ^
hint: leave it out, or list who may: allow = ["cert:client1", "uid:1000", "gid:1000"]
`},
		{"certificates that nobody asks for", "[[export]]\nallow = [\"cert:client1\"]\n" + tlsText, `
error: DIR/tmemd.toml:2: export.allow: "cert:client1" fits nobody: clients are not asked for certificates
2| allow = ["cert:client1"]
 |          ^
hint: set client_ca in [nbd.tls] to the authority that signs certificates of clients
`},
		{"socket", "[nbd]\nsocket_mode = \"u+rw\"\nsocket_owner = \"nobody-of-that-name\"\nsocket_group = \"-1\"\n", `
error: DIR/tmemd.toml:2: nbd.socket_mode: "u+rw" is no mode
2| socket_mode = "u+rw"
 |               ^
hint: write three octal digits in quotes: "0660"
error: DIR/tmemd.toml:3: nbd.socket_owner: "nobody-of-that-name": this system does not know it
3| socket_owner = "nobody-of-that-name"
 |                ^
hint: write a name that this system knows, or a number
error: DIR/tmemd.toml:4: nbd.socket_group: "-1": this system does not know it
4| socket_group = "-1"
 |                ^
hint: write a name that this system knows, or a number
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := tlsFolder(t)
			_, err := parseText(t, dir, test.text)
			var out strings.Builder
			code := cli.Report(&out, err)
			if got, want := strings.ReplaceAll(out.String(), dir, "DIR"), test.want[1:]; got != want || code != cli.ExitUsage {
				t.Errorf("exit code %d and\n%s\nwant code %d and\n%s", code, got, cli.ExitUsage, want)
			}
		})
	}
}

func TestParseAccess(t *testing.T) {
	for _, test := range []struct {
		rules string // with commas between
		want  *nbd.Access
	}{
		{"", nil},
		{"cert:client1", &nbd.Access{Certificates: []string{"client1"}}},
		{"cert:spiffe://example.org/host/7,cert:Host 7", &nbd.Access{Certificates: []string{"spiffe://example.org/host/7", "Host 7"}}},
		{"cert:*", &nbd.Access{AnyCertificate: true}},
		{"cert:*.example.org", &nbd.Access{Certificates: []string{"*.example.org"}}},
		{"uid:0,gid:6,uid:4294967294", &nbd.Access{UIDs: []uint32{0, 4294967294}, GIDs: []uint32{6}}},
	} {
		var rules []string
		if test.rules != "" {
			rules = strings.Split(test.rules, ",")
		}
		got, err := ParseAccess(rules)
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%q: %+v, %v, want %+v", test.rules, got, err, test.want)
		}
	}
	for _, rule := range []string{
		"", "cert", "cert:", "cert:" + strings.Repeat("n", maxCertificateName+1), "CERT:a", "uid:", "uid:root", "uid:-1", "uid:4294967295", "uid:4294967296",
		"gid:1.5", "gid: 1", "anybody", " uid:1", "uid=1", "*",
	} {
		if got, err := ParseAccess([]string{"uid:1", rule}); err == nil {
			t.Errorf("%q: %+v, want an error", rule, got)
		}
	}
}

func TestSocket(t *testing.T) {
	for text, want := range map[string]Socket{
		"socket_mode = \"0660\"\nsocket_owner = \"root\"\nsocket_group = \"root\"\n": {0o660, 0, 0},
		"socket_mode = 0o666\nsocket_owner = 12\nsocket_group = \"34\"\n":            {0o666, 12, 34},
		"socket_group = \"root\"\n": {0o600, -1, 0},
	} {
		config, err := parseText(t, t.TempDir(), "[nbd]\n"+text)
		if err != nil || config.NBD.Socket != want {
			t.Errorf("%s: %v, want %+v", text, err, want)
		}
	}
}

func TestValidity(t *testing.T) {
	now := time.Now()
	c := tlstest.NewAuthority(t, "tmemd test").Issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "x"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}).Leaf
	for after, good := range map[time.Duration]bool{0: true, -2 * time.Hour: false, 2 * time.Hour: false} {
		if err := Validity(c, now.Add(after)); (err == nil) != good {
			t.Errorf("after %v: %v", after, err)
		}
	}
}
