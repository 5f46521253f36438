package daemon

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
	"github.com/tmemd/tmemd/cmd/internal/protect"
)

// TestUnfit: what an upgrade under the own host's swap needs.
func TestUnfit(t *testing.T) {
	whole := protect.Report{Wanted: true, Measures: []protect.Measure{{Name: protect.MemoryLocked, State: protect.Done}}}
	lacks := protect.Report{Wanted: true, Measures: []protect.Measure{{Name: protect.MemoryLocked, State: protect.Refused}}}
	for _, test := range []struct {
		report  protect.Report
		release string
		want    string
	}{
		{whole, "6.12.117+deb12-cloud-amd64", ""},
		{whole, "6.1.0-56-cloud-amd64", "Linux 6.1.0-56-cloud-amd64 lends"},
		{lacks, "6.12.117", "protection is missing (see tmemctl doctor): memory_locked"},
	} {
		if got := unfit(test.report, test.release); !strings.HasPrefix(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("%s: %q, want %q", test.release, got, test.want)
		}
	}
}

// TestUpgradeUnprotected: while this host swaps through a tmemd that lacks protection
// there is no upgrade, and clients are left alone.
func TestUpgradeUnprotected(t *testing.T) {
	log := &logBuffer{}
	o := options(t, t.TempDir(), log, "--size", "4MiB")
	o.Protection = protect.Report{Wanted: true, Measures: []protect.Measure{
		{Name: protect.MemoryLocked, State: protect.Done}, {Name: protect.Realtime, State: protect.Refused},
	}}
	i := run(t, o, log)
	defer i.stop()
	// The name that makes this process the kernel's.
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/proc/self/comm", []byte("nbd-client"), 0); err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile("/proc/self/comm", []byte(strings.TrimSpace(string(name))), 0)
	c, err := nbdtest.Dial("unix", filepath.Join(i.dir, "nbd.sock"), "swap")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var told strings.Builder
	_, err = i.client.Upgrade(context.Background())
	cli.Report(&told, err)
	if !strings.Contains(told.String(), "this host swaps through this tmemd, and may hang while nobody serves it: protection is missing (see tmemctl doctor): realtime\nhint: tmemctl detach ") {
		t.Errorf("told %q", told.String())
	}
	if err := c.Flush(); err != nil {
		t.Errorf("the client was not left alone: %v", err)
	}
}
