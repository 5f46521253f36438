package metrics

import (
	"bytes"
	"flag"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/latency"
	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/tier"
	"github.com/tmemd/tmemd/tier/disk"
)

var update = flag.Bool("update", false, "write testdata/metrics.txt anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// times has n of each of three lengths.
func times(n uint64) (s latency.Snapshot) {
	s.Buckets[0], s.Buckets[9], s.Buckets[latency.Buckets-1] = n, n, n
	s.Sum = time.Duration(n) * 6 * time.Second
	return s
}

// someSnapshot has a value in every place, no two alike where they could be
// mixed up.
func someSnapshot() Snapshot {
	var commands nbd.CommandStats
	for command := range nbd.CommandCount {
		n := uint64(command+1) * 1000
		commands[command] = nbd.RequestStats{Requests: n, Errors: n / 500, Bytes: n * 4096}
		commands[command].Latency.Sum = time.Duration(n) * 37 * time.Microsecond
		commands[command].Latency.Buckets[0] = n - 10
		commands[command].Latency.Buckets[3] = 9
		commands[command].Latency.Buckets[nbd.LatencyBuckets-1] = 1
	}
	swap := tier.Stats{
		Area: frontswap.AreaStats{
			Counters: frontswap.Counters{Loads: 101, SuccStores: 202, FailedStores: 33, Invalidates: 44, LoadErrors: 5},
			Used:     412000, None: 1000, Storage: 600, Hole: 70, Backends: map[string]int64{"zcache": 350, "old": 28},
		},
		Storage: tier.StorageStats{
			Reads: times(71), Writes: times(72), Syncs: times(73),
			Path: "/var/lib/tmemd/swap.img", Direct: true, PagesRead: 61, PagesWritten: 62, PagesPunched: 63,
			ReadErrors: 1, WriteErrors: 2, PunchErrors: 3, AllocatedSize: 2457600,
		},
		Writethrough: tier.WritethroughAsync, SyncBlocks: 17, Rescued: 18,
		PunchBlocks: 19, LiveSize: 2457000, StaleSize: 600,
		Memory: []sharedmem.Usage{
			{Purpose: "page map", Mapped: 16384, Resident: 8192}, {Purpose: "storage buffers", Mapped: 2097152, Resident: 2097152},
		},
	}
	scratch := tier.Stats{
		Area:   frontswap.AreaStats{None: 256, Backends: map[string]int64{"zcache": 0, "old": 0}},
		Memory: []sharedmem.Usage{{Purpose: "page map", Mapped: 4096}},
	}
	return Snapshot{
		Version:          "v0.1.0",
		Moves:            Moves{Away: 3, Done: 5, Failed: 6, Pause: 42 * time.Millisecond},
		Revision:         "0123456789abcdef",
		Health:           Health{Phase: "serving", Phases: []string{"serving", "draining"}, Started: time.UnixMilli(1700000000500)},
		Protection:       map[string]bool{"memory_locked": true, "io_flusher": false},
		ProtectionWanted: true,
		Exports:          []Export{{Name: "swap", Size: 2048 * 4096, Stats: swap}, {Name: "scratch", Size: 256 * 4096, Stats: scratch}},
		Disks: []Disk{{Name: "root", Size: 4096, Stats: disk.Stats{
			Cache: cleancache.Stats{
				Counters: cleancache.Counters{SuccGets: 301, FailedGets: 302, Puts: 303, Invalidates: 304},
				Mode:     cleancache.Exclusive, Backends: map[string]int64{"zcache": 305, "old": 306},
			},
			Storage: tier.StorageStats{PagesRead: 307, PagesWritten: 308, PagesPunched: 309, AllocatedSize: 310},
			Memory:  []sharedmem.Usage{{Purpose: "cleancache index", Mapped: 8192, Resident: 4096}},
		}}},
		Clients: []frontswap.ClientStatus{
			{Name: "default", Quota: frontswap.Quota{Weight: 1}, Due: math.MaxUint64},
			{
				Name: "vm1", Quota: frontswap.Quota{Weight: 5, Cap: 4 << 20, Reservation: 2 << 20}, Frozen: true, Areas: []string{"swap"},
				Pages: 401, Promised: 402 << 20, Used: 403 << 10, Due: 404 << 10, Reserved: 1 << 20,
				Refused: [frontswap.ClientRefusals]uint64{405, 406, 407}, Evicted: 408,
			},
		},
		Backends: []frontswap.BackendStatus{
			{
				Name: "zcache", Kind: "zcache", State: frontswap.StateActive, Pages: 350, LoadErrors: 4, Loads: times(74), Stores: times(75),
				Stats: backends.Stats{
					Pages: 350, EphemeralPages: 66, SameFilledPages: 50, StoredBytes: 450000, HeldBytes: 460000, LimitBytes: 1 << 30, MaxBytes: 1 << 31, Stall: 0.125, Incompressible: 7,
					Refused: [backends.Refusals]uint64{202, 11, 12, 13, 14}, CorruptLoads: 3,
					Moved:  [backends.Movements]uint64{21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37},
					Codecs: []backends.CodecStats{{Name: "lz4", Pages: 290, Bytes: 445000}, {Name: "zstd", Pages: 10, Bytes: 5000}},
					Memory: []sharedmem.Usage{{Purpose: "zcache arena", Mapped: 1 << 30, Resident: 458752}},
				},
			},
			{
				Name: "old", Kind: "zcache", State: frontswap.StateDraining, Pages: 28,
				Drain: frontswap.Drain{Running: true, Started: time.Unix(1700000000, 0), Total: 40, Moved: 12, Left: 28, Into: map[string]uint64{"second": 5}, BufferBytes: 2097152},
				Stats: backends.Stats{Memory: []sharedmem.Usage{{Purpose: "zcache arena", Mapped: 1 << 20, Resident: 65536}}},
			},
		},
		NBD: nbd.Stats{
			Connections:       nbd.ConnectionStats{Now: 4, Handshaking: 1, Total: 9, Refused: map[string]uint64{"connection_limit": 2}},
			HandshakeFailures: map[string]uint64{"timeout": 3},
			AccessDenied:      map[string]uint64{"credentials": 6},
			TLS:               nbd.TLSStats{Now: 2, Handshakes: 5, Expires: time.Unix(1800000000, 0)},
			Commands:          commands,
			Exports: []nbd.ExportStats{
				{Name: "swap", Size: 2048 * 4096, Clients: 3, Commands: commands}, {Name: "scratch", Size: 256 * 4096},
			},
			Buffers: nbd.BufferStats{Connections: 131072, Pool: 262144, PoolLent: 65536, PoolLimit: 134217728},
			Panics:  1,
		},
		Memory: []sharedmem.Usage{{Purpose: "page map", Mapped: 1, Resident: 1}},
		Ramsters: []Ramster{{
			Backend: "others", Staged: 4096, Pages: 500, Lost: 2, Sent: 510, SentAgain: 3, Repaired: 4, Orphans: 6, ReadAhead: 70, AheadHits: 60, SecondCopy: 7,
			LoadsWaited: 8, Evicted: 9, Home: 8192, CameHome: 5, SentOut: 1, Cached: 90, CachedGone: 10,
			Donors: []RamsterDonor{
				{Name: "east", Up: true, Pages: 500, Free: 1 << 20, Latency: 250 * time.Microsecond, Sessions: 1, Sent: 2000000, Received: 1000000, Session: RamsterSession{
					State: "up", Leaving: true, ProtocolErrors: 91, Strikes: 92, PoolsRefused: 93, Backlogged: 94, Busy: 95, Waiting: 96, Fetching: 97,
					RoundTrip: 98 * time.Microsecond, Puts: []RamsterPuts{{"ok", 99}, {"full", 100}},
				}},
				{Name: "west", Pages: 499, Wanted: 8192, Latency: time.Millisecond, Missed: 11, Rejected: 12, Missing: 13, Sessions: 14, Failures: 15, Sent: 16, Received: 17},
			},
		}},
		Lent: &Lent{
			Held: 3 << 20, Limit: 4 << 20, Max: 8 << 20, Frozen: true, Sessions: 2, Denied: 3, Unidentified: 4, Dropped: 5, Corrupt: 6,
			Clients:  []LentClient{{Name: "cert:host1", Persistent: 700, Ephemeral: 80, Used: 2 << 20, Quota: 5 << 20, Wanted: 1 << 16}, {Name: "uid:0"}},
			Requests: []LentRequests{{"put", "ok", 780}, {"put", "full", 9}, {"get", "ok", 90}},
			More:     LentMore{Index: 101, Charged: 102, Pools: 103, Stall: 0.25, Compacted: 104},
			Memory:   []sharedmem.Usage{{Purpose: "donor's arena", Mapped: 8 << 20, Resident: 3 << 20}},
		},
	}
}

// TestGolden: names, labels and help are an interface for dashboards and
// alerts. To change them on purpose: go test ./metrics -update.
func TestGolden(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(NewCollector(someSnapshot, 200)); err != nil {
		t.Fatal(err)
	}
	recorder := httptest.NewRecorder()
	newHandler(registry, probes{}, ServerConfig{Log: slog.New(slog.DiscardHandler)}).ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	got := bytes.ReplaceAll(recorder.Body.Bytes(), []byte(runtime.Version()), []byte("GO"))
	if recorder.Code != http.StatusOK {
		t.Fatalf("status %d: %s", recorder.Code, got)
	}
	const golden = "testdata/metrics.txt"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(gotLines), len(wantLines)) {
		if i >= len(gotLines) || i >= len(wantLines) || gotLines[i] != wantLines[i] {
			t.Fatalf("%s, line %d: got\n%s\nwant\n%s", golden, i+1,
				strings.Join(gotLines[min(i, len(gotLines)):], "\n"), strings.Join(wantLines[min(i, len(wantLines)):], "\n"))
		}
	}
}

