package donor

import (
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/pagelz4"
	"github.com/tmemd/tmemd/backends/ramster/wire"
	"github.com/tmemd/tmemd/backends/zcache"
)

// TestDensity: the same compressed bytes take within 5 % of what they take in zcache,
// index and all. What sealing adds to them is the owner's.
func TestDensity(t *testing.T) {
	const pages = 12000
	config := zcache.Config{Limit: 64 << 20, Capacity: 64 << 20, Staging: -1}
	c, err := zcache.New(config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Init(backends.Export{ID: 1, Pages: pages}); err != nil {
		t.Fatal(err)
	}
	pl := newPlace(t, Config{Limit: 64 << 20})
	p := newPeer(t, pl)
	var encoder pagelz4.Encoder
	var out [pagelz4.Bound]byte
	stored := int64(0)
	page := make([]byte, backends.PageSize)
	for n := range uint64(pages) {
		backendtest.FillMixed(page, n)
		handle, refusal, err := c.Store(backends.Key{Export: 1, Page: n}, page)
		if err != nil || refusal != backends.Accepted || handle >= 1<<47 {
			continue // refused, or no memory at all
		}
		length := encoder.Encode(&out, (*[backends.PageSize]byte)(page), backends.PageSize*7/8)
		if length == 0 {
			t.Fatal("zcache compresses what the encoder does not")
		}
		if got := p.put(t, kept, n, 1, out[:length]); got != wire.OK {
			t.Fatalf("page %d: %v", n, got)
		}
		stored++
	}
	there, here := c.Stats(), pl.donor.Stats()
	if int64(there.Pages-there.SameFilledPages) != stored || here.Clients[0].Persistent != stored || stored < pages/2 {
		t.Fatalf("%d pages in zcache, %d in the donor, of %d", there.Pages-there.SameFilledPages, here.Clients[0].Persistent, stored)
	}
	zcacheBytes, donorBytes := float64(there.HeldBytes)/float64(stored), float64(here.HeldBytes)/float64(stored)
	t.Logf("%d pages of %d bytes: %.0f bytes each in zcache, %.0f in the donor (%.0f of them index), %+.1f %%",
		stored, there.StoredBytes/uint64(stored), zcacheBytes, donorBytes, float64(here.IndexBytes)/float64(stored), 100*(donorBytes/zcacheBytes-1))
	if donorBytes > 1.05*zcacheBytes {
		t.Errorf("a page takes %.0f bytes, and %.0f in zcache", donorBytes, zcacheBytes)
	}
	if bookkeeping := float64(arena.ChunkSize); here.HeldBytes > here.LimitBytes+int64(bookkeeping) {
		t.Errorf("%d bytes held, limit %d", here.HeldBytes, here.LimitBytes)
	}
}
