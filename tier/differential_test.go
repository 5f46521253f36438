package tier

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

// TestDifferential does one list of operations on every configuration: what
// each read returns must not depend on where pages are.
func TestDifferential(t *testing.T) {
	newZcache := func(limit int64) backends.Backend {
		z, err := zcache.New(zcache.Config{Limit: limit})
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	refuses := &backendtest.Map{OnStore: func(backends.Key, []byte) (backends.Refusal, error) { return backends.RefusedPoor, nil }}
	configurations := map[string]struct {
		backends []backends.Backend
		mode     Writethrough
		empty    bool
	}{
		"no backend":                {},
		"zcache":                    {backends: []backends.Backend{newZcache(64 << 20)}},
		"small zcache":              {backends: []backends.Backend{newZcache(256 << 10)}},
		"chain":                     {backends: []backends.Backend{&backendtest.Map{Limit: 50}, newZcache(512 << 10), &backendtest.Map{Remote: true, Limit: 40}}},
		"no backend, empty storage": {empty: true},
		"zcache, empty storage":     {backends: []backends.Backend{newZcache(512 << 10)}, empty: true},
		"one that refuses":          {backends: []backends.Backend{refuses}},
		"small pools":               {backends: []backends.Backend{newZcache(256 << 10), newZcache(256 << 10), &backendtest.Map{Limit: 3}}},
		"chain, async":              {backends: []backends.Backend{&backendtest.Map{Limit: 50}, newZcache(512 << 10)}, mode: WritethroughAsync},
		"chain, sync, empty":        {backends: []backends.Backend{&backendtest.Map{Limit: 50}, newZcache(512 << 10)}, mode: WritethroughSync, empty: true},
		"no backend, async":         {mode: WritethroughAsync},
		"no backend, sync":          {mode: WritethroughSync},
		"small zcache, async":       {backends: []backends.Backend{newZcache(256 << 10)}, mode: WritethroughAsync},
		"writethrough, async":       {backends: []backends.Backend{newZcache(64 << 20)}, mode: WritethroughAsync},
		"writethrough, sync":        {backends: []backends.Backend{newZcache(256 << 10)}, mode: WritethroughSync},
	}
	var want [][]byte
	for name, c := range configurations {
		f := newFrontswap()
		d, err := Open(Config{Name: "test", ID: 1, Storage: newMemoryStorage(400), Empty: c.empty, Frontswap: f, Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		d.SetWritethrough(c.mode)
		for i, b := range c.backends {
			register(t, f, string(rune('a'+i)), b)
		}
		got := operations(t, d)
		if want == nil {
			want = got
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("%s: read %d differs from another configuration's", name, i)
			}
		}
		for _, b := range f.Backends() {
			if _, err := f.Unregister(t.Context(), b.Name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got := mustRead(t, d, 400*pageSize, 0); !bytes.Equal(got, want[len(want)-1]) {
			t.Errorf("%s: the content differs once every backend is unloaded", name)
		}
		if err := d.Settle(); err != nil {
			t.Error(err)
		}
		if !bytes.Equal(d.storage.(*memoryStorage).data, want[len(want)-1]) {
			t.Errorf("%s: storage alone is not the content in the end", name)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// operations is the list: the same for every device. It returns what was read.
func operations(t *testing.T, d *Device) (reads [][]byte) {
	random := rand.New(rand.NewPCG(1, 2))
	for i := range uint64(600) {
		off := random.Int64N(400 * pageSize)
		n := min(1+random.Int64N(12*pageSize), 400*pageSize-off)
		if random.IntN(2) == 0 {
			off, n = off&^(pageSize-1), (n+pageSize-1)&^(pageSize-1)
		}
		switch random.IntN(6) {
		case 0:
			if err := d.Trim(off, n); err != nil {
				t.Fatal(err)
			}
		case 1:
			if err := d.WriteZeroes(off, n, random.IntN(2) == 0); err != nil {
				t.Fatal(err)
			}
		case 2:
			reads = append(reads, mustRead(t, d, int(n), off))
		default:
			p := pages(int(n/pageSize)+1, i*1000)[:n]
			done := d.TryWriteAt(p, off)
			mustWrite(t, d, p[done:], off+int64(done))
		}
	}
	return append(reads, mustRead(t, d, 400*pageSize, 0))
}
