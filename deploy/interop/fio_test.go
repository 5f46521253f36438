//go:build interop

package interop

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// testFio runs fio's random loads with many requests in flight. fio puts a
// checksum into each block that it writes and reads all of them back.
func testFio(t *testing.T, x target) {
	tests := []struct {
		name  string
		uri   string
		args  []string
		trims bool
	}{
		{"pages", x.unix, []string{"--rw=randrw", "--bs=4k", "--iodepth=32", "--verify=crc32c"}, false},
		{"pages over tcp", x.tcp, []string{"--rw=randrw", "--bs=4k", "--iodepth=32", "--verify=crc32c"}, false},
		{"mixed sizes", x.unix, []string{"--rw=randrw", "--bssplit=512/10:4k/50:12k/10:64k/20:256k/10", "--iodepth=16", "--verify=crc32c"}, false},
		{"overwrites", x.unix, []string{"--rw=randwrite", "--bs=4k", "--iodepth=64", "--verify=crc32c", "--loops=3", "--fsync=256"}, false},
		{"trims between writes", x.unix, []string{"--rw=randtrimwrite", "--bs=16k", "--iodepth=16"}, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			report := filepath.Join(t.TempDir(), "report.json")
			args := append([]string{
				"--name=interop", "--ioengine=nbd", "--uri=" + test.uri, "--size=16m", "--randseed=1", "--verify_fatal=1",
				"--refill_buffers", "--buffer_compress_percentage=60", "--output-format=json", "--output=" + report,
			}, test.args...)
			run(t, "fio", args...)
			checkFioReport(t, report, test.trims)
		})
	}
}

func checkFioReport(t *testing.T, path string, trims bool) {
	t.Helper()
	type requests struct {
		Total int `json:"total_ios"`
	}
	var report struct {
		Jobs []struct {
			Error int      `json:"error"`
			Read  requests `json:"read"`
			Write requests `json:"write"`
			Trim  requests `json:"trim"`
		} `json:"jobs"`
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &report); err != nil || len(report.Jobs) != 1 {
		t.Fatalf("%v in a report of %d jobs:\n%s", err, len(report.Jobs), text)
	}
	job := report.Jobs[0]
	if job.Error != 0 {
		t.Errorf("fio reports the error %d", job.Error)
	}
	verified := !trims && job.Read.Total >= job.Write.Total
	if job.Write.Total == 0 || !verified && !trims || trims && job.Trim.Total == 0 {
		t.Errorf("%d reads, %d writes, %d trims: not what was asked for", job.Read.Total, job.Write.Total, job.Trim.Total)
	}
}
