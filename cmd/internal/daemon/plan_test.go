package daemon

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/state"
	"github.com/tmemd/tmemd/tier"
)

// plain is the configuration of exports.
func plain(exports []*export) (list []config.Export) {
	for _, e := range exports {
		list = append(list, e.Export)
	}
	return list
}

// TestPlanCreated: what requests made and deleted in the last run.
func TestPlanCreated(t *testing.T) {
	const mib = 1 << 20
	last := state.State{BootID: "boot", Clean: true, Exports: []state.Export{
		{Name: "swap", Size: 8 * mib, Storage: "/s/swap.img", Deleted: true},
		{Name: "mine", Size: 2 * mib, Storage: "/s/mine.img", Created: true, Writethrough: "sync"},
		{Name: "named", Size: 3 * mib, Storage: "/s/named.img", Created: true},
		{Name: "left", Size: 4 * mib, Storage: "/s/left.img", Deleted: true},
		{Name: "dropped", Size: 5 * mib, Storage: "/s/dropped.img"},
	}}
	for _, fresh := range []bool{false, true} {
		c := &config.Config{StateDir: "/s", Fresh: fresh, Exports: []config.Export{
			{Name: "swap", Size: 16 * mib, SizeChosen: true, Storage: "/s/swap.img"}, {Name: "named", Size: 3 * mib, Storage: "/s/named.img"},
		}}
		p, err := makePlan(c, last, true, "boot")
		if err != nil {
			t.Fatal(err)
		}
		want := append(c.Exports, config.Export{
			Name: "mine", Size: 2 * mib, SizeChosen: true, Storage: "/s/mine.img", Writethrough: tier.WritethroughSync,
		})
		if !reflect.DeepEqual(plain(p.exports), want) {
			t.Errorf("exports %+v, want %+v", plain(p.exports), want)
		}
		if p.exports[0].stale == fresh || p.exports[0].created || p.exports[1].created || !p.exports[2].created {
			t.Errorf("exports %+v %+v %+v", p.exports[0], p.exports[1], p.exports[2])
		}
		if !reflect.DeepEqual(p.deleted, last.Exports[3:4]) {
			t.Errorf("deleted %+v", p.deleted)
		}
	}
}

