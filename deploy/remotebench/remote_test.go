package remotebench

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/tmemd/tmemd/deploy/corpus"
)

const (
	pages    = 1 << 14
	rounds   = 5
	cellTime = 700 * time.Millisecond
	burst    = pages / 2 // pages of one
)

// contender is one way to have memory elsewhere.
type contender interface {
	fill() error
	measure(c cell) (float64, error) // a rate, or the median latency in microseconds
	close() error
}

// cell is one thing that is measured.
type cell struct {
	name    string
	depth   int // requests outstanding
	writes  bool
	latency bool
	burst   bool // of writes: the staging area takes all, and what arrives later is not waited for
}

var cells = []cell{
	{name: "random reads, depth 16", depth: 16},
	{name: "random writes, depth 16", depth: 16, writes: true},
	{name: "burst of writes", depth: 16, writes: true, burst: true},
	{name: "read latency, depth 1", depth: 1, latency: true},
	{name: "write latency, depth 1", depth: 1, writes: true, latency: true},
}

func TestMain(m *testing.M) {
	if os.Getenv(donateVariable) != "" {
		donate()
		return
	}
	os.Exit(m.Run())
}

// BenchmarkRemote prints medians, and their ratios to the peers.
func BenchmarkRemote(b *testing.B) {
	content, err := corpus.Sample(context.Background(), corpus.Options{Bytes: pages * corpus.PageSize, Seed: 1})
	if err != nil {
		b.Fatal(err)
	}
	names := []string{"nbdkit memory", "redis", "ramster, 2 copies", "ramster, 1 copy"}
	contenders := []contender{
		newNbdkit(b, pages, content), newRedis(b, pages, content), newRamster(b, 2, content), newRamster(b, 1, content),
	}
	results := make([][][]float64, len(contenders))
	for i, c := range contenders {
		results[i] = make([][]float64, len(cells))
		if err := c.fill(); err != nil {
			b.Fatal(err)
		}
	}
	for range rounds {
		for i, c := range contenders {
			for j, cell := range cells {
				figure, err := c.measure(cell)
				if err != nil {
					b.Fatalf("%s, %s: %v", names[i], cell.name, err)
				}
				results[i][j] = append(results[i][j], figure)
			}
		}
	}
	median := func(i, j int) float64 {
		slices.SortFunc(results[i][j], cmp.Compare[float64])
		return results[i][j][rounds/2]
	}
	for j, cell := range cells {
		unit := "pages/s"
		if cell.latency {
			unit = "µs"
		}
		for i, name := range names {
			fmt.Printf("%-24s %-18s %8.0f %-8s", cell.name, name, median(i, j), unit)
			for other := range 2 {
				fmt.Printf(" %5.2f x %s", median(i, j)/median(other, j), names[other])
			}
			fmt.Println()
		}
	}
	for _, c := range contenders {
		if err := c.close(); err != nil {
			b.Error(err)
		}
	}
}

// figure is a rate, or the median latency in microseconds.
func figure(c cell, done int, elapsed time.Duration, latencies []time.Duration) float64 {
	if !c.latency {
		return float64(done) / elapsed.Seconds()
	}
	slices.Sort(latencies)
	return float64(latencies[len(latencies)/2].Nanoseconds()) / 1e3
}
