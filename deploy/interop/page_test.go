//go:build interop

package interop

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

const pageSize = 4096

const words = "the quick daemon swapped its page to memory and the host read it back from storage " +
	"before any backend could drain a single byte of the map under lock "

// page makes the content that a page gets when it is written for the round-th
// time: a third each is text (compresses well), records as a program keeps them
// (somewhat), and noise (not at all). No two pages or rounds are equal.
func page(number, round uint64) []byte {
	p := make([]byte, 0, pageSize+64)
	random := rand.New(rand.NewPCG(number, round))
	switch (number + round) % 3 {
	case 0:
		for len(p) < pageSize {
			start := random.IntN(len(words) - 24)
			p = append(p, words[start:start+8+random.IntN(16)]...)
		}
	case 1:
		base := 0x00007f0000000000 | uint64(random.Uint32())&^0xfff
		for len(p) < pageSize {
			p = binary.LittleEndian.AppendUint64(p, base+uint64(random.IntN(4096))*16)
			p = binary.LittleEndian.AppendUint64(p, uint64(random.IntN(512)))
			p = binary.LittleEndian.AppendUint64(p, 0)
		}
	case 2:
		p = noise(p, random)
	}
	binary.LittleEndian.PutUint64(p[8:], number)
	binary.LittleEndian.PutUint64(p[16:], round)
	return p[:pageSize]
}

func noise(p []byte, random *rand.Rand) []byte {
	for len(p) < pageSize {
		p = binary.LittleEndian.AppendUint64(p, random.Uint64())
	}
	return p
}

// sample writes a file of the size given, in bytes: pages of a round with holes
// between them.
func sample(t *testing.T, size int64, round uint64) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), fmt.Sprintf("round-%d.img", round)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	const run = 64 // pages; every fifth run is a hole, another one each round
	for first := int64(0); first < size/pageSize; first += run {
		if (uint64(first/run)+round)%5 == 0 {
			continue
		}
		var text []byte
		for n := first; n < min(first+run, size/pageSize); n++ {
			text = append(text, page(uint64(n), round)...)
		}
		if _, err := f.WriteAt(text, first*pageSize); err != nil {
			t.Fatal(err)
		}
	}
	return f.Name()
}

// sameFiles fails the test if the files differ.
func sameFiles(t *testing.T, got, want string) {
	t.Helper()
	a, err := os.ReadFile(got)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	if len(a) != len(b) {
		t.Fatalf("%d bytes came back, want %d", len(a), len(b))
	}
	for off := 0; off < len(a); off += pageSize {
		end := min(off+pageSize, len(a))
		if !bytes.Equal(a[off:end], b[off:end]) {
			t.Fatalf("page %d differs", off/pageSize)
		}
	}
}
