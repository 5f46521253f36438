package tier

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/frontswap"
)

// tenant is a device of one of several clients, and what is on it.
type tenant struct {
	*Device
	mark    []byte            // in each of its pages
	written map[uint64]uint64 // by page: which version
}

func (x *tenant) page(page, version uint64) []byte {
	p := make([]byte, pageSize)
	for at := 0; at < pageSize; at += 64 {
		copy(p[at:], fmt.Sprintf("%s page %d version %d, at %d", x.mark, page, version, uint64(at)*version))
	}
	return p
}

// TestTenantsDoNotLeak: tenants that come, go, write, trim and are evicted over one small
// pool read what they wrote, and else zeros: never a byte of another one, or of one that
// was there before.
func TestTenantsDoNotLeak(t *testing.T) {
	const pages = 600
	rapid.Check(t, func(rt *rapid.T) {
		f := frontswap.New(quiet())
		c, err := zcache.New(zcache.Config{Limit: 1 << 20})
		if err != nil {
			rt.Fatal(err)
		}
		if err := f.Register("z", c); err != nil {
			rt.Fatal(err)
		}
		tenants := map[string]*tenant{}
		made := uint32(0)
		buffer := make([]byte, pageSize)
		pick := func(rt *rapid.T) (string, *tenant) {
			name := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "tenant")
			return name, tenants[name]
		}
		check := func(x *tenant, page uint64) {
			if _, err := x.ReadAt(buffer, int64(page*pageSize)); err != nil {
				rt.Fatal(err)
			}
			want := make([]byte, pageSize)
			if version, ok := x.written[page]; ok {
				want = x.page(page, version)
			}
			if !bytes.Equal(buffer, want) {
				rt.Fatalf("page %d of %s: %.60q, want %.60q", page, x.mark, buffer, want)
			}
		}
		for _, name := range []string{"a", "b"} {
			if err := f.CreateClient(name, frontswap.Quota{Weight: uint32(1 + len(tenants))}); err != nil {
				rt.Fatal(err)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"come": func(rt *rapid.T) {
				name, x := pick(rt)
				if x != nil {
					return
				}
				made++
				d, err := Open(Config{Name: name, ID: made, Storage: newMemoryStorage(pages), Empty: true, Client: name, Frontswap: f, Log: quiet()})
				if err != nil {
					rt.Fatal(err)
				}
				tenants[name] = &tenant{Device: d, mark: fmt.Appendf(nil, "%s%d", name, made), written: map[uint64]uint64{}}
			},
			"go": func(rt *rapid.T) {
				if name, x := pick(rt); x != nil {
					if err := x.Close(); err != nil {
						rt.Fatal(err)
					}
					delete(tenants, name)
				}
			},
			"write": func(rt *rapid.T) {
				_, x := pick(rt)
				first, version := rapid.Uint64Range(0, pages-1).Draw(rt, "page"), rapid.Uint64().Draw(rt, "version")
				for page := first; x != nil && page < min(first+200, pages); page++ {
					if _, err := x.WriteAt(x.page(page, version), int64(page*pageSize)); err != nil {
						rt.Fatal(err)
					}
					x.written[page] = version
				}
			},
			"trim": func(rt *rapid.T) {
				_, x := pick(rt)
				first := rapid.Uint64Range(0, pages-1).Draw(rt, "page")
				if x == nil {
					return
				}
				last := min(first+100, pages)
				if err := x.WriteZeroes(int64(first*pageSize), int64((last-first)*pageSize), false); err != nil {
					rt.Fatal(err)
				}
				for page := first; page < last; page++ {
					delete(x.written, page)
				}
			},
			"evict": func(rt *rapid.T) {
				// Fails if the backend has the like under way.
				_, _ = f.Shrink(context.Background(), "z", rapid.Uint64Range(1, 300).Draw(rt, "pages"))
			},
			"read": func(rt *rapid.T) {
				if _, x := pick(rt); x != nil {
					first := rapid.Uint64Range(0, pages-1).Draw(rt, "page")
					for page := first; page < min(first+50, pages); page++ {
						check(x, page)
					}
				}
			},
		})
		for _, x := range tenants {
			for page := range uint64(pages) {
				check(x, page)
			}
			if err := x.Close(); err != nil {
				rt.Fatal(err)
			}
		}
		if _, err := f.Unregister(context.Background(), "z"); err != nil {
			rt.Fatal(err)
		}
	})
}