// TestLint holds the names to Prometheus' conventions.
func TestLint(t *testing.T) {
	problems, err := testutil.CollectAndLint(NewCollector(someSnapshot, 200))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestEverythingDescribed: each description is used, and each metric has one.
func TestEverythingDescribed(t *testing.T) {
	used := map[*prometheus.Desc]bool{}
	out := make(chan prometheus.Metric, 4096)
	NewCollector(someSnapshot, 200).Collect(out)
	close(out)
	for m := range out {
		used[m.Desc()] = true
	}
	for _, d := range allDescriptions() {
		if !used[d] {
			t.Errorf("no metric for %s", d)
		}
		delete(used, d)
	}
	for d := range used {
		t.Errorf("not in descriptions: %s", d)
	}
}

func TestMemoryByPurpose(t *testing.T) {
	want := map[string][2]int64{
		"page map":         {16384 + 4096 + 1, 8192 + 1},
		"cleancache index": {8192, 4096},
		"storage buffers":  {2097152, 2097152},
		"zcache arena":     {1<<30 + 1<<20, 458752 + 65536},
		"drain buffer":     {2097152, 2097152},
		"nbd connections":  {131072, 131072},
		"nbd buffer pool":  {262144, 262144},
		"donor's arena":    {8 << 20, 3 << 20},
	}
	all := someSnapshot().MemoryByPurpose()
	for _, u := range all {
		if want[u.Purpose] != [2]int64{u.Mapped, u.Resident} {
			t.Errorf("%s: mapped %d, resident %d, want %v", u.Purpose, u.Mapped, u.Resident, want[u.Purpose])
		}
		delete(want, u.Purpose)
	}
	if len(want) > 0 {
		t.Errorf("missing, or there twice: %v", want)
	}
}

// TestServer scrapes a server on a socket, with the collectors of the runtime
// and the process.
func TestServer(t *testing.T) {
	s, err := NewServer(ServerConfig{Series: 200, Take: someSnapshot, Sampler: NewSampler(someSnapshot), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		response, err := client.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(text)
	}
	status, text := get("/metrics")
	if status != http.StatusOK {
		t.Errorf("GET /metrics: %d", status)
	}
	for _, line := range []string{
		`^tmemd_frontswap_loads_total\{export="swap"\} 101$`, `^go_goroutines \d+$`, `^process_resident_memory_bytes `,
	} {
		if !regexp.MustCompile("(?m)" + line).MatchString(text) {
			t.Errorf("no line matches %s", line)
		}
	}
	if status, _ := get("/"); status != http.StatusNotFound {
		t.Errorf("GET /: %d", status)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}
