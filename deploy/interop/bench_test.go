//go:build interop

package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"syscall"
	"testing"
)

const (
	loadRequests = 1500 // of a run
	loadRounds   = 3    // runs of each, in turn
	loadPages    = 1024 // of the device
)

// TestBenchBesideFio makes the same load with tmemctl bench and with fio's nbd engine on
// the same server, in turn, and prints how their rates compare. Rates are not asserted;
// what is, is that both did what was asked for, by their own account and by the
// server's.
//
// The server takes its time for each request: it decides how fast they are answered, so
// that two clients that measure right agree. Without that fio measures itself, as its
// nbd engine takes much more of a processor for a request; that ratio is printed too.
func TestBenchBesideFio(t *testing.T) {
	for _, test := range []struct {
		name, pattern, rw string
		delay             bool
	}{
		{"reads, server-bound", "random-read", "randread", true},
		{"writes, server-bound", "random-write", "randwrite", true},
		{"reads, client-bound", "random-read", "randread", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := startNbdkit(t, test.delay)
			server.bench(t, "sequential-write", "--count", strconv.Itoa(loadPages), "--verify", "--destroy-content")
			var ours, theirs []float64
			for round := range loadRounds {
				ours = append(ours, server.bench(t, test.pattern, "--count", strconv.Itoa(loadRequests), "--destroy-content"))
				theirs = append(theirs, server.fio(t, test.rw, round))
			}
			slices.Sort(ours)
			slices.Sort(theirs)
			a, b := ours[loadRounds/2], theirs[loadRounds/2]
			t.Logf("%s: bench %.0f requests/s, fio %.0f, ratio %.3f (medians of %d; bench %.0f, fio %.0f)", test.name, a, b, a/b, loadRounds, ours, theirs)

			reads, writes := 2*loadRounds*loadRequests, loadPages+loadPages // written, then read back
			wantReads, wantWrites := reads, loadPages
			if test.rw == "randwrite" {
				wantReads, wantWrites = 0, loadPages+reads
			}
			wantReads += writes - loadPages
			if got := server.stop(t); got["read"] != wantReads || got["write"] != wantWrites {
				t.Errorf("the server counted %v, want %d reads and %d writes", got, wantReads, wantWrites)
			}
		})
	}
}

// nbdkitServer is an nbdkit with a disk in memory that counts.
type nbdkitServer struct {
	uri, stats string
	stopped    func() error
}

func startNbdkit(t *testing.T, delay bool) *nbdkitServer {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "nbdkit.sock")
	s := &nbdkitServer{uri: "nbd+unix:///?socket=" + socket, stats: filepath.Join(dir, "stats")}
	args := []string{"-f", "-U", socket, "--filter=stats"}
	if delay {
		args = append(args, "--filter=delay")
	}
	args = append(args, "memory", strconv.Itoa(loadPages*pageSize), "statsfile="+s.stats)
	if delay {
		args = append(args, "delay-read=20ms", "delay-write=20ms")
	}
	c := command(context.Background(), "nbdkit", args...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	s.stopped = func() error {
		if ended {
			return nil
		}
		ended = true
		if err := c.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		return c.Wait()
	}
	t.Cleanup(func() {
		if err := s.stopped(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "nbdkit listens", func() bool {
		_, err := os.Stat(socket)
		return err == nil
	})
	return s
}

// stop ends it and returns how many requests of each sort it had.
func (s *nbdkitServer) stop(t *testing.T) map[string]int {
	t.Helper()
	if err := s.stopped(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(s.stats)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, match := range regexp.MustCompile(`(?m)^(read|write): (\d+) ops`).FindAllSubmatch(text, -1) {
		n, err := strconv.Atoi(string(match[2]))
		if err != nil {
			t.Fatal(err)
		}
		counts[string(match[1])] = n
	}
	return counts
}

// bench makes load with tmemctl bench, and returns requests a second.
func (s *nbdkitServer) bench(t *testing.T, pattern string, args ...string) float64 {
	t.Helper()
	text := run(t, filepath.Join(bin, "tmemctl"), append([]string{"bench", s.uri, "--json", "--depth", "16", "--pattern", pattern}, args...)...)
	var report struct {
		Requests int     `json:"requests"`
		Bytes    int     `json:"bytes"`
		Rate     float64 `json:"requests_per_second"`
		Verified *struct {
			Right     int `json:"right_pages"`
			Unstamped int `json:"unstamped_pages"`
			Wrong     int `json:"wrong_pages"`
		} `json:"verified"`
	}
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	want := loadRequests
	if v := report.Verified; v != nil {
		want = loadPages
		if v.Right != loadPages || v.Wrong != 0 || v.Unstamped != 0 {
			t.Errorf("bench verified %+v", *v)
		}
	}
	if report.Requests != want || report.Bytes != want*pageSize {
		t.Errorf("bench counted %d requests and %d bytes, want %d requests", report.Requests, report.Bytes, want)
	}
	return report.Rate
}

// fio makes load with fio, and returns requests a second.
func (s *nbdkitServer) fio(t *testing.T, rw string, seed int) float64 {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fio.json")
	run(t, "fio", "--name=load", "--ioengine=nbd", "--uri="+s.uri, "--rw="+rw, "--bs=4k", "--iodepth=16",
		"--size="+strconv.Itoa(loadPages*pageSize), "--norandommap", fmt.Sprint("--randseed=", seed+1),
		fmt.Sprint("--io_size=", loadRequests*pageSize), "--refill_buffers", "--buffer_compress_percentage=60",
		"--output-format=json", "--output="+path)
	type direction struct {
		Total int     `json:"total_ios"`
		Bytes int     `json:"io_bytes"`
		Rate  float64 `json:"iops"`
	}
	var report struct {
		Jobs []struct {
			Error int       `json:"error"`
			Read  direction `json:"read"`
			Write direction `json:"write"`
		} `json:"jobs"`
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &report); err != nil || len(report.Jobs) != 1 {
		t.Fatalf("%v in %s", err, text)
	}
	job := report.Jobs[0]
	if job.Error != 0 || job.Read.Total+job.Write.Total != loadRequests || job.Read.Bytes+job.Write.Bytes != loadRequests*pageSize {
		t.Errorf("fio counted %+v, want %d requests", job, loadRequests)
	}
	return job.Read.Rate + job.Write.Rate
}
