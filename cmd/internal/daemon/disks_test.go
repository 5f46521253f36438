package daemon

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
)

// startDisks starts a daemon with the export swap, a disk of 400 pages and the same
// read only under another name.
func startDisks(t *testing.T, dir string) (i *instance, content []byte) {
	t.Helper()
	content = make([]byte, 400*pageSize)
	for page := range 400 {
		backendtest.FillMixed(content[page*pageSize:][:pageSize], uint64(page))
	}
	image, base := filepath.Join(dir, "data.img"), filepath.Join(dir, "base.img")
	for _, path := range []string{image, base} {
		if _, err := os.Stat(path); err != nil {
			must(t, os.WriteFile(path, content, 0o600))
		}
	}
	file := filepath.Join(dir, "tmemd.toml")
	must(t, os.WriteFile(file, []byte(`
[[export]]
name = "swap"
size = "4MiB"
[[disk]]
name = "data"
path = "`+image+`"
[[disk]]
name = "base"
path = "`+base+`"
read_only = true
`), 0o600))
	log := &logBuffer{}
	return run(t, options(t, dir, log, "--config", file), log), content
}

func (i *instance) disk(name string) *nbdtest.Client {
	i.t.Helper()
	c, err := nbdtest.Dial("unix", filepath.Join(i.dir, "nbd.sock"), name)
	if err != nil {
		i.t.Fatal(err)
	}
	return c
}

func (i *instance) checkDisk(c *nbdtest.Client, want []byte, off int64) {
	i.t.Helper()
	got := make([]byte, len(want))
	if _, err := c.ReadAt(got, off); err != nil || !bytes.Equal(got, want) {
		i.t.Fatalf("%d bytes at %d are not what they should be: %v", len(want), off, err)
	}
}

// TestDisks: disks are cached in the backends of swap, which come and go; what was
// written is on storage.
func TestDisks(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background()
	i, content := startDisks(t, dir)
	one, other, base := i.disk("data"), i.disk("data"), i.disk("base")
	swap := i.attach()
	must(t, swap.WritePages(1, 0, 100))
	i.checkDisk(one, content, 0)
	i.checkDisk(other, content, 0)
	i.checkDisk(base, content[5000:9000], 5000)
	s := i.status()
	if d := s.Disks[0]; d.Name != "data" || d.FailedGets != 400 || d.SuccGets != 400 || d.Backends["zcache"] != 400 ||
		d.Storage.PagesRead != 400 || d.Clients != 2 || d.ReadOnly || d.Mode != "inclusive" {
		t.Errorf("the disk is %+v", d)
	}
	if d := s.Disks[1]; d.Name != "base" || !d.ReadOnly || d.FailedGets != 2 {
		t.Errorf("the read-only disk is %+v", d)
	}
	if b := s.Backends[0]; b.Pages == 0 || b.Pages > 100 || b.EphemeralPages != 402 {
		t.Errorf("zcache has %d pages of swap and %d of disks", b.Pages, b.EphemeralPages)
	}

	// A write of one client is what the other reads, in the middle of a page too.
	_, err := one.WriteAt([]byte("hello"), 3*pageSize+700)
	must(t, err)
	copy(content[3*pageSize+700:], "hello")
	i.checkDisk(other, content, 0)
	must(t, other.WriteZeroes(10*pageSize+512, 20*pageSize))
	clear(content[10*pageSize+512:][:20*pageSize])
	i.checkDisk(one, content, 0)
	must(t, one.Trim(50*pageSize, pageSize))
	clear(content[50*pageSize:][:pageSize])
	i.checkDisk(other, content, 0)
	if _, err := base.WriteAt([]byte("hello"), 0); err == nil {
		t.Error("a read-only disk was written")
	}

	// Backends come and go.
	must(t, i.client.Replace(ctx, "zcache", admin.LoadRequest{Kind: "zcache", Name: "second", Size: "8MiB"}, quiet))
	i.checkDisk(one, content, 0)
	i.checkDisk(one, content, 0)
	if d := i.status().Disks[0]; d.Backends["second"] == 0 || d.Backends["zcache"] != 0 {
		t.Errorf("after a replacement pages are in %v", d.Backends)
	}
	d, err := i.client.SetDisk(ctx, "data", admin.DiskSettings{Mode: "exclusive"})
	if err != nil || d.Mode != "exclusive" {
		t.Errorf("SetDisk = %+v, %v", d, err)
	}
	i.checkDisk(one, content, 0)
	if d := i.status().Disks[0]; d.Backends["second"] != 0 {
		t.Errorf("in exclusive mode %v are left after a read of all", d.Backends)
	}
	must(t, i.client.Unload(ctx, "second", quiet))
	i.checkDisk(other, content, 0)
	must(t, swap.CheckPages(1, 0, 100))
	must(t, one.Flush())

	for _, test := range []struct{ name, mode, text string }{
		{"data", "both", "error: mode: \"both\" is no mode: it is inclusive or exclusive\nhint: write inclusive "},
		{"swap", "exclusive", "error: there is no disk swap\nhint: tmemctl disk list shows what there is\n"},
	} {
		_, err := i.client.SetDisk(ctx, test.name, admin.DiskSettings{Mode: test.mode})
		if got := reported(err); !strings.HasPrefix(got, test.text) {
			t.Errorf("SetDisk said %q, want %q", got, test.text)
		}
	}
	if _, err := i.client.CreateExport(ctx, admin.CreateRequest{Name: "data", Size: "1MiB"}); err == nil {
		t.Error("an export has the name of a disk")
	}
	answer, err := http.Get(i.status().Metrics)
	must(t, err)
	text, err := io.ReadAll(answer.Body)
	must(t, err)
	must(t, answer.Body.Close())
	for _, line := range []string{`tmemd_cleancache_mode{disk="data",mode="exclusive"} 1`, `tmemd_storage_errors_total{export="base",operation="read"} 0`} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("metrics have no line %s", line)
		}
	}
	for _, c := range []*nbdtest.Client{one, other, base, swap} {
		must(t, c.Close())
	}
	i.stop()
	got, err := os.ReadFile(filepath.Join(dir, "data.img"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("the image is not what was written: %v", err)
	}
}

