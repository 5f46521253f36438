package daemon

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/cmd/internal/admin"
)

const (
	baseUUID  = "0e3a5c84-93f1-4d2e-a1b7-5f60c9d8e721"
	otherUUID = "1e3a5c84-93f1-4d2e-a1b7-5f60c9d8e721"
)

// overlays writes a configuration with a base, two overlays over it and a clone of it,
// and returns its path and the base's content.
func overlays(t *testing.T, dir, uuid string) (file string, content []byte) {
	t.Helper()
	content = make([]byte, 300*pageSize)
	for page := range 300 {
		backendtest.FillMixed(content[page*pageSize:][:pageSize], uint64(page))
	}
	for _, name := range []string{"base.img", "clone.img"} {
		must(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	file = filepath.Join(dir, "tmemd.toml")
	must(t, os.WriteFile(file, fmt.Appendf(nil, `
[[base]]
name = "debian"
path = "%[1]s/base.img"
uuid = "%[2]s"
[[disk]]
name = "one"
path = "%[1]s/one.overlay"
base = "debian"
[[disk]]
name = "two"
path = "%[1]s/two.overlay"
base = "debian"
[[disk]]
name = "clone"
path = "%[1]s/clone.img"
read_only = true
shared = "%[2]s"
`, dir, uuid), 0o600))
	return file, content
}

func diskNamed(t *testing.T, s admin.Status, name string) admin.Disk {
	t.Helper()
	for _, d := range s.Disks {
		if d.Name == name {
			return d
		}
	}
	t.Fatalf("there is no disk %s in %+v", name, s.Disks)
	return admin.Disk{}
}

// TestOverlays: what one disk reads of a base is cached for all that lie over it or share
// with it, and what one writes is its own, also in the next run.
func TestOverlays(t *testing.T) {
	dir := t.TempDir()
	file, content := overlays(t, dir, baseUUID)
	log := &logBuffer{}
	i := run(t, options(t, dir, log, "--config", file), log)
	one, two, clone := i.disk("one"), i.disk("two"), i.disk("clone")
	for _, c := range []interface {
		ReadAt([]byte, int64) (int, error)
	}{one, two, clone} {
		got := make([]byte, len(content))
		if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, content) {
			t.Fatalf("a disk is not its base: %v", err)
		}
	}
	s := i.status()
	if d := diskNamed(t, s, "debian"); d.FailedGets != 300 || d.SuccGets != 600 || d.Storage.PagesRead != 300 || !d.ReadOnly {
		t.Errorf("the base is %+v", d)
	}
	if d := diskNamed(t, s, "clone"); d.Storage.PagesRead != 0 {
		t.Errorf("the clone read %d pages that are cached", d.Storage.PagesRead)
	}
	if n := s.Backends[0].EphemeralPages; n != 300 {
		t.Errorf("%d pages are cached, want those of one base", n)
	}
	_, err := one.WriteAt([]byte("hello"), 5000)
	must(t, err)
	_, err = two.WriteAt([]byte("world"), 5003)
	must(t, err)
	must(t, two.Trim(20*pageSize, 4*pageSize))
	first, second := bytes.Clone(content), bytes.Clone(content)
	copy(first[5000:], "hello")
	copy(second[5003:], "world")
	clear(second[20*pageSize:][:4*pageSize])
	for range 2 {
		i.checkDisk(one, first, 0)
		i.checkDisk(two, second, 0)
		i.checkDisk(clone, content, 0)
	}
	for _, c := range []interface{ Close() error }{one, two, clone} {
		must(t, c.Close())
	}
	i.stop()

	log = &logBuffer{}
	i = run(t, options(t, dir, log, "--config", file), log)
	one, two = i.disk("one"), i.disk("two")
	i.checkDisk(one, first, 0)
	i.checkDisk(two, second, 0)
	must(t, one.Close())
	must(t, two.Close())
	i.stop()
	if got, err := os.ReadFile(filepath.Join(dir, "base.img")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the base was changed: %v", err)
	}

	file, _ = overlays(t, dir, otherUUID)
	_, err = Open(options(t, dir, &logBuffer{}, "--config", file))
	if got := reported(err); !strings.Contains(got, "disk.path") || !strings.Contains(got, "lies over another base") {
		t.Errorf("opened over another base: %q", got)
	}
}
