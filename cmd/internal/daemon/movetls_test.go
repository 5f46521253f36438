package daemon

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
)

const movingOwner = `
[[export]]
size = "4MiB"
[ramster.tls]
certificate = "FILES/CERT.crt"
key = "FILES/CERT.key"
ca = "FILES/ca.crt"
`

const movingTarget = `
listen = ["unix://DIR/nbd.sock", "tcp://127.0.0.1:0"]
[nbd.tls]
mode = "required"
certificate = "FILES/donor.crt"
key = "FILES/donor.key"
client_ca = "FILES/ca.crt"
[[export]]
size = "4MiB"
`

// TestMoveOverTLS: to a tmemd that wants certificates and lets one host in; another host,
// and one without certificates, stay where they are. The export has another name there.
func TestMoveOverTLS(t *testing.T) {
	files, _ := peers(t)
	dir := t.TempDir()
	to := configured(t, dir, strings.NewReplacer("FILES", files, "DIR", dir).Replace(movingTarget))
	ctx := context.Background()
	_, err := to.client.CreateExport(ctx, admin.CreateRequest{Name: "from-host1", Size: vmSize, Allow: []string{"cert:host1", "uid:0"}})
	must(t, err)
	listen := to.status().Listen
	address := listen[slices.IndexFunc(listen, func(a string) bool { return strings.HasPrefix(a, "tcp://") })]
	move := func(i *instance) (admin.ExportMove, error) {
		return i.client.MoveExport(ctx, "vm1", admin.MoveExportRequest{To: address, As: "from-host1", MaxPauseMS: 5000}, func(admin.ExportMove) {})
	}
	fill := func(i *instance) *nbdtest.Client {
		i.createVM()
		c := i.dialTo("vm1")
		must(t, c.WritePages(1, 0, 500))
		return c
	}
	for certificate, want := range map[string]string{"host2": "no such export", "none": "wants TLS"} {
		var i *instance
		if certificate == "none" {
			i = start(t, t.TempDir())
		} else {
			i = configured(t, t.TempDir(), strings.NewReplacer("FILES", files, "CERT", certificate).Replace(movingOwner))
		}
		c := fill(i)
		if _, err := move(i); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("moved with the certificate of %s: %v, want %q", certificate, err, want)
		}
		must(t, c.CheckPages(1, 0, 500))
		must(t, c.Close())
		i.stop()
	}
	i := configured(t, t.TempDir(), strings.NewReplacer("FILES", files, "CERT", "host1").Replace(movingOwner))
	fill(i).Close()
	done, err := move(i)
	must(t, err)
	if done.To != address+" as from-host1" {
		t.Errorf("%+v", done)
	}
	i.checkRefuses(address + " as from-host1")
	i.stop()
	c := to.dialTo("from-host1") // as root, over the Unix socket
	must(t, c.CheckPages(1, 0, 500))
	must(t, c.CheckZeroes(500, vmPages-500))
	must(t, c.Close())
	to.stop()
}

// TestMoveConfigured: an export of the configuration that moved is not served by later
// runs, killed or not, until it is deleted; then it is made anew, empty.
func TestMoveConfigured(t *testing.T) {
	dir := t.TempDir()
	a, b := start(t, dir), start(t, t.TempDir())
	ctx := context.Background()
	c := a.attach()
	must(t, c.WritePages(1, 0, 1024))
	_, err := b.client.CreateExport(ctx, admin.CreateRequest{Name: "away", Size: "4MiB"})
	must(t, err)
	if _, err = a.client.MoveExport(ctx, "swap", admin.MoveExportRequest{To: b.address(), As: "away", MaxPauseMS: 5000}, func(admin.ExportMove) {}); err != nil {
		t.Fatal(err)
	}
	c.Close() // it was cut
	for range 2 {
		a.stop()
		a = start(t, dir)
		if e, ok := a.export("swap"); !ok || e.MovedTo == "" {
			t.Errorf("a later run has %+v", e)
		}
		if c, err := a.dial(); err == nil {
			t.Error("a later run serves it")
			c.Close()
		}
	}
	must(t, a.client.DeleteExport(ctx, "swap", admin.DeleteRequest{}))
	a.stop()
	a = start(t, dir)
	c = a.attach()
	must(t, c.CheckZeroes(0, 1024))
	must(t, c.Close())
	a.stop()
	c = b.dialTo("away")
	must(t, c.CheckPages(1, 0, 1024))
	must(t, c.Close())
	b.stop()
}
