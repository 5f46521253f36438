package disk

import (
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cleancache"
)

// BenchmarkRead reads pages one by one: from the cache, through a cache that has nothing
// and gets everything, and without a cache. Storage is memory, so that only what is
// above it counts.
func BenchmarkRead(b *testing.B) {
	const pages = 4096
	storage := newVolatile(pages)
	for page := range uint64(pages) {
		if err := storage.WritePages(page, backendtest.Mixed(page)); err != nil {
			b.Fatal(err)
		}
	}
	for _, test := range []struct {
		name     string
		cached   bool
		mode     cleancache.Mode
		prefetch bool
	}{
		{"hit", true, cleancache.Inclusive, true},
		{"miss and put", true, cleancache.Inclusive, false},
		{"without a cache", false, cleancache.Inclusive, false},
	} {
		b.Run(test.name, func(b *testing.B) {
			c := cleancache.New(quiet())
			cache, err := zcache.New(zcache.Config{Limit: 64 << 20})
			if err != nil {
				b.Fatal(err)
			}
			if test.cached {
				c.Follow([]backends.Named{{Name: "zcache", Backend: cache}})
			}
			d := open(b, c, storage, false)
			p := make([]byte, pageSize)
			if test.prefetch {
				if err := d.Prefetch(0, pages*pageSize); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(pageSize)
			for n := 0; b.Loop(); n++ {
				page := uint64(n*1009) % pages
				if test.prefetch {
					if !d.TryReadAt(p, int64(page)*pageSize) {
						b.Fatal("a miss")
					}
					continue
				}
				if _, err := d.ReadAt(p, int64(page)*pageSize); err != nil {
					b.Fatal(err)
				}
				d.own.pool.Lock(page) // for the next time around
				d.own.pool.InvalidatePage(page)
				d.own.pool.Unlock(page)
			}
			if err := d.own.pool.InvalidateFS(); err != nil {
				b.Fatal(err)
			}
			c.Leave(cache)
			if err := cache.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
