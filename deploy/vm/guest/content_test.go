package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/pierrec/lz4/v4"
	"pgregory.net/rapid"
)

func contentOf(seed uint64, page, version uint32) []byte {
	dst := bytes.Repeat([]byte{0xa5}, pageSize) // what was there before must not show
	fill(dst, seed, page, version)
	return dst
}

// The content is a function of seed, page and version alone, and says who it is.
func TestContentIsDeterministicAndNamesItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		page := rapid.Uint32().Draw(t, "page")
		version := rapid.Uint32Min(1).Draw(t, "version")
		content := contentOf(seed, page, version)
		if again := contentOf(seed, page, version); !bytes.Equal(content, again) {
			t.Fatal("the same page twice differs")
		}
		if p, v := identify(seed, content); p != page || v != version {
			t.Fatalf("identified as page %d version %d", p, v)
		}
		for _, other := range [][]byte{
			contentOf(seed+1, page, version), contentOf(seed, page+1, version), contentOf(seed, page, version+1),
		} {
			if bytes.Equal(content, other) {
				t.Fatal("another seed, page or version gives the same content")
			}
		}
	})
}

// The same everywhere: a guest and a report from another machine mean the same bytes.
func TestContentIsStable(t *testing.T) {
	hash := sha256.New()
	for page := range uint32(256) {
		hash.Write(contentOf(1, page, page%7))
	}
	const want = "76522eaaf6fa2750b81bcf59cccc89f925b525a4640fc31e69768fcfb4bb5ca4"
	if got := hex.EncodeToString(hash.Sum(nil)); got != want {
		t.Errorf("sha256 of 256 pages is %s; want %s", got, want)
	}
}

func TestVersionZeroIsZeros(t *testing.T) {
	if content := contentOf(7, 3, 0); !bytes.Equal(content, make([]byte, pageSize)) {
		t.Errorf("version 0 is %x...", content[:16])
	}
}

// Each kind has its share, and compresses as that kind of data does.
func TestContentMix(t *testing.T) {
	// Bounds of the size under lz4, in percent of a page. Incompressible data may come out larger.
	bounds := [kinds]struct{ low, high int }{
		text: {20, 60}, structured: {5, 45}, random: {99, 105}, filled: {0, 3},
	}
	const pages = 20000
	var count, sampled, compressed [kinds]int
	var compressor lz4.Compressor
	buffer := make([]byte, lz4.CompressBlockBound(pageSize))
	for page := range uint32(pages) {
		k := kindOf(9, page, 1)
		count[k]++
		if page%16 != 0 {
			continue
		}
		sampled[k]++
		n, err := compressor.CompressBlock(contentOf(9, page, 1), buffer)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			n = pageSize
		}
		compressed[k] += n
	}
	for k := range kinds {
		percent := float64(count[k]) * 100 / pages
		if percent < float64(shares[k])-2 || percent > float64(shares[k])+2 {
			t.Errorf("kind %d: %.1f %% of the pages; want about %d %%", k, percent, shares[k])
		}
		size := compressed[k] * 100 / (sampled[k] * pageSize)
		if size < bounds[k].low || size > bounds[k].high {
			t.Errorf("kind %d: lz4 leaves %d %%; want %d to %d %%", k, size, bounds[k].low, bounds[k].high)
		}
	}
}

// A page changes its kind from one version to another, in both directions between compressible and not.
func TestKindChangesWithVersion(t *testing.T) {
	toRandom, fromRandom := 0, 0
	for version := uint32(1); version < 200; version++ {
		before, after := kindOf(1, 42, version), kindOf(1, 42, version+1)
		if before != random && after == random {
			toRandom++
		}
		if before == random && after != random {
			fromRandom++
		}
	}
	if toRandom == 0 || fromRandom == 0 {
		t.Errorf("%d changes to incompressible, %d from it; want some of each", toRandom, fromRandom)
	}
}

func TestFillDoesNotAllocate(t *testing.T) {
	dst, page := make([]byte, pageSize), uint32(0)
	if n := testing.AllocsPerRun(1000, func() { fill(dst, 1, page, 1); page++ }); n != 0 {
		t.Errorf("%v allocations a page", n)
	}
}
