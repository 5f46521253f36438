package daemon

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
	"github.com/tmemd/tmemd/cmd/internal/state"
)

// TestResize: attached clients are served with the size that they know while an
// export grows; it does not get smaller under them. A change that cannot be
// noted does not happen.
func TestResize(t *testing.T) {
	i, ctx := start(t, t.TempDir()), context.Background()
	socket := filepath.Join(i.dir, "nbd.sock")
	before := i.status().Exports[0].SizeBytes
	first := i.attach()
	must(t, first.WritePages(1, 0, 300))
	resize := func(size string) error {
		_, err := i.client.ResizeExport(ctx, "swap", admin.ResizeRequest{Size: size, Discard: true})
		return err
	}
	must(t, resize("32MiB"))
	second, err := nbdtest.Dial("unix", socket, "swap")
	must(t, err)
	must(t, second.WritePages(2, uint64(before)/pageSize, 100))
	must(t, first.CheckPages(1, 0, 300))
	if e := i.status().Exports[0]; e.SizeBytes != 32<<20 || e.Clients != 2 {
		t.Errorf("after growing: %+v", e)
	}
	if got := reported(resize("1MiB")); !strings.HasPrefix(got, "error: export swap has clients attached, and cannot get smaller under them\nhint: ") {
		t.Errorf("shrinking under clients said %q", got)
	}
	must(t, second.CheckPages(2, uint64(before)/pageSize, 100))
	must(t, first.Close())
	must(t, second.Close())
	i.await("the clients to be gone", func() bool { return len(i.status().Clients) == 0 })

	obstacle := filepath.Join(i.dir, "state.json.new")
	must(t, os.Mkdir(obstacle, 0o700))
	for _, size := range []string{"64MiB", "31MiB"} {
		if resize(size) == nil {
			t.Errorf("resized to %s without a note", size)
		}
		if got := i.status().Exports[0].SizeBytes; got != 32<<20 {
			t.Errorf("after a resize that failed: %d bytes", got)
		}
		st, err := os.Stat(filepath.Join(i.dir, "swap.img"))
		must(t, err)
		if st.Size() != 32<<20 {
			t.Errorf("after a resize that failed the file has %d bytes", st.Size())
		}
	}
	must(t, os.Remove(obstacle))
	third, err := nbdtest.Dial("unix", socket, "swap")
	must(t, err)
	must(t, third.CheckPages(2, uint64(before)/pageSize, 100))
	must(t, third.CheckPages(1, 0, 300))
	must(t, third.Close())
	i.await("the client to be gone", func() bool { return len(i.status().Clients) == 0 })
	must(t, resize("2MiB"))
	i.stop()
}

// TestPlanResized: the size that a request gave stands against the
// configuration's, until the export is made anew.
func TestPlanResized(t *testing.T) {
	last := state.State{BootID: "boot", Clean: true, Exports: []state.Export{{Name: "swap", Size: 8 << 20, Storage: "/s/swap.img", Resized: true}}}
	for _, test := range []struct {
		configured   int64
		chosen       bool
		clean, fresh bool
		want         int64
		resized      bool
		notes        int
	}{
		{4 << 20, true, true, false, 8 << 20, true, 1},
		{8 << 20, true, true, false, 8 << 20, false, 0}, // the configuration has caught up
		{4 << 20, false, true, false, 8 << 20, false, 0},
		{4 << 20, true, true, true, 4 << 20, false, 0},
		{4 << 20, true, false, true, 4 << 20, false, 0},
	} {
		last.Clean = test.clean
		c := &config.Config{StateDir: "/s", Fresh: test.fresh, Exports: []config.Export{
			{Name: "swap", Size: test.configured, SizeChosen: test.chosen, Storage: "/s/swap.img"},
		}}
		p, err := makePlan(c, last, true, "boot")
		if err != nil {
			t.Fatal(err)
		}
		if e := p.exports[0]; e.Size != test.want || e.resized != test.resized || len(p.notes) != test.notes {
			t.Errorf("%+v: size %d, resized %v, notes %v", test, e.Size, e.resized, p.notes)
		}
	}
}
