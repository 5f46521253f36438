package observebench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/deploy/corpus"
	"github.com/tmemd/tmemd/nbd/client"
)

const (
	pages    = 1 << 14
	cellTime = 2 * time.Second
	depth    = 16
	// Of 30 sorted ratios, the 10th and the 21st enclose the median in 95 % of cases.
	rounds, lowest, highest = 30, 9, 20

	otherVariable  = "TMEMD_OTHER"  // another program to compare with
	roundsVariable = "TMEMD_ROUNDS" // fewer, to see that it works: without the interval then
)

// daemon is one tmemd, with a client.
type daemon struct {
	process *exec.Cmd
	metrics string // URL
	conn    *client.Conn
	content *client.Content
}

// build makes the program as it is shipped.
func build(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "tmemd")
	c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "../../cmd/tmemd")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := c.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, output)
	}
	return path
}

// start starts the program with a pool that has room for all pages, and fills it.
func start(b *testing.B, program string, content *corpus.Corpus) *daemon {
	b.Helper()
	dir := b.TempDir()
	file := filepath.Join(dir, "tmemd.toml")
	text := fmt.Sprintf("[[export]]\nsize = %q\n[[backend]]\nkind = \"zcache\"\nsize = \"256MiB\"\nself_sizing = \"off\"\n", fmt.Sprintf("%dMiB", pages*corpus.PageSize>>20))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	var log bytes.Buffer
	d := &daemon{process: exec.Command(program, "--state-dir", dir, "--metrics", "127.0.0.1:0", "--config", file)}
	d.process.Stdout, d.process.Stderr = &log, &log
	d.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.process.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if d.conn != nil {
			d.conn.Close()
		}
		_ = d.process.Process.Signal(syscall.SIGTERM) // an error means that it has ended
		if err := d.process.Wait(); err != nil {
			b.Errorf("tmemd: %v\n%s", err, log.String())
		}
	})
	var err error
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if d.conn, err = client.Dial(context.Background(), "unix", filepath.Join(dir, "nbd.sock"), "swap"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			b.Fatal(err)
		}
	}
	d.metrics = d.url(b, dir)
	d.content = client.NewContent(content, 0, pages)
	if _, err := d.conn.Run(context.Background(), client.NewFill(d.content), client.Options{Depth: depth}); err != nil {
		b.Fatal(err)
	}
	time.Sleep(time.Second) // what is compressed behind
	return d
}

// url asks the admin API where metrics are.
func (d *daemon) url(b *testing.B, dir string) string {
	b.Helper()
	c := exec.Command("go", "run", "../../cmd/tmemctl", "--state-dir", dir, "status", "--json")
	output, err := c.Output()
	if err != nil {
		b.Fatal(err)
	}
	var status struct{ Metrics string }
	if err := json.Unmarshal(output, &status); err != nil || status.Metrics == "" {
		b.Fatalf("%v: %s", err, output)
	}
	return status.Metrics
}

// workloads are what is measured.
var workloads = []struct {
	name string
	make func(c *client.Content, seed uint64) client.Workload
}{
	{"random reads, depth 16", func(c *client.Content, seed uint64) client.Workload { return client.NewRandomRead(c, seed, 0) }},
	{"swap pattern, depth 16", func(c *client.Content, seed uint64) client.Workload { return client.NewSwap(c, seed, 0) }},
}

// figures of a cell: requests a second, and the daemon's processor time for each.
type figures struct{ rate, processor float64 }

// processorTime is what the daemon has used: the clock of its process.
func (d *daemon) processorTime(b *testing.B) time.Duration {
	b.Helper()
	var t unix.Timespec
	if err := unix.ClockGettime(^int32(d.process.Process.Pid)<<3|2, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}

// measure drives the daemon for one cell.
func (d *daemon) measure(b *testing.B, w client.Workload, watched bool) figures {
	b.Helper()
	before := d.processorTime(b)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	if watched {
		go func() { ended <- d.watch(ctx) }()
	} else {
		ended <- nil
	}
	result, err := d.conn.Run(context.Background(), w, client.Options{Depth: depth, Duration: cellTime})
	cancel()
	if err != nil {
		b.Fatal(err)
	}
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
	return figures{result.Rate(), (d.processorTime(b) - before).Seconds() / float64(result.Requests())}
}

// watch looks once a second until ctx is done.
func (d *daemon) watch(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := d.look(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// look asks for what a scrape and an open page ask for.
func (d *daemon) look() error {
	for _, url := range []string{d.metrics, strings.TrimSuffix(d.metrics, "metrics") + "status.json"} {
		r, err := http.NewRequest("GET", url, nil)
		if err != nil {
			return err
		}
		r.Header.Set("Accept-Encoding", "gzip")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || n < 1000 {
			return fmt.Errorf("GET %s: %d bytes, %s, %w", url, n, answer.Status, err)
		}
	}
	return nil
}

// price is the processor time of one scrape and one view.
func (d *daemon) price(b *testing.B) time.Duration {
	b.Helper()
	const looks = 20
	before := d.processorTime(b)
	for range looks {
		if err := d.look(); err != nil {
			b.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond) // a view is shared while it is fresh
	}
	return (d.processorTime(b) - before) / looks
}

// sample is pages of real memory.
func sample(b *testing.B) *corpus.Corpus {
	b.Helper()
	content, err := corpus.Sample(context.Background(), corpus.Options{Bytes: pages * corpus.PageSize, Seed: 1})
	if err != nil {
		b.Fatal(err)
	}
	return content
}

// BenchmarkObserve prints ratios, watched to alone.
func BenchmarkObserve(b *testing.B) {
	content := sample(b)
	n := rounds
	if text := os.Getenv(roundsVariable); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 {
			b.Fatalf("%s=%s: %v", roundsVariable, text, err)
		}
	}
	ours := start(b, build(b), content)
	sides, what := [2]*daemon{ours, ours}, "watched to alone"
	if other := os.Getenv(otherVariable); other != "" {
		sides[0], what = start(b, other, content), "this program to "+other
	}
	watch := sides[0] == sides[1]
	if watch {
		price := ours.price(b)
		fmt.Printf("a scrape and a view of the page: %v of the daemon's processor time, so %.2f %% of the machine at one a second\n",
			price, 100*price.Seconds()/float64(runtime.NumCPU()))
	}
	for _, w := range workloads {
		var rates, costs, alone, watched []float64
		for round := range n {
			var found [2]figures
			for turn := range 2 {
				side := (turn + round) % 2
				d := sides[side]
				found[side] = d.measure(b, w.make(d.content, uint64(round)), watch && side == 1)
			}
			rates = append(rates, found[1].rate/found[0].rate)
			costs = append(costs, found[1].processor/found[0].processor)
			alone, watched = append(alone, found[0].rate), append(watched, found[1].rate)
		}
		fmt.Printf("%s, %s, %d rounds: requests a second %s, of the best quarters %.4f, processor time a request %s; %.0f requests/s\n",
			w.name, what, n, summary(rates), best(watched)/best(alone), summary(costs), median(alone))
	}
}

// summary is the median of ratios, with its interval if there are enough.
func summary(ratios []float64) string {
	m := median(ratios) // sorts
	if len(ratios) != rounds {
		return fmt.Sprintf("%.4f", m)
	}
	return fmt.Sprintf("%.4f (%.4f to %.4f)", m, ratios[lowest], ratios[highest])
}

// best is the upper quartile: the cells in which others on the machine did least.
func best(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)*3/4]
}

func median(all []float64) float64 {
	if len(all) == 0 {
		return math.NaN()
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}
