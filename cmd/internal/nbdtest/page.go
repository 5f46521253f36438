package nbdtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
)

// PageSize is the length of a page in bytes.
const PageSize = 4096

// Page makes the content of a page out of a seed and its number: a third each is
// log text, records with small numbers, and random bytes, which do not compress.
func Page(seed, page uint64) []byte {
	r := rand.New(rand.NewPCG(seed, page))
	p := make([]byte, 0, PageSize+128)
	switch page % 3 {
	case 0:
		for len(p) < PageSize {
			p = fmt.Appendf(p, "time=%d level=INFO msg=\"page written\" page=%d session=%x\n", 1700000000+r.IntN(1e6), page, r.Uint32())
		}
	case 1:
		for len(p) < PageSize {
			p = append(p, byte(page), byte(page>>8), byte(r.IntN(4)), 0, 0, 0, byte(r.IntN(256)), 0x7f)
		}
	case 2:
		for len(p) < PageSize {
			p = append(p, byte(r.Uint32()))
		}
	}
	return p[:PageSize]
}

// WritePages writes n pages from page first on, one request each.
func (c *Client) WritePages(seed, first, n uint64) error {
	for page := first; page < first+n; page++ {
		if _, err := c.WriteAt(Page(seed, page), int64(page)*PageSize); err != nil {
			return fmt.Errorf("write page %d: %w", page, err)
		}
	}
	return nil
}

// CheckPages reads what WritePages wrote and compares.
func (c *Client) CheckPages(seed, first, n uint64) error {
	got := make([]byte, PageSize)
	for page := first; page < first+n; page++ {
		if _, err := c.ReadAt(got, int64(page)*PageSize); err != nil {
			return fmt.Errorf("read page %d: %w", page, err)
		}
		if !bytes.Equal(got, Page(seed, page)) {
			return fmt.Errorf("page %d is not what was written", page)
		}
	}
	return nil
}

// CheckZeroes checks that n pages from page first on are zero.
func (c *Client) CheckZeroes(first, n uint64) error {
	got, zero := make([]byte, PageSize), make([]byte, PageSize)
	for page := first; page < first+n; page++ {
		if _, err := c.ReadAt(got, int64(page)*PageSize); err != nil {
			return fmt.Errorf("read page %d: %w", page, err)
		}
		if !bytes.Equal(got, zero) {
			return fmt.Errorf("page %d is not zero", page)
		}
	}
	return nil
}
