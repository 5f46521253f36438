package ctl

import (
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// TestPrintStatus holds the whole screen.
func TestPrintStatus(t *testing.T) {
	now := time.Unix(1700000000, 0)
	s := admin.Status{
		Version: "v0.1.0", PID: 4711, Started: now.Add(-3*time.Hour - 5*time.Second), Phase: admin.PhaseDraining,
		StateDir: "/var/lib/tmemd", Listen: []string{"unix:///var/lib/tmemd/nbd.sock", "tcp://127.0.0.1:10809"},
		Metrics: "http://127.0.0.1:9757/metrics",
		TLS:     &admin.TLS{Required: true, ClientCertificates: true, Certificate: "swap7.example.org", Expires: time.Unix(1800000000, 0)},
		Exports: []admin.Export{{
			Name: "swap", SizeBytes: 8 << 30, Clients: 2, Loads: 1500, SuccStores: 2600, FailedStores: 31,
			Pages:  admin.PagesByOwner{None: 2094000, Storage: 1024, Hole: 128, Backends: map[string]int64{"zcache": 1900, "old": 100}},
			Errors: map[string]uint64{"read": 1, "write": 2},
		}},
		Disks: []admin.Disk{
			{
				Name: "root", SizeBytes: 20 << 30, Clients: 3, ReadOnly: true, Mode: "inclusive", SuccGets: 900, FailedGets: 100, Puts: 99,
				Backends: map[string]int64{"zcache": 25, "old": 25}, Errors: map[string]uint64{"read": 4},
			},
			{Name: "scratch", SizeBytes: 1 << 20, Mode: "exclusive", Invalidates: 8},
		},
		Backends: []admin.Backend{
			{
				Name: "zcache", Kind: "zcache", State: "active", Pages: 1800, EphemeralPages: 100, SameFilledPages: 40, StoredBytes: 2 << 20,
				HeldBytes: 3 << 20, LimitBytes: 4 << 30, Refused: map[string]uint64{"full": 3, "compress_poor": 28},
			},
			{
				Name: "old", Kind: "zcache", State: "draining", Reason: "", Pages: 100, HeldBytes: 1 << 20, LimitBytes: 1 << 30,
				Drain: &admin.Progress{Running: true, Total: 400, Moved: 300, Left: 100, PagesPerSecond: 50, SecondsLeft: 2},
			},
			{Name: "sick", Kind: "zcache", State: "failed", Reason: "out of memory", LoadErrors: 7},
		},
		Clients: []admin.Attachment{
			{Remote: "unix", PID: 812, Export: "swap", Since: now.Add(-time.Hour)},
			{Remote: "127.0.0.1:41234", Export: "swap", Since: now.Add(-90 * time.Second)},
			{Remote: "10.0.0.7:5", Encrypted: true, Certificate: "host7", Export: "swap", Since: now},
			{Remote: "10.0.0.8:5", Encrypted: true, Certificate: "evil\n name", Export: "swap", Since: now},
			{Remote: "10.0.0.9:5", Encrypted: true, Export: "swap", Since: now},
		},
		Memory: []admin.Memory{{Purpose: "page map", Mapped: 16 << 20, Resident: 128 << 10}},
	}
	var out strings.Builder
	printStatus(&out, s, now)
	want := `tmemd v0.1.0, process 4711, up 3h0m5s, stopping: moving pages to storage
folder   /var/lib/tmemd
nbd      unix:///var/lib/tmemd/nbd.sock  tcp://127.0.0.1:10809
tls      required on TCP, clients show certificates, ours is swap7.example.org, good until 2027-01-15 08:00:00
metrics  http://127.0.0.1:9757/metrics

EXPORT   SIZE  CLIENTS  BACKENDS  STORAGE    HOLES  UNTOUCHED  LOADS  STORES  REFUSED  ERRORS
swap    8 GiB        2   7.8 MiB    4 MiB  512 KiB      8 GiB   1500    2600       31       3

DISK       SIZE  CLIENTS                  MODE   CACHED  HITS  MISSES  HIT RATE  PUTS  INVALIDATES  ERRORS
root     20 GiB        3  inclusive, read only  200 KiB   900     100    90.0 %    99            0       4
scratch   1 MiB        0             exclusive      0 B     0       0         -     0            8       0

BACKEND    KIND     STATE     DATA  MEMORY  LIMIT  RATIO  SAME-FILLED  REFUSED  ERRORS
zcache   zcache    active  7.4 MiB   3 MiB  4 GiB   2.47           40       31       0
old      zcache  draining  400 KiB   1 MiB  1 GiB   0.39            0        0       0
sick     zcache    failed      0 B     0 B    0 B      -            0        0       7
unloading old: 75 %, 400 KiB left, 200 KiB/s, 2s
sick is failed: out of memory

CLIENT                      EXPORT     FOR
process 812                   swap  1h0m0s
127.0.0.1:41234               swap   1m30s
10.0.0.7:5 (host7)            swap      0s
10.0.0.8:5 ("evil\n name")    swap      0s
10.0.0.9:5 (TLS)              swap      0s

MEMORY FOR    TAKEN  MAPPED
page map    128 KiB  16 MiB
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
