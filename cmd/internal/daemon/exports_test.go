package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
)

// reported is what a command prints about an error.
func reported(err error) string {
	var out strings.Builder
	cli.Report(&out, err)
	return out.String()
}

// TestWritethrough: switched on, storage gets what backends have already and
// what they take from then on.
func TestWritethrough(t *testing.T) {
	i, ctx := start(t, t.TempDir()), context.Background()
	c := i.attach()
	must(t, c.WritePages(1, 0, 300))
	e := i.status().Exports[0]
	if e.Writethrough != "off" || e.Storage.PagesWritten != 100 {
		t.Errorf("at first: %+v", e)
	}
	e, err := i.client.SetExport(ctx, "swap", admin.ExportSettings{Writethrough: "async"})
	if err != nil || e.Writethrough != "async" {
		t.Fatalf("SetExport = %+v, %v", e, err)
	}
	i.await("the older pages to be copied", func() bool { return i.status().Exports[0].Storage.PagesWritten >= 300 })
	if _, err = i.client.SetExport(ctx, "swap", admin.ExportSettings{Writethrough: "sync"}); err != nil {
		t.Fatal(err)
	}
	before := i.status().Exports[0].Storage.PagesWritten
	must(t, c.WritePages(2, 300, 90))
	if e = i.status().Exports[0]; e.Storage.PagesWritten < before+90 || e.Pages.Backends["zcache"] != 260 {
		t.Errorf("with sync: %+v", e)
	}
	written := e.Storage.PagesWritten
	must(t, i.client.Unload(ctx, "zcache", quiet))
	if e = i.status().Exports[0]; e.Storage.PagesWritten != written || e.Pages.Storage != 390 {
		t.Errorf("a drain of pages that storage has wrote: %+v", e)
	}
	must(t, c.CheckPages(1, 0, 300))
	must(t, c.Close())

	for _, test := range []struct{ name, mode, text string }{
		{"swap", "on", "error: writethrough: \"on\" is no mode\nhint: write off, async "},
		{"scratch", "off", "error: there is no export scratch\nhint: tmemctl export list shows what there is\n"},
	} {
		_, err := i.client.SetExport(ctx, test.name, admin.ExportSettings{Writethrough: test.mode})
		if got := reported(err); !strings.HasPrefix(got, test.text) {
			t.Errorf("SetExport said %q, want %q", got, test.text)
		}
	}
	i.stop()
}

// TestCreateDelete: an export is made, used, and deleted when nobody uses it,
// with the pages that backends have of it. A change that cannot be noted does
// not happen.
func TestCreateDelete(t *testing.T) {
	i, ctx := start(t, t.TempDir()), context.Background()
	socket := filepath.Join(i.dir, "nbd.sock")
	_, err := i.client.CreateExport(ctx, admin.CreateRequest{Name: "scratch", Size: "2MiB"})
	must(t, err)
	c, err := nbdtest.Dial("unix", socket, "scratch")
	must(t, err)
	must(t, c.WritePages(1, 0, 300))
	if got := reported(i.client.DeleteExport(ctx, "scratch", admin.DeleteRequest{})); !strings.HasPrefix(got, "error: export scratch has clients attached\nhint: ") {
		t.Errorf("DeleteExport said %q", got)
	}
	must(t, c.CheckPages(1, 0, 300))
	must(t, c.Close())
	i.await("the client to be gone", func() bool { return len(i.status().Clients) == 0 })

	obstacle := filepath.Join(i.dir, "state.json.new")
	must(t, os.Mkdir(obstacle, 0o700))
	if err := i.client.DeleteExport(ctx, "scratch", admin.DeleteRequest{}); err == nil {
		t.Error("deleted without a note")
	}
	if _, err := i.client.CreateExport(ctx, admin.CreateRequest{Name: "other", Size: "2MiB"}); err == nil {
		t.Error("created without a note")
	}
	if _, err := os.Stat(filepath.Join(i.dir, "other.img")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of an export that was not created: %v", err)
	}
	must(t, os.Remove(obstacle))
	c, err = nbdtest.Dial("unix", socket, "scratch")
	must(t, err)
	must(t, c.CheckPages(1, 0, 300))
	must(t, c.Close())
	i.await("the client to be gone", func() bool { return len(i.status().Clients) == 0 })

	must(t, i.client.DeleteExport(ctx, "scratch", admin.DeleteRequest{RemoveStorage: true}))
	s := i.status()
	if len(s.Exports) != 1 || s.Backends[0].Pages != 0 {
		t.Errorf("after the deletion: %+v", s)
	}
	if _, err := nbdtest.Dial("unix", socket, "scratch"); err == nil {
		t.Error("a client attached to what is deleted")
	}
	if _, err := os.Stat(filepath.Join(i.dir, "scratch.img")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its storage: %v", err)
	}
	i.stop()
}
