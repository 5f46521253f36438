package frontswap

import (
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends/sharedmem"
)

// mapMemory says which parts of a page map have memory: a bit for each page of the
// system, 512 words. The others read as zeros, and must be neither read nor written
// where they are mapped: that takes memory, and is a fault if a tmpfs is full.
// So memory is claimed before the first word of a part is written, by whoever is
// about to change something there (Area.Reserve), or for all parts beforehand.
//
// A bit is set after the claim and read by whoever has a lock of the page, or looks
// without one and may see the past.
type mapMemory struct {
	// pieces is replaced by a longer list with the same pieces in front when the area
	// grows, so no bit is lost.
	pieces atomic.Pointer[[]*memoryPiece]
	shift  int // immutable: 2 to the power of it words are in a page of the system
}

// memoryPiece is the bits of 4,096 pages of the system: 2 MiB of export each, with
// pages of 4 KiB.
type memoryPiece [64]atomic.Uint64

const pieceBits = 64 * 64

func (m *mapMemory) init() {
	for words := os.Getpagesize() / wordSize; words > 1; words /= 2 {
		m.shift++
	}
	m.pieces.Store(new([]*memoryPiece))
}

// grow makes room for the bits of so many pages of the area. One call at a time.
func (m *mapMemory) grow(pages uint64) {
	pieces := slices.Clone(*m.pieces.Load())
	for uint64(len(pieces))*pieceBits<<m.shift < pages {
		pieces = append(pieces, new(memoryPiece))
	}
	m.pieces.Store(&pieces)
}

// bit is where it says whether the word of a page has memory.
func (m *mapMemory) bit(page uint64) (word *atomic.Uint64, mask uint64) {
	part := page >> m.shift
	return &(*m.pieces.Load())[part/pieceBits][part/64%64], 1 << (part % 64)
}

func (m *mapMemory) has(page uint64) bool {
	word, mask := m.bit(page)
	return word.Load()&mask != 0
}

// set says that the words from page first to before last have memory, or have none
// any more.
func (m *mapMemory) set(first, last uint64, has bool) {
	for page := first; page < last; page = (page>>m.shift + 1) << m.shift {
		word, mask := m.bit(page)
		if has {
			if word.Load()&mask == 0 { // a line that is shared stays so
				word.Or(mask)
			}
		} else {
			word.And(^mask)
		}
	}
}

// Reserve takes memory for what is said of the pages from first to before last. It
// comes before Store, TryStore, SetStorage, PinHole and InvalidatePage of any of them.
// An error means that there is none; ENOSPC is in its chain if a tmpfs is full.
// Areas with AreaConfig.Overcommit off have it all from the beginning.
func (a *Area) Reserve(first, last uint64) error {
	for page := first; page < last; page = (page>>a.mapped.shift + 1) << a.mapped.shift {
		if a.mapped.has(page) {
			continue
		}
		start := page >> a.mapped.shift << a.mapped.shift
		// Two at once claim it twice, which does no harm.
		if err := a.memory.Claim(int64(start)*wordSize, int64(os.Getpagesize())); err != nil {
			return fmt.Errorf("make room in the page map of %s: %w", a.name, err)
		}
		a.mapped.set(start, start+1, true)
	}
	return nil
}

// Reserved says whether Reserve of the page has nothing to do.
func (a *Area) Reserved(page uint64) bool { return a.mapped.has(page) }

// mapTouched is for the map of an earlier process: what was written has memory.
func (a *Area) mapTouched() {
	for end := int64(0); ; {
		var start int64
		if start, end = a.memory.Touched(end); start == end {
			return
		}
		a.mapped.set(uint64(start)/wordSize, min((uint64(end)+wordSize-1)/wordSize, a.words64()), true)
	}
}

// words64 is how many words the map has.
func (a *Area) words64() uint64 { return uint64(len(*a.words.Load())) }

// claimMap claims the memory of the words from one page to before another, without
// the page of the system that words before them are in too.
func claimMap(memory *sharedmem.Region, from, to uint64) error {
	first, last := mapRange(memory, from, to)
	if first >= last {
		return nil
	}
	return memory.Claim(first, last-first)
}

// takeMap takes the memory of these words now.
func takeMap(memory *sharedmem.Region, from, to uint64) error {
	if err := claimMap(memory, from, to); err != nil {
		return err
	}
	first, last := mapRange(memory, from, to)
	if first >= last {
		return nil
	}
	return memory.Touch(first, last-first)
}

// mapRange is where they are, in whole pages of the system.
func mapRange(memory *sharedmem.Region, from, to uint64) (first, last int64) {
	system := int64(os.Getpagesize())
	first = (int64(from)*wordSize + system - 1) / system * system
	last = (int64(to)*wordSize + system - 1) / system * system
	return first, min(last, int64(len(memory.Bytes())))
}
