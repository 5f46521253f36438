package frontswap

import (
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/latency"
)

// TestTiming: loads and stores of the pages that are picked are timed, tries too.
func TestTiming(t *testing.T) {
	f := New(quiet())
	a := openArea(t, f, 1, 1024, &memory{})
	if err := f.Register("map", &backendtest.Map{}); err != nil {
		t.Fatal(err)
	}
	picked, buffer := uint64(0), make([]byte, backends.PageSize)
	for page := range uint64(1024) {
		if latency.Sampled(page) {
			picked++
		}
		if !store(a, page, 1) {
			t.Fatal("not stored")
		}
		checkLoad(t, a, page, 1)
		a.RLock(page)
		if !a.TryLoad(page, buffer) {
			t.Fatal("not loaded")
		}
		a.RUnlock(page)
	}
	b := f.Backends()[0]
	if b.Stores.Count() != picked || b.Loads.Count() != 2*picked || picked == 0 {
		t.Errorf("%d stores and %d loads were timed, %d pages are picked", b.Stores.Count(), b.Loads.Count(), picked)
	}
}
