//go:build memory

package memory

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/pagemap"
	"github.com/tmemd/tmemd/deploy/corpus"
)

// mostOff is how far tmemctl estimate may be off zram's own ratio.
const mostOff = 0.03

// holdVariable tells a process to hold so many bytes that it is given, and nothing else.
const holdVariable = "TMEMD_MEMORY_HOLD"

// TestEstimate asks tmemctl estimate about a process that holds pages of real processes,
// then puts the same pages, all that the kernel could swap of it, into zram. What the
// estimate says of zram, and what zram says of itself, are to be the same; what it says
// of zcache is printed beside it.
func TestEstimate(t *testing.T) {
	mib, err := strconv.ParseInt(cmp.Or(os.Getenv("MIB"), "64"), 10, 32)
	must(t, err)
	pages, err := corpus.Sample(t.Context(), corpus.Options{Bytes: mib << 20, Seed: uint64(time.Now().UnixNano()), KeepSameFilled: true})
	must(t, err)
	pid := holdPages(t, pages)
	all, sample := estimate(t, pid, 1<<24), estimate(t, pid, 4096)

	process, err := pagemap.Open(pid)
	must(t, err)
	defer process.Close()
	runs, err := process.Runs(1)
	must(t, err)
	if len(runs) < pages.Pages() || process.Restricted() {
		t.Fatalf("%d pages are seen of the process, which has %d of the corpus; restricted: %v", len(runs), pages.Pages(), process.Restricted())
	}
	z := openZram(t, len(runs))
	page := make([]byte, pageSize)
	for i, run := range runs {
		must(t, process.Read(run.Address, page))
		must(t, z.write(i, page))
	}
	for i, run := range runs {
		must(t, process.Read(run.Address, page))
		must(t, z.check(i, page))
	}
	memory, err := z.memory()
	must(t, err)
	if memory.original != int64(len(runs))*pageSize {
		t.Fatalf("zram has %d bytes of %d pages", memory.original, len(runs))
	}
	ratio := float64(memory.original) / float64(memory.compressed)
	used := float64(memory.original) / float64(memory.used)
	t.Logf("%d pages: zram says %.3f (orig_data_size/compr_data_size), with its allocator %.3f; %d pages raw", len(runs), ratio, used, memory.huge)
	for name, e := range map[string]estimated{"of every page": all, "of a sample": sample} {
		t.Logf("estimate %s (%d): zram %.3f ± %.3f, %+.2f %% of zram's own; zcache %.3f ± %.3f with everything it keeps, of data alone %.3f; cold %.3f", name, e.Sampled,
			e.Zram.Data.Value, e.Zram.Data.Margin, 100*(e.Zram.Data.Value/ratio-1), e.Keep.Ratio.Value, e.Keep.Ratio.Margin, e.Keep.Data.Value, e.Cold.Ratio.Value)
	}
	if int(all.Sampled) != len(runs) || sample.Sampled < 4000 {
		t.Errorf("%d of %d pages were judged, and a sample of %d", all.Sampled, len(runs), sample.Sampled)
	}
	if off := math.Abs(all.Zram.Data.Value/ratio - 1); off > mostOff {
		t.Errorf("the estimate of zram is %.3f, zram says %.3f: %.3f off, want %.2f at most", all.Zram.Data.Value, ratio, off, mostOff)
	}
	// A sample is off by its margin, too.
	if off := math.Abs(sample.Zram.Data.Value - ratio); off > mostOff*ratio+sample.Zram.Data.Margin {
		t.Errorf("a sample says %.3f ± %.3f of zram, zram says %.3f", sample.Zram.Data.Value, sample.Zram.Data.Margin, ratio)
	}
}

type value struct{ Value, Margin float64 }

// estimated is what this test needs of an estimate's JSON.
type estimated struct {
	Sampled int64 `json:"sampled_pages"`
	Keep    struct {
		Ratio value `json:"ratio"`
		Data  value `json:"data_ratio"`
	} `json:"lz4_keep"`
	Cold struct {
		Ratio value `json:"ratio"`
	} `json:"lz4_cold"`
	Zram struct {
		Data value `json:"data_ratio"`
	} `json:"zram_lz4"`
}

// estimate runs tmemctl estimate, as make builds it.
func estimate(t *testing.T, pid, pages int) (e estimated) {
	t.Helper()
	tmemctl, err := filepath.Abs("../../bin/tmemctl")
	must(t, err)
	out, err := exec.Command(tmemctl, "estimate", "--json", "--pid", strconv.Itoa(pid), "--pages", strconv.Itoa(pages)).Output()
	if err != nil {
		t.Fatalf("%v (make build makes it): %s", err, out)
	}
	must(t, json.Unmarshal(out, &e))
	return e
}

// holdPages starts a process that holds the pages, and stops it so that it does not
// change.
func holdPages(t *testing.T, pages *corpus.Corpus) (pid int) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	c := exec.Command(self)
	c.Env = append(os.Environ(), holdVariable+"="+strconv.Itoa(pages.Pages()*pageSize))
	c.Stderr = os.Stderr
	stdin, err := c.StdinPipe()
	must(t, err)
	stdout, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	t.Cleanup(func() {
		stdin.Close()
		_ = c.Process.Kill()
		_ = c.Wait() // it was killed
	})
	for i := range pages.Pages() {
		_, err := stdin.Write(pages.Page(i))
		must(t, err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the process says %q, error %v", line, err)
	}
	must(t, c.Process.Signal(syscall.SIGSTOP))
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Process.Pid))
		must(t, err)
		if _, rest, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(rest, "T") {
			return c.Process.Pid
		}
		if time.Now().After(deadline) {
			t.Fatalf("the process does not stop: %s", stat)
		}
	}
}

// hold is that process: it keeps what it reads in memory of its own, until nobody
// listens any more.
func hold(size string) error {
	bytes, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	memory, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(os.Stdin, memory); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(memory)
	return err
}
