package pagelz4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pierrec/lz4/v4"
	"pgregory.net/rapid"

	"github.com/tmemd/tmemd/backends/backendtest"
)

// fatalf is what rapid.T and testing.TB have in common here.
type fatalf interface {
	Helper()
	Fatalf(format string, args ...any)
}

// longest is the length of a block of a page in which there is nothing to find.
const longest = PageSize + 1 + 17

// verify compresses the page and checks all that is promised of it. It returns
// the block.
func verify(t fatalf, e *Encoder, page *[PageSize]byte) []byte {
	t.Helper()
	var dst, again [Bound]byte
	before := *page
	n := e.Encode(&dst, page, Bound)
	if *page != before {
		t.Fatalf("E2: the page was changed")
	}
	if n <= 0 || n > longest {
		t.Fatalf("%d bytes, want 1 to %d", n, longest)
	}
	block := bytes.Clone(dst[:n])
	if back, err := reference(block); err != nil || !bytes.Equal(back, page[:]) {
		t.Fatalf("E1: by the letter of the format: error %v, same page: %v\npage  %x\nblock %x", err, bytes.Equal(back, page[:]), *page, block)
	}
	back := make([]byte, PageSize)
	if length, err := lz4.UncompressBlock(block, back); err != nil || length != PageSize || !bytes.Equal(back, page[:]) {
		t.Fatalf("E1: by the library: %d bytes, error %v\npage  %x\nblock %x", length, err, *page, block)
	}
	if n := new(Encoder).Encode(&again, page, len(block)); !bytes.Equal(again[:n], block) {
		t.Fatalf("E3: %d bytes from a new encoder that may use as many as it needs, %d before", n, len(block))
	}
	if n := e.Encode(&again, page, len(block)-1); n != 0 {
		t.Fatalf("%d bytes with a limit of %d", n, len(block)-1)
	}
	return block
}

// randomPage returns bytes in which there is nothing to find.
func randomPage(seed uint64) *[PageSize]byte {
	return (*[PageSize]byte)(backendtest.Page(backendtest.Random, seed))
}

func TestContents(t *testing.T) {
	var e Encoder
	for content := range backendtest.Contents {
		for seed := range uint64(200) {
			verify(t, &e, (*[PageSize]byte)(backendtest.Page(content, seed)))
		}
	}
	if n := len(verify(t, &e, new([PageSize]byte))); n > 32 {
		t.Errorf("zeros: %d bytes, want at most 32", n)
	}
	if n := len(verify(t, &e, randomPage(1))); n != longest {
		t.Errorf("random bytes: %d bytes, want %d", n, longest)
	}
}

