package view

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

var update = flag.Bool("update", false, "write testdata anew")

// golden compares with a file that a person has looked at.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// terminal is one of the usual size, in which what is painted can be read.
var terminal = Screen{Width: 80, Height: 24, Unicode: true}

// normal is a daemon with nothing wrong.
func normal() admin.Status {
	return admin.Status{
		Version: "v0.1.0", PID: 4711, Started: noon.Add(-75*time.Hour - 5*time.Second), Phase: admin.PhaseServing,
		StateDir: "/var/lib/tmemd", Listen: []string{"unix:///var/lib/tmemd/nbd.sock", "tcp://127.0.0.1:10809"},
		Metrics: "http://127.0.0.1:9757/metrics",
		Exports: []admin.Export{{
			Name: "swap", SizeBytes: 8 << 30, Clients: 4, Loads: 1500, SuccStores: 2600, FailedStores: 31,
			Pages:   admin.PagesByOwner{None: 1_000_000, Storage: 97_152, Hole: 200_000, Backends: map[string]int64{"zcache": 800_000}},
			Storage: admin.Storage{PagesRead: 500, PagesWritten: 900},
		}},
		Backends: []admin.Backend{{
			Name: "zcache", Kind: "zcache", State: "active", Pages: 800_000, SameFilledPages: 40_000, StoredBytes: 1 << 30,
			HeldBytes: 1100 << 20, LimitBytes: 4 << 30, MaxBytes: 4 << 30, Refused: map[string]uint64{"full": 3, "compress_poor": 28},
			Stores: 2600,
		}},
		Clients: []admin.Attachment{
			{Remote: "unix", PID: 812, Export: "swap", Since: noon.Add(-time.Hour)},
			{Remote: "unix", PID: 812, Export: "swap", Since: noon.Add(-time.Hour - time.Second)},
			{Remote: "127.0.0.1:41234", Export: "swap", Since: noon.Add(-90 * time.Second)},
			{Remote: "127.0.0.1:41236", Export: "swap", Since: noon.Add(-80 * time.Second)},
		},
		Memory: []admin.Memory{
			{Purpose: "page map", Mapped: 16 << 20, Resident: 8 << 20}, {Purpose: "zcache arena", Mapped: 8 << 30, Resident: 1100 << 20},
			{Purpose: "nbd buffers", Mapped: 128 << 20, Resident: 1 << 20}, {Purpose: "donor arena", Mapped: 128 << 20},
		},
		Protection: []admin.Protection{{Measure: "io_flusher", State: "on"}},
	}
}

// troubled is a daemon with all that can be wrong.
func troubled() admin.Status {
	s := normal()
	s.Phase = admin.PhaseDraining
	s.TLS = &admin.TLS{Required: true, ClientCertificates: true, Certificate: "swap7.example.org", Expires: noon.Add(50 * time.Hour)}
	s.Exports[0].Errors = map[string]uint64{"read": 1, "write": 2}
	s.Exports[0].Pages.Lost = 7
	s.Exports[0].Writethrough, s.Exports[0].PendingBlocks = "async", 3
	s.Exports[0].Storage.WriteErrors = 2
	s.Disks = []admin.Disk{
		{
			Name: "root", SizeBytes: 20 << 30, Clients: 3, ReadOnly: true, Mode: "inclusive", SuccGets: 900, FailedGets: 100, Puts: 99,
			Backends: map[string]int64{"zcache": 25, "old": 25}, Errors: map[string]uint64{"read": 4},
		},
		{Name: "scratch", SizeBytes: 1 << 20, Mode: "exclusive", Invalidates: 8},
	}
	s.Backends[0].HeldBytes = 4 << 30
	s.Backends = append(s.Backends,
		admin.Backend{
			Name: "old", Kind: "zcache", State: "draining", Pages: 100, HeldBytes: 1 << 20, LimitBytes: 1 << 30, MaxBytes: 2 << 30,
			Drain: &admin.Progress{Running: true, Total: 400, Moved: 300, Left: 100, PagesPerSecond: 50, SecondsLeft: 2},
		},
		admin.Backend{Name: "sick", Kind: "zcache", State: "failed", Reason: "out of\x1b[31m memory", LoadErrors: 7, CorruptLoads: 3},
		admin.Backend{Name: "cold", Kind: "ramster", State: "frozen", Reason: "maintenance"},
	)
	s.Clients = append(s.Clients,
		admin.Attachment{Remote: "10.0.0.7:5", Encrypted: true, Certificate: "host7", Export: "swap", Since: noon},
		admin.Attachment{Remote: "10.0.0.8:5", Encrypted: true, Certificate: "evil\n name", Export: "swap", Since: noon},
		admin.Attachment{Remote: "10.0.0.9:5", Encrypted: true, Export: "swap", Since: noon},
	)
	s.Protection = []admin.Protection{{Measure: "io_flusher", State: "refused"}, {Measure: "memory_locked", State: "on"}}
	return s
}

// crowded is a daemon with very many exports.
func crowded() admin.Status {
	s := normal()
	s.Exports, s.Clients = nil, nil
	for i := range 1000 {
		name := fmt.Sprintf("guest%04d", i)
		s.Exports = append(s.Exports, admin.Export{
			Name: name, SizeBytes: 2 << 30, Pages: admin.PagesByOwner{None: 500_000, Backends: map[string]int64{"zcache": int64(i)}},
			Storage: admin.Storage{WriteErrors: uint64(i % 2)},
		})
		s.Clients = append(s.Clients, admin.Attachment{Remote: fmt.Sprintf("10.0.%d.%d:7", i/250, i%250), Export: name, Since: noon})
	}
	return s
}

// later is the same daemon a second later, with the counters of the export at an
// index grown.
func later(s admin.Status, index int) admin.Status {
	exports := append([]admin.Export(nil), s.Exports...)
	e := &exports[index]
	e.SuccStores, e.FailedStores, e.Loads = e.SuccStores+1240, e.FailedStores+3, e.Loads+310
	e.Storage.PagesRead, e.Storage.PagesWritten = e.Storage.PagesRead+20, e.Storage.PagesWritten+12
	s.Exports = exports
	backends := append([]admin.Backend(nil), s.Backends...)
	if len(backends) > 0 {
		backends[0].Stores += 1240
	}
	s.Backends = backends
	return s
}
