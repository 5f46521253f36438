//go:build interop

package interop

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestThousandExports: a daemon with a thousand exports that nobody uses takes at most
// 64 KiB for each, page maps and page tables included, and says what it has on a screen
// and within a bound of series.
func TestThousandExports(t *testing.T) {
	few, many := withExports(t, 1), withExports(t, 1001)
	idle := many.memory() - few.memory()
	if each := idle / 1000; each > 64<<10 || each <= 0 {
		t.Errorf("an idle export takes %d bytes", each)
	} else {
		t.Logf("an idle export takes %d bytes", each)
	}
	screen := many.tmemctl("status").stdout
	if lines := strings.Count(screen, "\n"); lines > 40 || !strings.Contains(screen, "more (--all)") {
		t.Errorf("status takes %d lines:\n%s", lines, screen)
	}
	answer, err := http.Get(many.status().Metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	series := 0
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			series++
		}
	}
	if series < 5000 || series > 20_000 || !strings.Contains(string(text), `tmemd_served_without_series{kind="export"} 801`) {
		t.Errorf("%d series for 1001 exports", series)
	}
	few.stop()
	many.stop()
}

// withExports starts a daemon with so many exports of 4 GiB, of a client.
func withExports(t *testing.T, n int) *daemon {
	var text strings.Builder
	text.WriteString("[host]\nprotect = \"off\"\n[[client]]\nname = \"vms\"\n")
	for i := range n {
		fmt.Fprintf(&text, "[[export]]\nname = \"vm%d\"\nsize = \"4GiB\"\nclient = \"vms\"\n", i)
	}
	return start(t, t.TempDir(), settings(t, text.String()))
}

// memory is what the process has to itself, its page tables and what it has in its memory
// folder included.
func (d *daemon) memory() (bytes int64) {
	d.t.Helper()
	read := func(file string) string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", d.process.Process.Pid, file))
		if err != nil {
			d.t.Fatal(err)
		}
		return string(text)
	}
	for line := range strings.Lines(read("status")) {
		if fields := strings.Fields(line); len(fields) == 3 && (fields[0] == "RssAnon:" || fields[0] == "VmPTE:") {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				d.t.Fatal(err)
			}
			bytes += n << 10
		}
	}
	files, err := os.ReadDir(memoryFolder(d.stateDir))
	if err != nil || len(files) == 0 {
		d.t.Fatalf("%d files in the memory folder: %v", len(files), err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			d.t.Fatal(err)
		}
		bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	return bytes
}
