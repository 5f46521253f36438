package zcache

import (
	"bytes"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/samefilled"
)

func TestSameFilledCostsNothing(t *testing.T) {
	c := newTestCache(t)
	dst := make([]byte, backends.PageSize)
	for seed := range uint64(1000) {
		key := backends.Key{Export: 1, Page: seed}
		page := backendtest.Page(backendtest.SameFilled, seed)
		handle, refusal, err := c.Store(key, page)
		if err != nil || refusal != backends.Accepted || !samefilled.Is(handle) || handle >= 1<<backends.HandleBits {
			t.Fatalf("Store: %#x, %v, %v", uint64(handle), refusal, err)
		}
		if err := c.Load(key, handle, dst); err != nil || !bytes.Equal(dst, page) {
			t.Fatalf("Load: %v, or other bytes", err)
		}
	}
	stats := c.Stats()
	if stats.Pages != 1000 || stats.SameFilledPages != 1000 || stats.StoredBytes != 0 || stats.HeldBytes != 0 || stats.Memory[0].Resident != 0 {
		t.Errorf("Stats: %+v", stats)
	}
}