func TestPlan(t *testing.T) {
	const (
		thisBoot = "11111111-aaaa"
		oldBoot  = "22222222-bbbb"
		mib      = 1 << 20
	)
	before := []state.Export{{Name: "swap", Size: 8 * mib, Storage: "/s/swap.img"}, {Name: "gone", Size: mib, Storage: "/s/gone.img"}}
	asked := func(size int64, chosen bool) []config.Export {
		return []config.Export{{Name: "swap", Size: size, SizeChosen: chosen, Storage: "/s/swap.img"}}
	}
	tests := []struct {
		name    string
		last    *state.State
		fresh   bool
		exports []config.Export
		size    int64 // of the export, 0 if refused
		empty   bool
		warns   bool
		text    string
	}{
		{name: "first run", exports: asked(16*mib, false), size: 16 * mib},
		{name: "first run, fresh", fresh: true, exports: asked(16*mib, false), size: 16 * mib, empty: true},
		{name: "clean", last: &state.State{BootID: thisBoot, Clean: true, Exports: before}, exports: asked(16*mib, false), size: 8 * mib},
		{name: "clean, other boot", last: &state.State{BootID: oldBoot, Clean: true, Exports: before}, exports: asked(16*mib, false), size: 8 * mib},
		{name: "clean, same size", last: &state.State{BootID: thisBoot, Clean: true, Exports: before}, exports: asked(8*mib, true), size: 8 * mib},
		{name: "clean, other size", last: &state.State{BootID: thisBoot, Clean: true, Exports: before}, exports: asked(16*mib, true), text: `
error: export swap exists with 8 MiB (8388608 bytes), not 16 MiB
hint: leave the size out to keep it, or start with --fresh to make the export anew
`},
		{name: "clean, other size, fresh", last: &state.State{BootID: thisBoot, Clean: true, Exports: before}, fresh: true,
			exports: asked(16*mib, true), size: 16 * mib, empty: true},
		{name: "clean, other storage", last: &state.State{BootID: thisBoot, Clean: true, Exports: before},
			exports: []config.Export{{Name: "swap", Size: mib, Storage: "/dev/sdb"}}, text: `
error: the content of export swap is in /s/swap.img, not in /dev/sdb
hint: move it to the new path, put the old path back, or start with --fresh
`},
		{name: "clean, new export", last: &state.State{BootID: thisBoot, Clean: true, Exports: before},
			exports: []config.Export{{Name: "new", Size: 3 * mib, Storage: "/s/new.img"}}, size: 3 * mib},
		{name: "unclean", last: &state.State{BootID: thisBoot, Exports: before}, exports: asked(16*mib, false), text: `
error: the tmemd that used /s did not end properly: pages that it had in memory are gone, and storage has none or older ones
hint: start with --fresh, which empties the storage, and make swap anew: mkswap, swapon
`},
		{name: "unclean, fresh", last: &state.State{BootID: thisBoot, Exports: before}, fresh: true, exports: asked(16*mib, false), size: 16 * mib, empty: true},
		{name: "unclean, other boot", last: &state.State{BootID: oldBoot, Exports: before}, exports: asked(16*mib, false), size: 16 * mib, empty: true, warns: true},
		{name: "unclean, other boot, fresh", last: &state.State{BootID: oldBoot, Exports: before}, fresh: true, exports: asked(16*mib, false), size: 16 * mib, empty: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := &config.Config{StateDir: "/s", Fresh: test.fresh, Exports: test.exports}
			var last state.State
			if test.last != nil {
				last = *test.last
			}
			p, err := makePlan(c, last, test.last != nil, thisBoot)
			var out strings.Builder
			cli.Report(&out, err)
			if want := strings.TrimPrefix(test.text, "\n"); out.String() != want {
				t.Fatalf("got\n%swant\n%s", out.String(), want)
			}
			if test.size == 0 {
				return
			}
			want := append([]config.Export(nil), test.exports...)
			want[0].Size = test.size
			if !reflect.DeepEqual(plain(p.exports), want) || p.empty != test.empty || (p.warning != "") != test.warns {
				t.Errorf("plan %+v, want %+v, empty %v, a warning %v", p, want, test.empty, test.warns)
			}
		})
	}
}

// TestPlanDonor: a donor has no pages of its own to lose. One whose memory is gone with its
// process, or with the boot, starts again; one whose memory is there takes it over.
func TestPlanDonor(t *testing.T) {
	for _, test := range []struct {
		name     string
		last     state.State
		takeover bool
	}{
		{"without a memory folder", state.State{BootID: "boot"}, false},
		{"with one", state.State{BootID: "boot", Memory: "/dev/shm/tmemd"}, true},
		{"with one of another boot", state.State{BootID: "earlier", Memory: "/dev/shm/tmemd"}, false},
		{"an export was deleted", state.State{BootID: "boot", Exports: []state.Export{{Name: "gone", Deleted: true}}}, false},
	} {
		p, err := makePlan(&config.Config{StateDir: "/s", DonorOnly: true}, test.last, true, "boot")
		if err != nil || p.takeover != test.takeover || p.empty || p.warning != "" {
			t.Errorf("%s: plan %+v, %v", test.name, p, err)
		}
	}
}

// TestPlanComplete: storage that is gone, or shorter than it was, is not made
// anew in silence.
func TestPlanComplete(t *testing.T) {
	path := filepath.Join(t.TempDir(), "swap.img")
	last := state.State{Clean: true, Exports: []state.Export{{Name: "swap", Size: 8192, Storage: path}}}
	check := func(empty bool) error {
		p := plan{empty: empty, exports: []*export{
			{Export: config.Export{Name: "swap", Storage: path}},
			{Export: config.Export{Name: "new", Storage: path + "2"}},
		}}
		return p.complete(last, &config.Config{})
	}
	if err := check(false); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("storage that is gone: %v", err)
	}
	if err := check(true); err != nil {
		t.Errorf("storage that is gone and made anew: %v", err)
	}
	for size, want := range map[int64]bool{4096: false, 8192: true, 16384: true} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := check(false); (err == nil) != want {
			t.Errorf("storage of %d bytes where 8192 were: %v", size, err)
		}
	}
}
