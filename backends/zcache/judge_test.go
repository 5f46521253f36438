package zcache

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
)

// judgePages are pages of all sorts: same-filled, records, text, and some with ever
// more random bytes, on both sides of what is refused.
func judgePages() [][]byte {
	random := rand.New(rand.NewPCG(1, 2))
	var pages [][]byte
	for i := range 600 {
		page := make([]byte, 0, backends.PageSize+128)
		switch i % 4 {
		case 0:
			for len(page) < backends.PageSize {
				page = append(page, byte(i), 0, 7, 0)
			}
		case 1:
			for len(page) < backends.PageSize {
				page = append(page, byte(random.IntN(4)), 0, 0, 0, byte(random.IntN(256)), byte(i), 0, 0x7f)
			}
		case 2:
			for len(page) < backends.PageSize {
				page = fmt.Appendf(page, "level=INFO request=%x path=/api/v1/%d took=%dms\n", random.Uint32(), i, random.IntN(1000))
			}
		case 3:
			page = page[:backends.PageSize]
			for at := range min(backends.PageSize, i*8) {
				page[at] = byte(random.Uint32())
			}
		}
		pages = append(pages, page[:backends.PageSize])
	}
	return pages
}

// TestJudge compares what the judge says with what caches make of the same pages.
func TestJudge(t *testing.T) {
	j, err := NewJudge()
	if err != nil {
		t.Fatal(err)
	}
	for _, codec := range []Codec{LZ4, Zstd} {
		t.Run(codec.String(), func(t *testing.T) {
			c, err := New(Config{Limit: 64 << 20, Codec: codec})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			if err := c.Init(backends.Export{ID: 1, Pages: backends.MaxPages}); err != nil {
				t.Fatal(err)
			}
			held, refused := 0.0, 0
			for i, page := range judgePages() {
				v := j.Page(page)
				length := map[Codec]int{LZ4: v.LZ4, Zstd: v.Zstd}[codec]
				before := c.Stats()
				_, refusal, err := c.Store(backends.Key{Export: 1, Page: uint64(i)}, page)
				if err != nil {
					t.Fatal(err)
				}
				after := c.Stats()
				want := backends.Accepted
				if !v.SameFilled && length == 0 {
					want, refused = backends.RefusedPoor, refused+1
				}
				if refusal != want {
					t.Fatalf("page %d: %v, the judge says %v (%+v)", i, refusal, want, v)
				}
				if same := after.SameFilledPages > before.SameFilledPages; same != v.SameFilled {
					t.Fatalf("page %d is same-filled: %v, the judge says %+v", i, same, v)
				}
				if grown := c.kept[codec].bytes.Load(); length > 0 && grown != int64(length)+bytesOf(before, codec) {
					t.Fatalf("page %d: %d bytes of data now, the judge says %d more than %d", i, grown, length, bytesOf(before, codec))
				}
				if length > 0 {
					held += arena.HeldFor(length)
				}
			}
			if refused == 0 {
				t.Error("no page was refused: that is not tested")
			}
			// What is held has chunks that are not full, one in each class at most.
			if got := float64(c.Stats().HeldBytes); got < held*0.98 || got > held+100*arena.ChunkSize {
				t.Errorf("the arena holds %.0f bytes, want %.0f and a chunk for each class", got, held)
			}
		})
	}
}

func bytesOf(s backends.Stats, codec Codec) int64 {
	for _, c := range s.Codecs {
		if c.Name == codec.String() {
			return int64(c.Bytes)
		}
	}
	return 0
}

// TestJudgeCold recompresses one page as the background does, and compares.
func TestJudgeCold(t *testing.T) {
	j, err := NewJudge()
	if err != nil {
		t.Fatal(err)
	}
	smaller, same := 0, 0
	for i, page := range judgePages() {
		v := j.Page(page)
		if v.SameFilled || v.LZ4 == 0 {
			if v.Cold != 0 {
				t.Fatalf("page %d is not compressed, and would be %d bytes when cold", i, v.Cold)
			}
			continue
		}
		switch {
		case v.Cold == v.Zstd && v.Zstd > 0 && v.Zstd <= v.LZ4-v.LZ4/16:
			smaller++
		case v.Cold == v.LZ4 && (v.Zstd == 0 || v.Zstd > v.LZ4-v.LZ4/16):
			same++
		default:
			t.Fatalf("page %d: %+v", i, v)
		}
	}
	if smaller == 0 || same == 0 {
		t.Errorf("%d pages gain by zstd, %d do not: both are to be tested", smaller, same)
	}
}

func TestJudgeDoesNotAllocate(t *testing.T) {
	j, err := NewJudge()
	if err != nil {
		t.Fatal(err)
	}
	pages := judgePages()
	j.Page(pages[2])
	at := 0
	if n := testing.AllocsPerRun(200, func() { j.Page(pages[at%len(pages)]); at++ }); n > 0 {
		t.Errorf("%v allocations for a page", n)
	}
}

// TestJudgeZram: what zram makes of pages is checked against a device in
// deploy/memory; here are the cases.
func TestJudgeZram(t *testing.T) {
	j, err := NewJudge()
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(3, 4))
	noise, word := make([]byte, backends.PageSize), make([]byte, backends.PageSize)
	for i := range noise {
		noise[i] = byte(random.Uint32())
		word[i] = byte(i % 8)
	}
	for name, test := range map[string]struct {
		page        []byte
		least, most int
	}{
		"zeros":        {make([]byte, backends.PageSize), 0, 0},
		"a long word":  {word, 0, 0},
		"random bytes": {noise, backends.PageSize, backends.PageSize},
		"text":         {judgePages()[2], 500, 2500},
	} {
		if got := j.Page(test.page).Zram; got < test.least || got > test.most {
			t.Errorf("%s: zram would have %d bytes of it", name, got)
		}
	}
}
