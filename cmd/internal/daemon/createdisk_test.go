package daemon

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// TestLiveDisks: disks are made, resized and deleted while the daemon runs, and are there
// after the next start, however it came about.
func TestLiveDisks(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background()
	file, content := overlays(t, dir, baseUUID)
	begin := func() *instance {
		log := &logBuffer{}
		return run(t, options(t, dir, log, "--config", file), log)
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	i := begin()
	made, err := i.client.CreateDisk(ctx, admin.DiskRequest{Name: "scratch", Path: path("scratch.img"), Size: "1MiB", Mode: "exclusive"})
	if err != nil || made.SizeBytes != 1<<20 || made.Mode != "exclusive" || made.Storage.Path != path("scratch.img") {
		t.Fatalf("CreateDisk = %+v, %v", made, err)
	}
	for _, r := range []admin.DiskRequest{
		{Name: "three", Path: path("three.overlay"), Base: "debian"},
		{Name: "again", Path: path("clone.img"), ReadOnly: true, Shared: baseUUID},
	} {
		_, err := i.client.CreateDisk(ctx, r)
		must(t, err)
	}
	scratch, three, again := i.disk("scratch"), i.disk("three"), i.disk("again")
	i.checkDisk(scratch, make([]byte, 1<<20), 0)
	i.checkDisk(three, content, 0)
	i.checkDisk(again, content, 0)
	own := bytes.Repeat([]byte("own "), 1500)
	_, err = scratch.WriteAt(own, 5000)
	must(t, err)
	_, err = three.WriteAt(own, 5000)
	must(t, err)
	if s := diskNamed(t, i.status(), "again"); s.SuccGets < uint64(len(content)/pageSize) {
		t.Errorf("the clone does not share the base's pages: %+v", s)
	}

	refused := func(doing string, err error, message, hint string) {
		t.Helper()
		if got := reported(err); !strings.Contains(got, message) || !strings.Contains(got, hint) {
			t.Errorf("%s: %q, want %q and %q in it", doing, got, message, hint)
		}
	}
	refused("delete in use", i.client.DeleteDisk(ctx, "scratch", admin.DeleteRequest{}), "disk scratch has clients attached", "umount there")
	_, err = i.client.ResizeDisk(ctx, "scratch", admin.DiskResizeRequest{Size: "2MiB"})
	refused("resize in use", err, "disk scratch has clients attached", "umount there")
	must(t, scratch.Close())
	must(t, three.Close())
	must(t, again.Close())

	i.await("clients to be gone", func() bool { return len(i.status().Clients) == 0 })
	grown, err := i.client.ResizeDisk(ctx, "scratch", admin.DiskResizeRequest{Size: "2MiB"})
	if err != nil || grown.SizeBytes != 2<<20 || grown.Mode != "exclusive" {
		t.Errorf("ResizeDisk = %+v, %v", grown, err)
	}
	want := make([]byte, 2<<20)
	copy(want[5000:], own)
	scratch = i.disk("scratch")
	i.checkDisk(scratch, want, 0)
	i.checkDisk(scratch, want, 0)
	must(t, scratch.Close())
	i.await("the client to be gone", func() bool { return len(i.status().Clients) == 0 })
	_, err = i.client.ResizeDisk(ctx, "scratch", admin.DiskResizeRequest{Size: "1MiB"})
	refused("shrink", err, "disk scratch keeps its size: beyond the new end it has 1 MiB", "--discard")
	shrunk, err := i.client.ResizeDisk(ctx, "scratch", admin.DiskResizeRequest{Size: "1MiB", Discard: true})
	if err != nil || shrunk.SizeBytes != 1<<20 {
		t.Errorf("ResizeDisk = %+v, %v", shrunk, err)
	}
	must(t, os.Truncate(path("scratch.img"), 3<<20))
	if taken, err := i.client.ResizeDisk(ctx, "scratch", admin.DiskResizeRequest{}); err != nil || taken.SizeBytes != 3<<20 {
		t.Errorf("ResizeDisk without a size = %+v, %v", taken, err)
	}
	_, err = i.client.ResizeDisk(ctx, "three", admin.DiskResizeRequest{Size: "8MiB"})
	refused("resize of an overlay", err, "an overlay is as long as its base", "larger base")
	_, err = i.client.ResizeDisk(ctx, "again", admin.DiskResizeRequest{Size: "8MiB"})
	refused("resize of a read-only disk", err, "read only", "leave the size out")
	_, err = i.client.ResizeDisk(ctx, "nobody", admin.DiskResizeRequest{Size: "8MiB"})
	refused("resize of no disk", err, "there is no disk nobody", "disk list")
	refused("removal of what is not ours", i.client.DeleteDisk(ctx, "again", admin.DeleteRequest{RemoveStorage: true}), "is not the daemon's to remove", "without --remove-storage")

	for _, test := range []struct {
		request       admin.DiskRequest
		message, hint string
	}{
		{admin.DiskRequest{Name: "one", Path: path("x.img"), Size: "1MiB"}, "there is a disk or base one already", "choose another name"},
		{admin.DiskRequest{Name: "a b", Path: path("x.img"), Size: "1MiB"}, "name: \"a b\" is not a name", ""},
		{admin.DiskRequest{Name: "x", Path: path("none.img")}, "path: stat ", "with content"},
		{admin.DiskRequest{Name: "x", Path: "none.img", Size: "1MiB"}, "path: \"none.img\" is not an absolute path", "the whole path"},
		{admin.DiskRequest{Name: "x", Path: path("scratch.img")}, "is the disk scratch already", "read_only"},
		{admin.DiskRequest{Name: "x", Path: path("base.img")}, "is the base debian already", "read_only"},
		{admin.DiskRequest{Name: "x", Path: path("scratch.img"), Size: "1MiB"}, "is there already", "leave it out"},
		{admin.DiskRequest{Name: "x", Path: path("x.img"), Size: "5000"}, "size: ", ""},
		{admin.DiskRequest{Name: "x", Path: path("x.overlay"), Base: "ubuntu"}, "base: there is no base ubuntu", "[[base]]"},
		{admin.DiskRequest{Name: "x", Path: path("x.overlay"), Base: "debian", Size: "1MiB"}, "as long as its base", "leave it out"},
		{admin.DiskRequest{Name: "x", Path: path("clone.img"), ReadOnly: true, Shared: otherUUID}, "nobody may share pages", "[[base]]"},
		{admin.DiskRequest{Name: "x", Path: path("clone.img"), Shared: baseUUID}, "is the disk clone already, and one of them is written", "read_only"},
		{admin.DiskRequest{Name: "x", Path: path("x.img"), Size: "1MiB", Mode: "both"}, "mode: \"both\" is no mode", "inclusive"},
		{admin.DiskRequest{Name: "x", Path: path("x.img"), Size: "1MiB", Allow: []string{"me"}}, "allow[0]: ", "uid:NUMBER"},
		{admin.DiskRequest{Name: "x", Path: path("missing/x.img"), Size: "1MiB"}, "path: ", "make its folder first"},
	} {
		_, err := i.client.CreateDisk(ctx, test.request)
		refused("create", err, test.message, test.hint)
	}
	for _, name := range []string{"x.img", "x.overlay"} {
		if _, err := os.Lstat(path(name)); err == nil {
			t.Errorf("%s is left of a disk that was refused", name)
		}
	}
	if _, err := i.client.CreateExport(ctx, admin.CreateRequest{Name: "scratch", Size: "1MiB"}); err == nil {
		t.Error("an export has the name of a disk")
	}
	_, err = i.client.SetDisk(ctx, "scratch", admin.DiskSettings{Mode: "inclusive"})
	must(t, err)
	i.stop()

	i = begin()
	if names := i.disks(); !slices.Equal(names, []string{"debian", "one", "two", "clone", "scratch", "three", "again"}) {
		t.Errorf("after another start there are %q", names)
	}
	if d := diskNamed(t, i.status(), "scratch"); d.Mode != "inclusive" || d.SizeBytes != 3<<20 {
		t.Errorf("after another start the disk is %+v", d)
	}
	three = i.disk("three")
	copy(content[5000:], own)
	i.checkDisk(three, content, 0)
	must(t, three.Close())
	i.await("the client to be gone", func() bool { return len(i.status().Clients) == 0 })
	must(t, i.client.DeleteDisk(ctx, "three", admin.DeleteRequest{RemoveStorage: true}))
	must(t, i.client.DeleteDisk(ctx, "again", admin.DeleteRequest{}))
	if _, err := os.Lstat(path("three.overlay")); err == nil {
		t.Error("the overlay is still there")
	}
	i.stop()
	must(t, os.Rename(path("scratch.img"), path("elsewhere.img")))

	// A disk that is not there does not keep swap from being served.
	i = begin()
	if names := i.disks(); !slices.Equal(names, []string{"debian", "one", "two", "clone"}) {
		t.Errorf("without its file there are %q", names)
	}
	i.awaitLog("a disk is not served")
	_, err = i.client.CreateDisk(ctx, admin.DiskRequest{Name: "scratch", Path: path("new.img"), Size: "1MiB"})
	refused("create", err, "there is a disk scratch already, which could not be opened", "tmemctl disk delete scratch")
	i.stop()
	must(t, os.Rename(path("elsewhere.img"), path("scratch.img")))
	i = begin()
	if names := i.disks(); !slices.Contains(names, "scratch") {
		t.Errorf("with its file back there are %q", names)
	}
	i.stop()
	must(t, os.Remove(path("scratch.img")))
	i = begin()
	must(t, i.client.DeleteDisk(ctx, "scratch", admin.DeleteRequest{RemoveStorage: true}))
	_, err = i.client.CreateDisk(ctx, admin.DiskRequest{Name: "scratch", Path: path("new.img"), Size: "1MiB"})
	must(t, err)
	i.stop()
}

// disks are the names of what is served.
func (i *instance) disks() (names []string) {
	i.t.Helper()
	for _, d := range i.status().Disks {
		names = append(names, d.Name)
	}
	return names
}
