package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends/samefilled"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]target{
		"nbd+unix:///swap?socket=/run/x.sock":   {"unix", "/run/x.sock", "swap"},
		"nbd+unix:///?socket=/run/x.sock":       {"unix", "/run/x.sock", ""},
		"nbd+unix:///a%20b/c?socket=%2Frun%2Fx": {"unix", "/run/x", "a b/c"},
		"nbd://host/swap":                       {"tcp", "host:10809", "swap"},
		"nbd://[::1]:1/swap":                    {"tcp", "[::1]:1", "swap"},
		"nbd://[::1]":                           {"tcp", "[::1]:10809", ""},
		"unix:///run/x.sock":                    {"unix", "/run/x.sock", ""},
		"tcp://10.0.0.1:7":                      {"tcp", "10.0.0.1:7", ""},
	} {
		if got, err := parseTarget(text, ""); err != nil || got != want {
			t.Errorf("%s: %+v, error %v, want %+v", text, got, err, want)
		}
	}
	if got, err := parseTarget("unix:///run/x.sock", "disk"); err != nil || got.export != "disk" {
		t.Errorf("--export: %+v, error %v", got, err)
	}
	for _, bad := range []string{"", "swap", "/run/x.sock", "nbd+unix:///swap", "nbds://host/swap", "unix://run/x.sock", "http://host/", "nbd:///swap", "nbd://%zz", "tcp://"} {
		var told *cli.Error
		if got, err := parseTarget(bad, ""); !errors.As(err, &told) || told.Hint == "" || !told.Usage {
			t.Errorf("%q: %+v, error %v", bad, got, err)
		}
	}
	if _, err := parseTarget("nbd://host/swap", "disk"); err == nil {
		t.Error("two names of exports: no error")
	}
}

func TestParseRange(t *testing.T) {
	for text, want := range map[string][2]int64{"": {0, 0}, "1MiB": {0, 1 << 20}, "1GiB+4KiB": {1 << 30, 4096}, "0+4KiB": {0, 4096}} {
		if first, length, err := parseRange(text); err != nil || first != want[0] || length != want[1] {
			t.Errorf("%q: %d+%d, error %v", text, first, length, err)
		}
	}
	for _, bad := range []string{"x", "1MiB+", "10%", "+1MiB", "1MiB+0"} {
		if _, _, err := parseRange(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// judged counts what zcache would make of content.
func judged(t *testing.T, c *Content) (ratio float64, sameFilled, refused int) {
	t.Helper()
	j, err := zcache.NewJudge()
	if err != nil {
		t.Fatal(err)
	}
	bytes, pages := 0, 0
	for i := range c.Pages() {
		v := j.Page(c.Page(i))
		switch {
		case v.SameFilled:
			sameFilled++
		case v.LZ4 == 0:
			refused++
		default:
			pages++
			bytes += v.LZ4
		}
	}
	return float64(pages*pageSize) / float64(max(1, bytes)), sameFilled, refused
}

func TestContent(t *testing.T) {
	mix, err := LoadContent("mix", 1)
	if err != nil {
		t.Fatal(err)
	}
	ratio, same, refused := judged(t, mix)
	t.Logf("mix: lz4 %.2f, %d same-filled, %d refused of %d pages", ratio, same, refused, mix.Pages())
	if ratio < 1.8 || ratio > 3.5 || same > mix.Pages()/100 || refused < mix.Pages()/32 || refused > mix.Pages()/12 {
		t.Error("the mixture is not like memory")
	}
	random, err := LoadContent("random", 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, refused := judged(t, random); refused != random.Pages() {
		t.Errorf("%d of %d random pages compress", random.Pages()-refused, random.Pages())
	}
	zeros, err := LoadContent("zeros", 1)
	if err != nil {
		t.Fatal(err)
	}
	if value, same := samefilled.Of(zeros.Page(0)); !same || value != 0 {
		t.Errorf("zeros are %d, %v", value, same)
	}
	for _, pages := range []int{1, 15, 40, contentPages + 1000} {
		path := filepath.Join(t.TempDir(), "content")
		data := make([]byte, pages*pageSize+100)
		for i := range pages {
			copy(data[i*pageSize:], strconv.Itoa(i))
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := LoadContent("file:"+path, 1)
		if err != nil || c.Pages() == 0 || c.Pages() > contentPages || pages < 16 && c.Pages() != pages {
			t.Fatalf("a file of %d pages: %v", pages, err)
		}
		at, seen := strings.TrimRight(string(c.Page(c.Pages()-1)), "\x00"), map[string]bool{}
		for i := range c.Pages() {
			seen[strings.TrimRight(string(c.Page(i)), "\x00")] = true
		}
		if n, err := strconv.Atoi(at); err != nil || n < pages*3/4 && pages > 1 || len(seen) != c.Pages() {
			t.Errorf("of %d pages %d are taken, %d different, the last is %q", pages, c.Pages(), len(seen), at)
		}
	}
	self, err := LoadContent("pid:"+strconv.Itoa(os.Getpid()), 1)
	if err != nil || self.Pages() < 16 {
		t.Errorf("own memory: %v", err)
	}
	for _, bad := range []string{"", "text", "file:", "file:/no/such", "file:/dev/null", "pid:", "pid:x", "pid:1073741824"} {
		var told *cli.Error
		if _, err := LoadContent(bad, 1); !errors.As(err, &told) || told.Hint == "" {
			t.Errorf("%q: error %v", bad, err)
		}
	}
}

// run runs the command as tmemctl does.
func runCommand(asJSON bool, args ...string) (out, log string, err error) {
	var stdout, stderr bytes.Buffer
	c := Command(&stdout, &stderr, &asJSON)
	c.SetArgs(args)
	c.SilenceErrors, c.SilenceUsage = true, true
	c.SetOut(&stdout)
	err = c.Execute()
	return stdout.String(), stderr.String(), err
}

func TestCommand(t *testing.T) {
	_, address := serve(t, 256, false)
	uri := "nbd+unix:///" + exportName + "?socket=" + address
	out, log, err := runCommand(true, uri, "--pattern", "swap", "--count", "500", "--verify", "--destroy-content", "--range", "64KiB+512KiB")
	if err != nil || log != "" {
		t.Fatalf("error %v, printed %q", err, log)
	}
	var r Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if r.Requests != 500 || r.FirstByte != 64<<10 || r.RangeBytes != 512<<10 || r.Verified == nil || r.Content != "mix" || r.Reads.P50 == 0 {
		t.Errorf("report %+v", r)
	}
	out, _, err = runCommand(false, "unix://"+address, "--export", exportName, "--duration", "20ms")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"random-read, 4 KiB at a time over 1 MiB, 1 connection of depth 16", "requests/s", "p99.9", "\nreads "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "\nwrites") || strings.Contains(out, "verified") {
		t.Errorf("more than there was:\n%s", out)
	}
	for _, bad := range [][]string{{}, {"a", "b"}, {uri, "--size", "x"}, {uri, "--range", "x"}, {uri, "--pattern", "random-write"}} {
		if out, _, err := runCommand(false, bad...); err == nil || out != "" {
			t.Errorf("%q: error %v, printed %q", bad, err, out)
		}
	}
}

func TestProgress(t *testing.T) {
	line := statusLine(Status{Phase: Measuring, Elapsed: 2 * time.Second, Requests: 1000, Bytes: 4 << 20, Of: 3000})
	if line != "measuring: 2 s, 1000 requests of 3000, 500/s, 2 MiB/s" {
		t.Errorf("line %q", line)
	}
}
