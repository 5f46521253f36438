package backendtest

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/tmemd/tmemd/backends"
)

// Content is a sort of page content. The sorts differ in what a compressor can
// make of them, which is what backends treat differently.
type Content int

// The sorts of content, with what lz4 makes of a page of 4096 bytes.
const (
	SameFilled Content = iota // one 4-byte value throughout; zeros for seed 0
	Repeated                  // one 8-byte value throughout, its halves different: about 40 bytes
	Structured                // records of pointers, counters and short names: about 1,800 bytes
	Text                      // log lines: about 2,400 bytes
	Random                    // nothing to gain
	Contents                  // the number of sorts
)

// String names the sort.
func (c Content) String() string {
	switch c {
	case SameFilled:
		return "same-filled"
	case Repeated:
		return "repeated"
	case Structured:
		return "structured"
	case Text:
		return "text"
	case Random:
		return "random"
	}
	return fmt.Sprintf("content %d", int(c))
}

// Page returns a new page of the sort, the same for the same seed and another
// for another seed.
func Page(content Content, seed uint64) []byte {
	page := make([]byte, backends.PageSize)
	Fill(page, content, seed)
	return page
}

// Mixed returns a new page of a sort that follows from the seed, in the
// proportions of a busy system: mostly structured, some text, some random
// data and a few same-filled pages.
func Mixed(seed uint64) []byte {
	page := make([]byte, backends.PageSize)
	FillMixed(page, seed)
	return page
}

// FillMixed is [Mixed] into page, of PageSize bytes, without allocating.
func FillMixed(page []byte, seed uint64) {
	content := Structured
	switch seed * 0x9e3779b97f4a7c15 >> 60 {
	case 0:
		content = SameFilled
	case 1:
		content = Repeated
	case 2, 3, 4, 5:
		content = Text
	case 6, 7:
		content = Random
	}
	Fill(page, content, seed)
}

// Fill is [Page] into page, of PageSize bytes, without allocating.
func Fill(page []byte, content Content, seed uint64) {
	var source rand.PCG
	source.Seed(seed, uint64(content))
	switch content {
	case SameFilled:
		// Multiplication by an odd number keeps the values of 32-bit seeds apart.
		value := uint64(uint32(seed) * 0x9e3779b1)
		fillWord(page, value<<32|value)
	case Repeated:
		fillWord(page, seed<<1|1)
		if half := binary.LittleEndian.Uint64(page); uint32(half) == uint32(half>>32) {
			fillWord(page, ^half<<32|half&0xffffffff)
		}
	case Structured:
		fillStructured(page, &source)
	case Text:
		fillText(page, &source)
	default:
		for i := 0; i < len(page); i += 8 {
			binary.LittleEndian.PutUint64(page[i:], source.Uint64())
		}
	}
}

func fillWord(page []byte, word uint64) {
	for i := 0; i < len(page); i += 8 {
		binary.LittleEndian.PutUint64(page[i:], word)
	}
}

// fillStructured writes records of 64 bytes as a program's heap holds them:
// a type word, pointers into one region, a counter, a time stamp, flags, a name.
func fillStructured(page []byte, source *rand.PCG) {
	heap := 0x7f0000000000 | source.Uint64()>>28&^0xfff
	count := source.Uint64() >> 48
	now := 1_760_000_000_000_000_000 + source.Uint64()>>16
	for r := 0; r+64 <= len(page); r += 64 {
		random := source.Uint64()
		record := page[r : r+64]
		binary.LittleEndian.PutUint64(record[0:], 0x55d0c0de1000+random%4*64)
		binary.LittleEndian.PutUint64(record[8:], heap+random>>8%4096*16)
		binary.LittleEndian.PutUint64(record[16:], heap+random>>24%4096*16)
		binary.LittleEndian.PutUint64(record[24:], count)
		binary.LittleEndian.PutUint64(record[32:], now)
		binary.LittleEndian.PutUint64(record[40:], random>>40&0x0101)
		name := words[random>>48%uint64(len(words))]
		clear(record[48:])
		copy(record[48:], name)
		count += random % 3
		now += random >> 44
	}
}

// fillText writes log lines. The seed decides every word.
func fillText(page []byte, source *rand.PCG) {
	rest := page
	put := func(s string) { rest = rest[copy(rest, s):] }
	var digits [16]byte
	for len(rest) > 0 {
		random := source.Uint64()
		put("2026-11-02T14:")
		for i := range digits {
			digits[i] = '0' + byte(random>>(4*i)&15)%10
		}
		rest = rest[copy(rest, digits[:2+random%8]):]
		for range 5 + random>>60 {
			random = source.Uint64()
			put(" ")
			put(words[random%uint64(len(words))])
			if random>>61 == 0 {
				put("=")
				rest = rest[copy(rest, digits[:random>>32%16]):]
			}
		}
		put("\n")
	}
}

// words is a constant table: what fills names and log lines.
var words = [...]string{
	"accept", "address", "again", "answer", "attach", "backend", "balance",
	"block", "buffer", "cache", "cannot", "channel", "chunk", "client", "close",
	"commit", "connect", "copy", "counter", "daemon", "data", "delay", "device",
	"drain", "error", "event", "export", "failed", "fault", "file", "flush",
	"free", "from", "group", "handle", "header", "host", "index", "info",
	"invalid", "journal", "kernel", "length", "limit", "load", "lock", "map",
	"memory", "message", "node", "offset", "open", "owner", "packet", "page",
	"peer", "pending", "queue", "read", "refused", "remote", "request", "retry",
	"server", "session", "slot", "socket", "start", "state", "stop", "storage",
	"store", "swap", "thread", "time", "timeout", "trim", "unit", "update",
	"user", "value", "wait", "warning", "worker", "write", "zone",
}
