package zcache

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/pierrec/lz4/v4"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/samefilled"
)

// realPages returns pages of a real program's memory: of this one, after it has
// parsed a part of Go's standard library. Same-filled pages and duplicates are
// left out. What is in them differs a little from run to run, so compare only
// within one run.
func realPages(b *testing.B) [][]byte {
	b.Helper()
	trees := parseLibrary(b)
	from, to := mappingOf(b, trees[0])
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		b.Fatal(err)
	}
	defer memory.Close()
	var pages [][]byte
	seen := make(map[string]bool)
	for at := from; at+backends.PageSize <= to && len(pages) < 4096; at += backends.PageSize {
		page := make([]byte, backends.PageSize)
		if _, err := memory.ReadAt(page, at); err != nil {
			break
		}
		if _, same := samefilled.Of(page); same || seen[string(page)] {
			continue
		}
		seen[string(page)] = true
		pages = append(pages, page)
	}
	runtime.KeepAlive(trees)
	if len(pages) < 1024 {
		b.Fatalf("only %d pages found", len(pages))
	}
	return pages
}

func parseLibrary(b *testing.B) (trees []*ast.File) {
	b.Helper()
	files := token.NewFileSet()
	for _, folder := range []string{"net/http", "go/types", "encoding/json", "runtime"} {
		names, err := filepath.Glob(filepath.Join(build.Default.GOROOT, "src", folder, "*.go"))
		if err != nil || len(names) == 0 {
			b.Fatalf("no sources of %s: %v", folder, err)
		}
		for _, name := range names {
			tree, err := parser.ParseFile(files, name, nil, parser.ParseComments)
			if err != nil {
				b.Fatal(err)
			}
			trees = append(trees, tree)
		}
	}
	return trees
}

// mappingOf finds the mapping that the object lies in: a part of the Go heap.
func mappingOf(b *testing.B, object *ast.File) (from, to int64) {
	b.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		b.Fatal(err)
	}
	at := int64(uintptr(unsafe.Pointer(object)))
	for line := range strings.Lines(string(maps)) {
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			b.Fatal(err)
		}
		if from <= at && at < to {
			return from, to
		}
	}
	b.Fatal("the heap is not mapped")
	return 0, 0
}

// BenchmarkCodec asks which of the library's two fast compressors is better for
// pages: time for a page in and out, and how much is left of it.
func BenchmarkCodec(b *testing.B) {
	pages := realPages(b)
	out := make([]byte, maxCompressed)
	for name, codec := range map[string]interface {
		CompressBlock(src, dst []byte) (int, error)
	}{
		"Compressor":        &lz4.Compressor{},
		"CompressorCCompat": &lz4.CompressorCCompat{},
	} {
		var compressed [][]byte
		total := 0
		for _, page := range pages {
			n, err := codec.CompressBlock(page, out)
			if err != nil || n == 0 {
				total += backends.PageSize
				continue
			}
			total += n
			compressed = append(compressed, append([]byte(nil), out[:n]...))
		}
		b.Run(name+"/in", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				codec.CompressBlock(pages[i%len(pages)], out)
			}
			b.ReportMetric(float64(len(pages)*backends.PageSize)/float64(total), "ratio")
			b.ReportMetric(100*float64(len(pages)-len(compressed))/float64(len(pages)), "%poor")
		})
		b.Run(name+"/out", func(b *testing.B) {
			b.ReportAllocs()
			dst := make([]byte, backends.PageSize)
			for i := 0; b.Loop(); i++ {
				decompress(dst, compressed[i%len(compressed)])
			}
		})
	}
}

// BenchmarkStore asks what a store costs beside the codec (BenchmarkCodec on the
// same sort of pages), with the invalidate of an older page.
func BenchmarkStore(b *testing.B) {
	pages := realPages(b)
	c := newBenchCache(b)
	live := make([]backends.Handle, len(pages))
	have := make([]bool, len(pages))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		n := i % len(pages)
		key := backends.Key{Export: 1, Page: uint64(n)}
		handle, refusal, err := c.Store(key, pages[n])
		if err != nil {
			b.Fatal(err)
		}
		if have[n] {
			c.Invalidate(key, live[n])
		}
		live[n], have[n] = handle, refusal == backends.Accepted
	}
}