// TestBoundaries has literals, matches and offsets of most lengths: all up to 600,
// all near the page's, and between those around each at which a length takes
// another byte, 15+255n or 19+255n.
func TestBoundaries(t *testing.T) {
	var e Encoder
	zeros := make([]byte, PageSize)
	for _, test := range []struct {
		name string
		make func(page []byte, i int)
	}{
		{"repeats itself with period i", func(page []byte, i int) {
			for at := i + 1; at < PageSize; at++ {
				page[at] = page[at-i-1]
			}
		}},
		{"same from i on", func(page []byte, i int) { copy(page[i:], zeros) }},
		{"same up to i", func(page []byte, i int) { copy(page[:i], zeros) }},
		{"a match from i on, to the end", func(page []byte, i int) { copy(page[i:], page[:i]) }},
		{"a match of 16 bytes at i", func(page []byte, i int) { copy(page[i:min(i+16, PageSize)], page) }},
		{"a match from the middle, of i bytes", func(page []byte, i int) { copy(page[PageSize/2:][:i/2], page) }},
		{"i literals between matches", func(page []byte, i int) { copy(page[min(i+64, PageSize):], page[:64]) }},
		{"matches of i%40 bytes everywhere", func(page []byte, i int) {
			for at := 100; at < PageSize; at += i%40 + 1 + i/40%20 {
				copy(page[at:min(at+i%40, PageSize)], page[at*i%90:])
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			for i := range PageSize {
				if 600 < i && i < PageSize-100 && (i%255 < 10 || i%255 > 25) {
					continue
				}
				page := randomPage(uint64(i))
				test.make(page[:], i)
				verify(t, &e, page)
			}
		})
	}
}

// TestEnd has matches of all lengths that begin and end at each of the last
// positions.
func TestEnd(t *testing.T) {
	var e Encoder
	for start := PageSize - 48; start < PageSize; start++ {
		for length := 1; start+length <= PageSize; length++ {
			page := randomPage(uint64(start))
			copy(page[start:start+length], page[1000:])
			verify(t, &e, page)
		}
	}
}

// TestLimit has blocks of all lengths, and limits around each; then one block and
// every limit.
func TestLimit(t *testing.T) {
	var e Encoder
	var dst [Bound]byte
	lengths := make(map[int]bool)
	for random := range PageSize + 1 {
		page := randomPage(7)
		clear(page[random:])
		lengths[len(verify(t, &e, page))] = true
	}
	if len(lengths) < PageSize*7/8 {
		t.Errorf("blocks of %d lengths only", len(lengths))
	}
	for _, content := range []backendtest.Content{backendtest.Structured, backendtest.Text, backendtest.Random} {
		page := (*[PageSize]byte)(backendtest.Page(content, 1))
		block := verify(t, &e, page)
		for limit := -1; limit <= Bound; limit++ {
			n := e.Encode(&dst, page, limit)
			if want := len(block); limit < want && n != 0 || limit >= want && !bytes.Equal(dst[:n], block) {
				t.Fatalf("%v: %d bytes with limit %d, %d without", content, n, limit, want)
			}
		}
	}
}

// TestRatio compares with the library on generated pages, with the better of its
// compressors for each page: at most 3 % more bytes. There are more short matches
// in these than in real ones, on which BenchmarkEncode has the numbers that count.
func TestRatio(t *testing.T) {
	var e Encoder
	var first lz4.Compressor
	var second lz4.CompressorCCompat
	var dst [Bound]byte
	var ours, best int
	for seed := range uint64(1000) {
		page := backendtest.Mixed(seed)
		ours += e.Encode(&dst, (*[PageSize]byte)(page), Bound)
		a, err1 := first.CompressBlock(page, dst[:])
		b, err2 := second.CompressBlock(page, dst[:])
		if a == 0 || b == 0 || err1 != nil || err2 != nil {
			a, b = longest, longest
		}
		best += min(a, b)
	}
	if ours*100 > best*103 {
		t.Errorf("%d bytes, the library %d", ours, best)
	}
}

func TestAllocations(t *testing.T) {
	e, dst := new(Encoder), new([Bound]byte)
	page := (*[PageSize]byte)(backendtest.Page(backendtest.Structured, 1))
	if n := testing.AllocsPerRun(100, func() { e.Encode(dst, page, Bound) }); n != 0 {
		t.Errorf("E4: %v allocations", n)
	}
}

// expand makes a page of instructions: of three bytes each, for a copy of earlier
// bytes, a run, or new bytes.
func expand(instructions []byte) *[PageSize]byte {
	page := new([PageSize]byte)
	at := 0
	for i := 0; i+3 <= len(instructions) && at < PageSize; i += 3 {
		kind, a, b := instructions[i], int(instructions[i+1]), int(instructions[i+2])
		length := min(int(kind>>2)+1, PageSize-at)
		switch offset := a<<4 | b>>4; {
		case kind&3 < 2 && offset > 0 && offset <= at:
			for range length {
				page[at] = page[at-offset]
				at++
			}
		case kind&3 == 2:
			for range min(length*(b&15+1), PageSize-at) {
				page[at] = byte(a)
				at++
			}
		default:
			random := rand.NewPCG(uint64(a), uint64(b))
			for range length {
				page[at] = byte(random.Uint64())
				at++
			}
		}
	}
	return page
}

func TestRandom(t *testing.T) {
	var e Encoder
	rapid.Check(t, func(rt *rapid.T) {
		verify(rt, &e, expand(rapid.SliceOfN(rapid.Byte(), 0, 1500).Draw(rt, "instructions")))
	})
}

func FuzzEncode(f *testing.F) {
	for content := range backendtest.Contents {
		f.Add(backendtest.Page(content, 1), false)
		f.Add(backendtest.Page(content, 1)[:600], true)
	}
	var e Encoder
	f.Fuzz(func(t *testing.T, data []byte, instructions bool) {
		page := expand(data)
		if !instructions {
			page = new([PageSize]byte)
			copy(page[:], data)
		}
		verify(t, &e, page)
	})
}

// TestReference makes sure that the reference refuses what it has to, or the
// tests above prove little.
func TestReference(t *testing.T) {
	literals := func(n int) []byte { return bytes.Repeat([]byte{'x'}, n) }
	for i, test := range []struct {
		block []byte
		valid bool
	}{
		{append([]byte{0x50}, literals(5)...), true},
		{append([]byte{0x13, 'x', 1, 0, 0x50}, literals(5)...), true},
		{append([]byte{0x12, 'x', 1, 0, 0x50}, literals(5)...), false}, // begins 11 before the end
		{append([]byte{0x18, 'x', 1, 0, 0x40}, literals(4)...), false},
		{append([]byte{0x13, 'x', 0, 0, 0x50}, literals(5)...), false},
		{append([]byte{0x13, 'x', 2, 0, 0x50}, literals(5)...), false},
		{append([]byte{0x13, 'x', 1, 0, 0x51}, literals(5)...), false},
		{[]byte{0x1f, 'x', 1, 0, 3}, false},
		{[]byte{0x1f, 'x', 1}, false},
		{append([]byte{0x60}, literals(5)...), false},
		{[]byte{0xf0, 255}, false},
		{nil, false},
	} {
		if page, err := reference(test.block); (err == nil) != test.valid {
			t.Errorf("block %d: %d bytes, error %v, valid %v", i, len(page), err, test.valid)
		}
	}
}

func ExampleEncoder_Encode() {
	var e Encoder
	var dst [Bound]byte
	page := new([PageSize]byte)
	copy(page[:], "a page of memory")
	if n := e.Encode(&dst, page, PageSize*7/8); n > 0 {
		fmt.Println("worth keeping:", n < 64)
	}
	// Output: worth keeping: true
}
