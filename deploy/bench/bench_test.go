package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tmemd/tmemd/deploy/corpus"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/nbd/client"
)

// BenchmarkTier asks what a page costs in the tier, out and in, and what it
// takes to keep it: one goroutine, no protocol, storage in memory. The memory
// is that of a full export, whatever b.N is.
func BenchmarkTier(b *testing.B) {
	pages := sampled(b, manyPages)
	b.Run("out", func(b *testing.B) {
		r, err := measureDevice(pages)
		if err != nil {
			b.Fatal(err)
		}
		e := openExport(b, pages)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			writePage(b, e, pages, i%pages.Pages())
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pages/s")
		b.ReportMetric(r.ratio(), "ratio")
		b.ReportMetric(r.perPage(float64(r.arena)), "arena-B/page")
		b.ReportMetric(r.perPage(float64(r.pageMap)), "map-B/page")
		b.ReportMetric(r.perPage(float64(r.heap)), "heap-B/page")
		b.ReportMetric(float64(r.fixed), "fixed-B")
		var makeUp strings.Builder
		printCorpus(&makeUp, pages, 1)
		b.Log(makeUp.String())
	})
	b.Run("in", func(b *testing.B) {
		e := openExport(b, pages)
		for i := range pages.Pages() {
			writePage(b, e, pages, i)
		}
		page := make([]byte, pageSize)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := e.device.ReadAt(page, int64(i%pages.Pages())*pageSize); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pages/s")
	})
}

// BenchmarkSocket asks the same through the NBD server and a Unix socket, with
// client and server in one process. An operation is a request.
func BenchmarkSocket(b *testing.B) {
	pages := sampled(b, manyPages)
	for _, c := range columns {
		if c.way != timed {
			continue // requests are counted here, on one connection
		}
		b.Run(strings.ReplaceAll(c.title, " ", "-"), func(b *testing.B) {
			conn := connect(b, openExport(b, pages))
			content := client.NewContent(pages, 0, pages.Pages())
			if _, err := conn.Run(b.Context(), client.NewFill(content), client.Options{Depth: 16}); err != nil {
				b.Fatal(err)
			}
			workload := client.Limit(c.make(content, 1), b.N)
			b.ReportAllocs()
			b.ResetTimer()
			result, err := conn.Run(b.Context(), workload, client.Options{Depth: c.depth})
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			b.ReportMetric(result.Rate(), "requests/s")
			for name, latencies := range map[string]*client.Histogram{"read": &result.Reads, "write": &result.Writes} {
				if latencies.Count() > 0 {
					b.ReportMetric(microseconds(latencies.Quantile(0.5)), name+"-p50-µs")
					b.ReportMetric(microseconds(latencies.Quantile(0.99)), name+"-p99-µs")
				}
			}
		})
	}
}

// openExport makes an export as large as the corpus, until the benchmark ends.
func openExport(b *testing.B, pages *corpus.Corpus) *export {
	b.Helper()
	e, err := newMemoryExport(pages.Pages())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := e.close(); err != nil {
			b.Error(err)
		}
	})
	return e
}

func writePage(b *testing.B, e *export, pages *corpus.Corpus, i int) {
	if _, err := e.device.WriteAt(pages.Page(i), int64(i)*pageSize); err != nil {
		b.Fatal(err)
	}
}

// connect serves the export and connects to it, until the benchmark ends.
func connect(b *testing.B, e *export) *client.Conn {
	b.Helper()
	server, err := nbd.NewServer(nbd.Config{Exports: []nbd.Export{{Name: exportName, Device: e.device}}})
	if err != nil {
		b.Fatal(err)
	}
	folder, err := os.MkdirTemp("", "bench-") // a benchmark's own folder has too long a name for a socket
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(folder) })
	listener, err := net.Listen("unix", filepath.Join(folder, "nbd.sock"))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(ctx, listener); err != nil {
			b.Errorf("serve: %v", err)
		}
	})
	b.Cleanup(func() {
		cancel()
		serving.Wait()
		server.Close()
	})
	conn, err := client.Dial(b.Context(), "unix", listener.Addr().String(), exportName)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return conn
}