// BenchmarkLoad asks what a load costs beside the codec alone on the same pages,
// from a cache too large for the processor's own, and what memory a page takes
// there. "raw" is a page that waits to be compressed.
func BenchmarkLoad(b *testing.B) {
	pages := realPages(b)
	dst, out := make([]byte, backends.PageSize), make([]byte, encodeBuffer)
	for _, codec := range []Codec{LZ4, Zstd, Raw} {
		config := Config{Limit: 1 << 30}
		if codec != Raw {
			config.Codec = codec
		}
		c, keys, handles := filledCache(b, config, codec, pages)
		b.Run(codec.String()+"/load", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := c.Load(keys[i%len(keys)], handles[i%len(keys)], dst); err != nil {
					b.Fatal(err)
				}
			}
			reportMemory(b, c)
		})
		b.Run(codec.String()+"/codec", func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				object, ok := c.arena.Get(arena.Ref(handles[i%len(keys)]))
				if !ok || !c.decode(codec, dst, object.Data) {
					b.Fatal("no object")
				}
			}
		})
		if codec == Zstd {
			b.Run("zstd/in", func(b *testing.B) {
				for i := 0; b.Loop(); i++ {
					c.zstd.encode(out, pages[i%len(pages)])
				}
			})
		}
	}
}

// BenchmarkBurst asks how long a burst of 32 pages takes to be acknowledged, in
// line and with the pages compressed behind, which is waited for after each burst.
func BenchmarkBurst(b *testing.B) {
	pages := realPages(b)
	for name, staging := range map[string]int64{"inline": -1, "staged": 0} {
		b.Run(name, func(b *testing.B) {
			c, err := New(Config{Limit: 1 << 30, Staging: staging, Cold: -1, Scrub: -1})
			if err != nil {
				b.Fatal(err)
			}
			h := &backendtest.Host{Backend: c}
			if err := h.Open(1, uint64(len(pages))); err != nil {
				b.Fatal(err)
			}
			var took time.Duration
			at := 0
			for b.Loop() {
				start := time.Now()
				for range 32 {
					if _, err := h.Write(backends.Key{Export: 1, Page: uint64(at)}, pages[at]); err != nil {
						b.Fatal(err)
					}
					at = (at + 1) % len(pages)
				}
				took += time.Since(start)
				for len(c.staged) > 0 {
					time.Sleep(100 * time.Microsecond)
				}
			}
			b.ReportMetric(float64(took.Nanoseconds())/float64(32*b.N), "ns/page")
			b.ReportMetric(0, "ns/op")
			h.Close(1)
			c.Close()
		})
	}
}

// BenchmarkParallel asks whether stores and loads get in each other's way.
func BenchmarkParallel(b *testing.B) {
	pages := realPages(b)
	c := newBenchCache(b)
	var workers atomic.Uint64
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		first := workers.Add(1) << 32
		dst := make([]byte, backends.PageSize)
		for i := uint64(0); pb.Next(); i++ {
			key := backends.Key{Export: 1, Page: first + i}
			handle, refusal, err := c.Store(key, pages[i%uint64(len(pages))])
			if err != nil {
				b.Error(err)
				return
			}
			if refusal != backends.Accepted {
				continue
			}
			if err := c.Load(key, handle, dst); err != nil {
				b.Error(err)
				return
			}
			c.Invalidate(key, handle)
		}
	})
}

func newBenchCache(b *testing.B) *Cache {
	b.Helper()
	c, err := New(Config{Limit: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	if err := c.Init(backends.Export{ID: 1, Pages: backends.MaxPages}); err != nil {
		b.Fatal(err)
	}
	return c
}

// filledCache keeps each page 16 times, all in one encoding.
func filledCache(b *testing.B, config Config, codec Codec, pages [][]byte) (c *Cache, keys []backends.Key, handles []backends.Handle) {
	b.Helper()
	c, err := New(config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	if err := c.Init(backends.Export{ID: 1, Pages: backends.MaxPages}); err != nil {
		b.Fatal(err)
	}
	for n := range uint64(16 * len(pages)) {
		key, page := backends.Key{Export: 1, Page: n}, pages[n%uint64(len(pages))]
		if codec == Raw {
			ref, ok := c.put(arena.Object{Export: 1, Page: n, Codec: uint8(Raw), Sum: crc32.Checksum(page, castagnoli), Data: page})
			if !ok {
				b.Fatal("no room")
			}
			keys, handles = append(keys, key), append(handles, backends.Handle(ref))
			continue
		}
		handle, refusal, err := c.Store(key, page)
		if err != nil {
			b.Fatal(err)
		}
		if refusal == backends.Accepted {
			keys, handles = append(keys, key), append(handles, handle)
		}
	}
	return c, keys, handles
}

func reportMemory(b *testing.B, c *Cache) {
	b.Helper()
	stats := c.Stats()
	b.ReportMetric(float64(stats.StoredBytes)/float64(stats.Pages), "stored-B/page")
	b.ReportMetric(float64(stats.HeldBytes)/float64(stats.Pages), "held-B/page")
}
