package main

import "encoding/binary"

const pageSize = 4096

// kind is the sort of data a page holds. The shares are those of ordinary anonymous memory, roughly: most of it
// compresses well, some not at all, and a little is one word repeated.
type kind int

const (
	text       kind = iota // log lines: compresses to about a third
	structured             // records of pointers, counters and flags: compresses better
	random                 // does not compress: backends refuse it, storage gets it
	filled                 // one 8-byte word repeated
	kinds
)

// shares is the share of each kind, in percent.
var shares = [kinds]uint64{text: 40, structured: 35, random: 20, filled: 5}

// generator is splitmix64: small, seedable by any word, the same on every machine.
type generator uint64

func (g *generator) next() uint64 {
	*g += 0x9e3779b97f4a7c15
	z := uint64(*g)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below returns a number in [0, n). The slight bias does not matter here.
func (g *generator) below(n uint64) uint64 { return g.next() % n }

// identity is the first word of every written page: who it is, so that a page in the wrong place gives itself away.
func identity(seed uint64, page, version uint32) uint64 {
	return mask(seed) ^ (uint64(page)<<32 | uint64(version))
}

// identify undoes identity. On a page that was never written by this run the numbers mean nothing.
func identify(seed uint64, content []byte) (page, version uint32) {
	word := mask(seed) ^ binary.LittleEndian.Uint64(content)
	return uint32(word >> 32), uint32(word)
}

func mask(seed uint64) uint64 {
	g := generator(seed)
	return g.next()
}

// kindOf says what sort of data a version of a page holds. It depends on the version too, so that a page which compressed
// becomes one which does not: the case in which a tier that keeps an older copy would be caught.
func kindOf(seed uint64, page, version uint32) kind {
	g := generator(identity(seed, page, version))
	percent := g.below(100)
	for k, share := range shares {
		if percent < share {
			return kind(k)
		}
		percent -= share
	}
	return filled
}

// fill writes to dst, which is one page long, what a version of a page must hold. Version 0 is zeros.
func fill(dst []byte, seed uint64, page, version uint32) {
	if version == 0 {
		clear(dst)
		return
	}
	word := identity(seed, page, version)
	g := generator(word ^ seed)
	g.next() // apart from the stream that chose the kind
	switch kindOf(seed, page, version) {
	case text:
		fillText(dst, &g)
	case structured:
		fillStructured(dst, &g)
	case random:
		for i := 0; i < len(dst); i += 8 {
			binary.LittleEndian.PutUint64(dst[i:], g.next())
		}
	case filled:
		for i := 0; i < len(dst); i += 8 {
			binary.LittleEndian.PutUint64(dst[i:], word)
		}
	}
	binary.LittleEndian.PutUint64(dst, word)
}

var words = [...]string{
	"Nov 23 04:10:55 ", "kernel: ", "systemd[1]: ", "sshd[2204]: ", "Started ", "Stopped ", "session ", "for user ", "root ",
	"accepted ", "connection ", "from ", "10.0.2.15 ", "port ", "error: ", "timeout ", "after ", "retrying ", "request ",
	"id=", "status=200 ", "status=503 ", "GET /api/v1/items ", "POST /login ", "bytes=", "duration=", "ms ", "cache ",
	"miss ", "hit ", "\n", "\n",
}

func fillText(dst []byte, g *generator) {
	for len(dst) > 0 {
		draw := g.next()
		dst = dst[copy(dst, words[draw%uint64(len(words))]):]
		for digits := draw >> 32 & 3; digits > 0 && len(dst) > 0; digits-- {
			draw = draw>>3 ^ draw<<7
			dst[0] = '0' + byte(draw%10)
			dst = dst[1:]
		}
	}
}

// fillStructured writes 64-byte records such as an allocator full of list nodes holds.
func fillStructured(dst []byte, g *generator) {
	base := 0x00007f0000000000 | g.next()&0xffffff000
	for i := 0; i+64 <= len(dst); i += 64 {
		record := dst[i : i+64]
		clear(record)
		draw := g.next()
		binary.LittleEndian.PutUint64(record[0:], base+uint64(i))
		binary.LittleEndian.PutUint64(record[8:], base+draw&0xff<<6)
		binary.LittleEndian.PutUint32(record[16:], uint32(i))
		binary.LittleEndian.PutUint32(record[20:], uint32(draw>>60))
		binary.LittleEndian.PutUint16(record[24:], uint16(draw>>40))
		binary.LittleEndian.PutUint64(record[48:], draw>>56)
	}
}
