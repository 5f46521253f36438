package backendtest_test

import (
	"bytes"
	"testing"

	"github.com/pierrec/lz4/v4"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

// TestPages checks that a seed always makes the same page, that no two make the
// same, and that the sorts compress as they are meant to.
func TestPages(t *testing.T) {
	const seeds = 500
	for content, size := range map[backendtest.Content][2]int{
		backendtest.SameFilled: {10, 40},
		backendtest.Repeated:   {20, 60},
		backendtest.Structured: {1400, 2200},
		backendtest.Text:       {1900, 2900},
		backendtest.Random:     {4096, 5000},
	} {
		t.Run(content.String(), func(t *testing.T) {
			seen := make(map[string]uint64)
			var compressor lz4.Compressor
			out := make([]byte, lz4.CompressBlockBound(backends.PageSize))
			total := 0
			for seed := range uint64(seeds) {
				page := backendtest.Page(content, seed)
				if !bytes.Equal(page, backendtest.Page(content, seed)) {
					t.Fatalf("seed %d makes different pages", seed)
				}
				if other, ok := seen[string(page)]; ok {
					t.Fatalf("seeds %d and %d make the same page", seed, other)
				}
				seen[string(page)] = seed
				n, err := compressor.CompressBlock(page, out)
				if err != nil {
					t.Fatal(err)
				}
				total += n
			}
			if mean := total / seeds; mean < size[0] || mean > size[1] {
				t.Errorf("lz4 makes %d bytes of a page, want %d to %d", mean, size[0], size[1])
			}
		})
	}
	if !bytes.Equal(backendtest.Page(backendtest.SameFilled, 0), make([]byte, backends.PageSize)) {
		t.Error("the same-filled page of seed 0 is not all zero")
	}
}

// TestMixed expects every sort among few pages, and none twice.
func TestMixed(t *testing.T) {
	page := make([]byte, backends.PageSize)
	counts := make(map[backendtest.Content]int)
	seen := make(map[string]bool)
	for seed := range uint64(1000) {
		backendtest.FillMixed(page, seed)
		seen[string(page)] = true
		for content := range backendtest.Contents {
			if bytes.Equal(page, backendtest.Page(content, seed)) {
				counts[content]++
			}
		}
	}
	if len(seen) != 1000 {
		t.Errorf("1000 seeds make %d different pages", len(seen))
	}
	for content := range backendtest.Contents {
		if counts[content] < 30 || counts[content] > 600 {
			t.Errorf("%d of 1000 mixed pages are %v", counts[content], content)
		}
	}
}

func TestFillDoesNotAllocate(t *testing.T) {
	page := make([]byte, backends.PageSize)
	seed := uint64(0)
	if got := testing.AllocsPerRun(200, func() {
		backendtest.FillMixed(page, seed)
		seed++
	}); got != 0 {
		t.Errorf("FillMixed allocates %v times", got)
	}
}
