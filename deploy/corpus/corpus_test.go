package corpus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// children lists the processes that this one has started and not waited for.
func children(t *testing.T) []string {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*/stat")
	if err != nil || len(threads) == 0 {
		t.Fatalf("no threads found: %v", err)
	}
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range all {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == fmt.Sprint(os.Getpid()) {
			found = append(found, string(stat))
		}
	}
	return found
}

func TestSample(t *testing.T) {
	const size = 4 << 20
	c, err := Sample(t.Context(), Options{Bytes: size, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if left := children(t); len(left) > 0 {
		t.Errorf("P3: processes left: %q", left)
	}
	if got, want := c.Pages(), size/PageSize; got != want {
		t.Fatalf("%d pages, want %d", got, want)
	}
	for i := range c.Pages() {
		page := c.Page(i)
		if len(page) != PageSize {
			t.Fatalf("page %d has %d bytes", i, len(page))
		}
		if word, same := sameFilled(page); same {
			t.Errorf("page %d is filled with %#x", i, word)
		}
	}

	var names []string
	pages := 0
	for _, s := range c.Sources() {
		names = append(names, s.Name)
		pages += s.Pages
		t.Logf("%-15s %4d pages, %d of %d seen same-filled, lz4 %.2f %s",
			s.Name, s.Pages, s.Zero+s.SameFilled, s.Seen, s.Ratio(), s.Skipped)
		if (s.Pages == 0) != (s.Skipped != "") {
			t.Errorf("%s has %d pages and was skipped because of %q", s.Name, s.Pages, s.Skipped)
		}
		if s.Compressed != s.Pages || s.Seen < s.Pages {
			t.Errorf("%s does not add up: %+v", s.Name, s)
		}
	}
	if pages != c.Pages() || c.Total().Pages != pages {
		t.Errorf("sources have %d pages, their total %d, the corpus %d", pages, c.Total().Pages, c.Pages())
	}
	// Go is what this test was compiled with.
	for _, name := range []string{"Go compile", "text", "random"} {
		if i := slices.Index(names, name); i < 0 || c.Sources()[i].Skipped != "" {
			t.Errorf("%s is not in the corpus", name)
		}
	}
	if ratio := c.Total().Ratio(); ratio < 1.5 || ratio > 6 {
		t.Errorf("lz4 ratio %.2f is not that of memory in use", ratio)
	}
}

func TestSampleCancelled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Sample(ctx, Options{Bytes: 256 << 20}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that of the context", err)
	}
	if left := children(t); len(left) > 0 {
		t.Errorf("P3: processes left: %q", left)
	}
}

func TestSampleRefusesNegativeSize(t *testing.T) {
	if _, err := Sample(t.Context(), Options{Bytes: -1}); err == nil {
		t.Error("no error")
	}
}

// collected makes a collection of n pages, each of which starts with its number
// and the collection's tag.
func collected(weight, n int, tag byte) *collection {
	c := &collection{kind: kind{name: string('a' + rune(tag)), weight: weight}, want: n}
	for first := 0; first < n; first += runPages {
		pages := make([]byte, min(runPages, n-first)*PageSize)
		for i := range len(pages) / PageSize {
			copy(pages[i*PageSize:], []byte{tag, byte(first + i), byte((first + i) >> 8)})
		}
		c.add(pages)
	}
	return c
}

func TestApportion(t *testing.T) {
	for _, test := range []struct {
		name    string
		weights []int
		have    []int
		pages   int
		want    []int
	}{
		{"by weight", []int{3, 2, 1}, []int{100, 100, 100}, 60, []int{30, 20, 10}},
		{"rounded", []int{1, 1, 1}, []int{9, 9, 9}, 10, []int{4, 4, 2}},
		{"one has too few", []int{1, 1, 2}, []int{100, 5, 100}, 60, []int{20, 5, 35}},
		{"one has none", []int{1, 1}, []int{0, 50}, 40, []int{0, 40}},
		{"not enough", []int{1, 2}, []int{7, 8}, 40, []int{7, 8}},
		{"nothing wanted", []int{1}, []int{7}, 0, []int{0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var collections []*collection
			sum := 0
			for i, weight := range test.weights {
				collections = append(collections, collected(weight, test.have[i], byte(i)))
			}
			got := apportion(collections, test.pages)
			for i, share := range got {
				sum += share
				if share > test.have[i] {
					t.Errorf("share %d of collection %d, which has %d", share, i, test.have[i])
				}
			}
			if sum > test.pages {
				t.Errorf("shares %v sum up to more than %d", got, test.pages)
			}
			for i := range got {
				// Where a share is lost the rest is split by weight, rounded up.
				if d := got[i] - test.want[i]; d < -1 || d > 1 {
					t.Errorf("shares %v, want %v", got, test.want)
				}
			}
		})
	}
}

func TestMix(t *testing.T) {
	sources := func() []*collection {
		return []*collection{collected(2, 400, 0), collected(1, 400, 1), {kind: kind{name: "c", weight: 9}, skipped: "gone"}}
	}
	mixed := func(seed uint64) *Corpus {
		t.Helper()
		c, err := mix(sources(), 300, seed)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first, again, other := mixed(1), mixed(1), mixed(2)
	if !bytes.Equal(first.data, again.data) {
		t.Error("the same seed gives another order")
	}
	if bytes.Equal(first.data, other.data) {
		t.Error("another seed gives the same order")
	}

	// P2: the first half has about half of each source, and neighbours stay so.
	counts, neighbours := [2]int{}, 0
	for i := range first.Pages() {
		page := first.Page(i)
		if i < first.Pages()/2 {
			counts[page[0]]++
		}
		if i > 0 {
			before := first.Page(i - 1)
			if before[0] == page[0] && before[1]+1 == page[1] {
				neighbours++
			}
		}
	}
	if counts[0] < 60 || counts[1] < 20 {
		t.Errorf("the first half has %d of 200 pages and %d of 100", counts[0], counts[1])
	}
	if neighbours < 300*(runPages-2)/runPages {
		t.Errorf("only %d of 300 pages follow their neighbour", neighbours)
	}
	if s := first.Sources(); s[0].Pages != 200 || s[1].Pages != 100 || s[2].Skipped != "gone" {
		t.Errorf("sources %+v", s)
	}
	if _, err := mix(sources(), 801, 1); !errors.Is(err, errTooFew) {
		t.Errorf("801 of 800 pages: error %v", err)
	}
}

func TestCollectionAdd(t *testing.T) {
	plain := bytes.Repeat([]byte("0123456789abcdef"), PageSize/16)
	zero := make([]byte, PageSize)
	filled := bytes.Repeat([]byte("words ab"), PageSize/8)
	pages := slices.Concat(plain, zero, filled, zero, plain, plain)
	for _, test := range []struct {
		keep bool
		want int
		left [][]byte
		seen [3]int // seen, zero, same-filled
	}{
		{false, 9, [][]byte{plain, plain, plain}, [3]int{6, 2, 1}},
		{true, 9, [][]byte{plain, zero, filled, zero, plain, plain}, [3]int{6, 2, 1}},
		{false, 2, [][]byte{plain, plain}, [3]int{5, 2, 1}},
		{true, 3, [][]byte{plain, zero, filled}, [3]int{3, 1, 1}},
	} {
		c := &collection{keepSameFilled: test.keep, want: test.want}
		c.add(bytes.Clone(pages))
		if got := bytes.Join(c.runs, nil); !bytes.Equal(got, bytes.Join(test.left, nil)) {
			t.Errorf("keep %v, want %d: %d pages are left, not %d, or not those",
				test.keep, test.want, len(got)/PageSize, len(test.left))
		}
		if got := [3]int{c.seen, c.zero, c.sameFilled}; got != test.seen {
			t.Errorf("keep %v, want %d: counts %v, want %v", test.keep, test.want, got, test.seen)
		}
	}
}
