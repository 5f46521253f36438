//go:build interop

package interop

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/nbd/tlstest"
)

// credentials writes what a client has, under the names that libnbd and qemu
// look for, and returns the folder. No certificate is a client without one.
func credentials(t *testing.T, authority *tlstest.Authority, client *tls.Certificate) string {
	t.Helper()
	dir := t.TempDir()
	authority.WriteFile(t, dir, "ca-cert.pem")
	if client == nil {
		return dir
	}
	certificate, key := tlstest.WriteFiles(t, dir, "client", *client)
	for from, to := range map[string]string{certificate: "client-cert.pem", key: "client-key.pem"} {
		if err := os.Rename(from, filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// encrypted is where a client finds the export, and what it shows.
type encrypted struct {
	host, port string
	dir        string // credentials
	uri        string // for libnbd
}

// qemu are the options that qemu's programs need, and the image.
func (x encrypted) qemu(export string) (object, image string) {
	return "tls-creds-x509,id=tls0,endpoint=client,dir=" + x.dir,
		fmt.Sprintf("driver=nbd,host=%s,port=%s,export=%s,tls-creds=tls0", x.host, x.port, export)
}

// TestTLS has clients that others wrote encrypt, and show certificates of which
// some are let in.
func TestTLS(t *testing.T) {
	authority, stranger := tlstest.NewAuthority(t, "tmemd test"), tlstest.NewAuthority(t, "somebody else")
	files, dir := t.TempDir(), t.TempDir()
	authority.WriteFile(t, files, "clients.crt")
	tlstest.WriteFiles(t, files, "server", authority.Server(t))
	host7, host8, impostor := authority.Client(t, "host7"), authority.Client(t, "", "host8.example.org"), stranger.Client(t, "host7")
	d := start(t, dir, settings(t, strings.NewReplacer("FILES", files, "DIR", dir, "SIZE", fmt.Sprint(exportSize)).Replace(`
listen = ["unix://DIR/nbd.sock", "tcp://127.0.0.1:0"]
[nbd.tls]
mode = "required"
certificate = "FILES/server.crt"
key = "FILES/server.key"
client_ca = "FILES/clients.crt"
[[export]]
name = "swap"
size = SIZE
allow = ["cert:host7", "uid:0"]
[[export]]
name = "other"
size = SIZE
allow = ["cert:host8.example.org"]
`)))
	host, port, err := net.SplitHostPort(d.address("tcp"))
	if err != nil {
		t.Fatal(err)
	}
	as := func(client *tls.Certificate, by *tlstest.Authority) encrypted {
		x := encrypted{host: host, port: port, dir: credentials(t, by, client)}
		x.uri = fmt.Sprintf("nbds://%s:%s/swap?tls-certificates=%s", host, port, x.dir)
		return x
	}
	x := as(&host7, authority)

	t.Run("nbdinfo", func(t *testing.T) { testTLSNbdinfo(t, x) })
	t.Run("nbdcopy", func(t *testing.T) {
		file := sample(t, exportSize, 61)
		copyIn(t, file, x.uri)
		copyBack(t, x.uri, file)
		copyBack(t, d.uri("unix"), file) // in the clear, by user
	})
	t.Run("qemu-io", func(t *testing.T) {
		object, image := x.qemu("swap")
		run(t, "qemu-io", "--object", object, "--image-opts", image,
			"-c", "write -P 0x71 64k 3M", "-c", "write -P 0x72 4096 512", "-c", "flush",
			"-c", "read -P 0x71 64k 3M", "-c", "read -P 0x72 4096 512", "-c", "discard 64k 64k", "-c", "read -P 0x71 128k 1M")
	})
	t.Run("qemu-img", func(t *testing.T) {
		file := sample(t, exportSize, 62)
		object, image := x.qemu("swap")
		local := "driver=raw,file.driver=file,file.filename=" + file
		run(t, "qemu-img", "convert", "--object", object, "-n", "--image-opts", local, "--target-image-opts", image)
		run(t, "qemu-img", "compare", "--object", object, "--image-opts", local, image)
	})
	t.Run("qemu-nbd", func(t *testing.T) {
		object, _ := x.qemu("swap")
		text := run(t, "qemu-nbd", "--list", "--object", object, "--tls-creds", "tls0", "--bind", x.host, "--port", x.port)
		if !strings.Contains(text, "exports available: 1") || !strings.Contains(text, "'swap'") || strings.Contains(text, "other") {
			t.Errorf("want the one export that this client may open:\n%s", text)
		}
	})
	t.Run("nbdkit", func(t *testing.T) {
		file := sample(t, exportSize, 63)
		run(t, "nbdkit", "-U", "-", "nbd", "hostname="+x.host, "port="+x.port, "export=swap",
			"tls=require", "tls-certificates="+x.dir, "--run", "nbdcopy --flush "+file+` "$uri"`)
		copyBack(t, x.uri, file)
	})
	t.Run("refused", func(t *testing.T) {
		for name, args := range map[string][]string{
			"in the clear":            {fmt.Sprintf("nbd://%s:%s/swap", host, port)},
			"no certificate":          {as(nil, authority).uri},
			"a certificate of others": {as(&impostor, authority).uri},
			"not on the list":         {as(&host8, authority).uri},
			"a server not trusted":    {as(&host7, stranger).uri},
		} {
			t.Run(name, func(t *testing.T) {
				if r := try(t.Context(), "nbdinfo", args...); r.err == nil {
					t.Errorf("it was let in:\n%v", r)
				}
			})
		}
		// The other client is in for its own export, by DNS name.
		other := as(&host8, authority)
		if text := run(t, "nbdinfo", "--list", "--json", other.uri); !strings.Contains(text, `"other"`) || strings.Contains(text, `"swap"`) {
			t.Errorf("it sees\n%s", text)
		}
		if text := d.log(); !strings.Contains(text, "refused an export") || !strings.Contains(text, "host8.example.org") {
			t.Error("the log does not say who was refused")
		}
	})
	t.Run("reload", func(t *testing.T) {
		renewed := tlstest.NewAuthority(t, "the next one")
		renewed.WriteFile(t, files, "clients.crt")
		tlstest.WriteFiles(t, files, "server", renewed.Server(t))
		run(t, "nbdinfo", "--size", x.uri) // nothing happens by itself
		d.control("reload")
		if r := try(t.Context(), "nbdinfo", "--size", x.uri); r.err == nil {
			t.Errorf("the old certificates are good still:\n%v", r)
		}
		client := renewed.Client(t, "host7")
		run(t, "nbdinfo", "--size", as(&client, renewed).uri)
	})
	for command, n := range d.status().Exports[0].Errors {
		if n != 0 {
			t.Errorf("%d %s requests were answered with an error", n, command)
		}
	}
	d.stop()
}

func testTLSNbdinfo(t *testing.T, x encrypted) {
	var told struct {
		Protocol string           `json:"protocol"`
		TLS      bool             `json:"TLS"`
		Exports  []map[string]any `json:"exports"`
	}
	text := run(t, "nbdinfo", "--json", x.uri)
	if err := json.Unmarshal([]byte(text), &told); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	if !told.TLS || told.Protocol != "newstyle-fixed" || len(told.Exports) != 1 || told.Exports[0]["export-size"] != float64(exportSize) {
		t.Errorf("want one export by fixed newstyle with TLS:\n%s", text)
	}
	text = run(t, "nbdinfo", "--list", "--json", x.uri)
	if !strings.Contains(text, `"swap"`) || strings.Contains(text, `"other"`) {
		t.Errorf("the list is\n%s", text)
	}
}
