package daemon

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
)

// BenchmarkMove moves 1 GiB that is stored, over a Unix socket, while two clients write
// 5,000 pages a second, and reports for how long they were held back.
//
//	go test -run '^$' -bench Move -benchtime 1x ./cmd/internal/daemon
func BenchmarkMove(b *testing.B) {
	const (
		pages  = 1 << 18
		rate   = 5000
		writes = 2
	)
	for range b.N {
		from, to := startBench(b), startBench(b)
		fill := make([]byte, 64*pageSize)
		c, err := nbdtest.Dial("unix", filepath.Join(from.dir, "nbd.sock"), "vm1")
		if err != nil {
			b.Fatal(err)
		}
		for page := uint64(0); page < pages; page += 64 {
			for i := range uint64(64) {
				backendtest.FillMixed(fill[i*pageSize:][:pageSize], page+i)
			}
			if _, err := c.WriteAt(fill, int64(page)*pageSize); err != nil {
				b.Fatal(err)
			}
		}
		var clients sync.WaitGroup
		for n := range uint64(writes) {
			client, err := nbdtest.Dial("unix", filepath.Join(from.dir, "nbd.sock"), "vm1")
			if err != nil {
				b.Fatal(err)
			}
			clients.Go(func() {
				random := rand.New(rand.NewPCG(n, 1))
				p := make([]byte, pageSize)
				for next := time.Now(); ; next = next.Add(time.Second * writes / rate) {
					time.Sleep(time.Until(next))
					backendtest.FillMixed(p, random.Uint64())
					if _, err := client.WriteAt(p, random.Int64N(pages)*pageSize); err != nil {
						client.Close()
						return // it was cut
					}
				}
			})
		}
		began := time.Now()
		done, err := from.client.MoveExport(context.Background(), "vm1", admin.MoveExportRequest{To: "unix://" + filepath.Join(to.dir, "nbd.sock")}, func(e admin.ExportMove) {
			if e.Done {
				b.Logf("held back for %.1f ms; %d rounds, %d pages sent", e.PauseMS, e.Round, e.Sent)
			}
		})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(done.PauseMS, "ms-pause")
		b.ReportMetric(float64(done.Sent)*pageSize/(1<<20)/time.Since(began).Seconds(), "MiB/s")
		b.ReportMetric(float64(done.Round), "rounds")
		clients.Wait()
		c.Close()
		from.end()
		to.end()
	}
}

// benchDaemon is a daemon of a benchmark.
type benchDaemon struct {
	*instance
	b *testing.B
}

func startBench(b *testing.B) *benchDaemon {
	i := start(b, b.TempDir(), "--backend", "none")
	ctx := context.Background()
	if _, err := i.client.Load(ctx, admin.LoadRequest{
		Kind: "zcache", Size: "1GiB", Settings: []admin.Setting{{Key: "self_sizing", Value: "off"}},
	}); err != nil {
		b.Fatal(err)
	}
	if _, err := i.client.CreateExport(ctx, admin.CreateRequest{Name: "vm1", Size: "1GiB"}); err != nil {
		b.Fatal(err)
	}
	return &benchDaemon{i, b}
}

// end drops the export, which need not be drained.
func (d *benchDaemon) end() {
	d.await("clients to be gone", func() bool { return len(d.status().Clients) == 0 })
	if err := d.client.DeleteExport(context.Background(), "vm1", admin.DeleteRequest{RemoveStorage: true}); err != nil {
		d.b.Error(err)
	}
	d.stop()
}