// TestDisksOnly: a daemon may serve disks and no swap, and starts again after it was
// stopped.
func TestDisksOnly(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "data.img")
	must(t, os.WriteFile(image, make([]byte, 8*pageSize), 0o600))
	file := filepath.Join(dir, "tmemd.toml")
	must(t, os.WriteFile(file, []byte("[[disk]]\nname = \"data\"\npath = \""+image+"\"\n"), 0o600))
	for round := range byte(2) {
		log := &logBuffer{}
		i := run(t, options(t, dir, log, "--config", file), log)
		c := i.disk("data")
		i.checkDisk(c, bytes.Repeat([]byte{round}, 100), 4000)
		_, err := c.WriteAt(bytes.Repeat([]byte{round + 1}, 100), 4000)
		must(t, err)
		must(t, c.Close())
		if n := len(i.status().Exports); n != 0 {
			t.Errorf("there are %d exports", n)
		}
		i.stop()
	}
}

// TestDiskFaults: storage of a disk can be made to fail, and what is cached is served.
func TestDiskFaults(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background()
	image := filepath.Join(dir, "data.img")
	must(t, os.WriteFile(image, make([]byte, 8*pageSize), 0o600))
	file := filepath.Join(dir, "tmemd.toml")
	must(t, os.WriteFile(file, []byte("[[disk]]\nname = \"data\"\npath = \""+image+"\"\n"), 0o600))
	log := &logBuffer{}
	i := run(t, options(t, dir, log, "--config", file, "--allow-faults"), log)
	c := i.disk("data")
	i.checkDisk(c, make([]byte, pageSize), 0)
	_, err := i.client.SetFaults(ctx, "data", []string{"read error", "write error"})
	must(t, err)
	i.checkDisk(c, make([]byte, pageSize), 0)
	if _, err := c.ReadAt(make([]byte, pageSize), pageSize); err == nil {
		t.Error("a read of storage that fails succeeds")
	}
	if _, err := c.WriteAt(make([]byte, pageSize), 0); err == nil {
		t.Error("a write to storage that fails succeeds")
	}
	// An answer is counted when it is sent, and may be here before.
	i.await("both errors are counted", func() bool {
		d := i.status().Disks[0]
		return d.Errors["read"] == 1 && d.Errors["write"] == 1
	})
	must(t, c.Close())
	i.stop()
}

// TestDiskFails: what cannot be opened is said with a cure, and nothing is made.
func TestDiskFails(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "data.img")
	must(t, os.WriteFile(image, make([]byte, 5000), 0o600))
	file := filepath.Join(dir, "tmemd.toml")
	must(t, os.WriteFile(file, []byte("[[disk]]\nname = \"data\"\npath = \""+image+"\"\n"), 0o600))
	log := &logBuffer{}
	_, err := Open(options(t, dir, log, "--config", file))
	if got := reported(err); !strings.Contains(got, "disk.path") || !strings.Contains(got, "not a positive multiple of 4096") || !strings.Contains(got, "truncate") {
		t.Errorf("Open said %q", got)
	}
	if st, err := os.Stat(image); err != nil || st.Size() != 5000 {
		t.Errorf("the file was changed: %v", err)
	}
}
