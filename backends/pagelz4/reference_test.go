package pagelz4

import (
	"errors"
	"fmt"
)

// reference decodes a block by the letter of lz4_Block_format.md, and refuses
// what that tells encoders not to write, which lenient decoders let pass.
func reference(block []byte) ([]byte, error) {
	var page []byte
	r := reader{rest: block}
	lastMatch := -1
	for {
		token := r.byte()
		literals := r.length(int(token >> 4))
		page = append(page, r.bytes(literals)...)
		if r.short {
			return nil, errors.New("block ends within a sequence")
		}
		if len(r.rest) == 0 {
			switch {
			case token&15 != 0:
				return nil, errors.New("last sequence says that it has a match")
			case lastMatch >= 0 && literals < 5:
				return nil, fmt.Errorf("block ends with %d literals, not 5", literals)
			case lastMatch >= 0 && lastMatch > len(page)-12:
				return nil, fmt.Errorf("last match begins at %d of %d, less than 12 before the end", lastMatch, len(page))
			}
			return page, nil
		}
		offset := int(r.byte()) | int(r.byte())<<8
		length := 4 + r.length(int(token&15))
		if r.short {
			return nil, errors.New("block ends within a match, or with one")
		}
		if offset == 0 || offset > len(page) {
			return nil, fmt.Errorf("offset %d at %d", offset, len(page))
		}
		lastMatch = len(page)
		for from := len(page) - offset; length > 0; {
			part := min(length, len(page)-from)
			page = append(page, page[from:from+part]...)
			from, length = from+part, length-part
		}
	}
}

// reader reads a block, and notes if there was less than was asked for.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.rest) {
		r.short = true
		return nil
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *reader) byte() byte {
	if b := r.bytes(1); !r.short {
		return b[0]
	}
	return 0
}

func (r *reader) length(nibble int) int {
	for more := nibble == 15; more; {
		b := r.byte()
		nibble += int(b)
		more = b == 255
	}
	return nibble
}
