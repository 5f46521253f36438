package pagemap

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrNoFrame is that the kernel does not say which frame of memory a page is in, which takes
// root, or that the page is not in memory any more.
var ErrNoFrame = errors.New("the frame of the page is not known")

// Frame returns the number of the frame of memory that holds the page at an address. Two
// addresses, of one process or of two, with one frame are one page to the kernel: it has
// one place in swap.
func (p *Process) Frame(address uint64) (uint64, error) {
	var b [8]byte
	if _, err := p.pagemap.ReadAt(b[:], int64(address/PageSize*8)); err != nil {
		return 0, fmt.Errorf("pagemap: %w", err)
	}
	entry := binary.NativeEndian.Uint64(b[:])
	if entry&pagemapPresent == 0 || entry&pagemapFrame == 0 {
		return 0, ErrNoFrame
	}
	return entry & pagemapFrame, nil
}
