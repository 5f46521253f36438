package cleancache

import (
	"sync/atomic"
	"unsafe"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// word is what the index knows about a page:
//
//	bit  0–47  the backend's handle
//	bit 48–52  0 if no backend has the page, 1 to MaxBackends for the one that has,
//	           31 while somebody puts or drops it
//	bit 53–63  always 0
type word uint64

const (
	// MaxBackends is how many backends there can be at once, as in frontswap.
	MaxBackends = 15

	ownerShift = backends.HandleBits
	handleMask = 1<<backends.HandleBits - 1
	ownerBusy  = 31

	none word = 0
	busy word = ownerBusy << ownerShift
)

func makeWord(owner int, h backends.Handle) word {
	return word(owner)<<ownerShift | word(h)&handleMask
}

// owner is 1 to MaxBackends if ok: a backend has the page.
func (w word) owner() (owner int, ok bool) {
	owner = int(w >> ownerShift)
	return owner, owner > 0 && owner <= MaxBackends
}

func (w word) handle() backends.Handle { return backends.Handle(w & handleMask) }

const (
	wordSize    = 8
	systemPage  = 4096
	pieceWords  = systemPage / wordSize // words in a piece of the index
	bitsPerWord = 64
)

// index is the words of all pages of a pool, in a shared memory file: it takes memory
// only where something was ever put. As looking elsewhere would take memory too, a
// bit for each piece says where that is.
type index struct {
	memory *sharedmem.Region
	words  []atomic.Uint64
	used   []atomic.Uint64 // a bit for each piece
}

func newIndex(pages uint64) (*index, error) {
	pieces := (pages + pieceWords - 1) / pieceWords
	memory, err := sharedmem.NewFile("cleancache index", int64(pieces*systemPage))
	if err != nil {
		return nil, err
	}
	bytes := memory.Bytes()
	return &index{
		memory: memory,
		words:  unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(unsafe.SliceData(bytes))), len(bytes)/wordSize),
		used:   make([]atomic.Uint64, (pieces+bitsPerWord-1)/bitsPerWord),
	}, nil
}

// find returns the page's word, or nil if nothing was ever put near it.
func (x *index) find(page uint64) *atomic.Uint64 {
	piece := page / pieceWords
	if x.used[piece/bitsPerWord].Load()>>(piece%bitsPerWord)&1 == 0 {
		return nil
	}
	return &x.words[page]
}

// use is find for who is going to put something there.
func (x *index) use(page uint64) *atomic.Uint64 {
	if at := x.find(page); at != nil {
		return at
	}
	piece := page / pieceWords
	x.used[piece/bitsPerWord].Or(1 << (piece % bitsPerWord))
	return &x.words[page]
}

// next returns the first page from page on that something may have been put for, or
// last if there is none before that.
func (x *index) next(page, last uint64) uint64 {
	for page < last {
		piece := page / pieceWords
		rest := x.used[piece/bitsPerWord].Load() >> (piece % bitsPerWord)
		switch {
		case rest&1 != 0:
			return page
		case rest == 0:
			page = (piece/bitsPerWord + 1) * bitsPerWord * pieceWords
		default:
			page = (piece + 1) * pieceWords
		}
	}
	return last
}
