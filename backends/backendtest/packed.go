package backendtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/packed"
)

// packings are all ways in which a page may come packed.
func (s *subject) packings(e *zstd.Encoder, page []byte) []backends.Packed {
	s.Helper()
	sum := crc32.Checksum(page, crc32.MakeTable(crc32.Castagnoli))
	all := []backends.Packed{{Encoding: backends.EncodingRaw, Sum: sum, Data: page}}
	block := make([]byte, lz4.CompressBlockBound(len(page)))
	if n, err := lz4.CompressBlock(page, block, nil); err != nil {
		s.Fatal(err)
	} else if n > 0 && n <= backends.PageSize {
		all = append(all, backends.Packed{Encoding: backends.EncodingLZ4, Sum: sum, Data: block[:n]})
	}
	if frame := e.EncodeAll(page, nil); len(frame) <= backends.PageSize {
		all = append(all, backends.Packed{Encoding: backends.EncodingZstd, Sum: sum, Data: frame})
	}
	if value := page[:4]; bytes.Equal(bytes.Repeat(value, backends.PageSize/4), page) {
		all = append(all, backends.Packed{Encoding: backends.EncodingFilled, Sum: sum, Data: value})
	}
	return all
}

// encoder is for packings.
func (s *subject) encoder() *zstd.Encoder {
	s.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithSingleSegment(true))
	if err != nil {
		s.Fatal(err)
	}
	return e
}

func (s *subject) decoder() *packed.Decoder {
	s.Helper()
	d, err := packed.NewDecoder()
	if err != nil {
		s.Fatal(err)
	}
	return d
}

// checkPacked packs a page that is stored, and unpacks it under another key.
func (s *subject) checkPacked(l live, d *packed.Decoder) {
	s.Helper()
	dst := make([]byte, backends.PageSize)
	p, err := s.Pack(l.key, l.handle, dst)
	if err != nil {
		s.Fatalf("B29: Pack(%v): %v", l.key, err)
	}
	page := make([]byte, backends.PageSize)
	if err := d.Decode(p, page); err != nil || !bytes.Equal(page, l.page) {
		s.Fatalf("B29: Pack(%v) gave %s of %d bytes, which is not the page: %v", l.key, p.Encoding, len(p.Data), err)
	}
	s.check(l)
	s.checkUnpacks(backends.Key{Export: exports[2], Page: l.key.Page + 1}, p, l.page)
}

// checkUnpacks unpacks a page, unless it is refused, and loads it.
func (s *subject) checkUnpacks(key backends.Key, p backends.Packed, page []byte) {
	s.Helper()
	data, before := bytes.Clone(p.Data), s.Used(key.Export)
	handle, refusal, err := s.Unpack(key, p)
	if err != nil {
		s.Fatalf("B30: Unpack(%v) of %s: %v", key, p.Encoding, err)
	}
	if !bytes.Equal(data, p.Data) {
		s.Fatalf("B10: Unpack(%v) of %s changed the data", key, p.Encoding)
	}
	if refusal != backends.Accepted {
		return
	}
	if after := s.Used(key.Export); after <= before && !isFilled(page) {
		s.Fatalf("B32: Unpack(%v) of %s: %d bytes are charged, before %d", key, p.Encoding, after, before)
	}
	clear(p.Data) // B10: it is not retained
	l := live{key, handle, page}
	s.check(l)
	s.invalidate(l)
	copy(p.Data, data)
}

func testPacked(s *subject) {
	s.initAll()
	d, e := s.decoder(), s.encoder()
	defer e.Close()
	for content := range Contents {
		accepted := s.Stats().Refused[backends.Accepted]
		for seed := range uint64(12) {
			key := backends.Key{Export: 1, Page: seed}
			page := Page(content, seed)
			if l, ok := s.store(key, page); ok {
				s.checkPacked(l, d)
				s.invalidate(l)
			}
			for _, p := range s.packings(e, page) {
				s.checkUnpacks(key, backends.Packed{Encoding: p.Encoding, Sum: p.Sum, Data: bytes.Clone(p.Data)}, page)
			}
		}
		if content == Structured && s.Stats().Refused[backends.Accepted]-accepted < 24 {
			s.Fatal("B30: Unpack takes next to nothing")
		}
	}
	l := s.mustStore(backends.Key{Export: 1, Page: 100}, Structured, 1)
	dst := make([]byte, backends.PageSize)
	for _, key := range []backends.Key{{Export: 1, Page: 101}, {Export: 0, Page: 100}} {
		if _, err := s.Pack(key, l.handle, dst); !errors.Is(err, backends.ErrCorrupt) {
			s.Fatalf("B29: Pack(%v) of another page: %v, want ErrCorrupt", key, err)
		}
	}
	for bit := range backends.HandleBits - 1 {
		if _, err := s.Pack(l.key, l.handle^1<<bit, dst); !errors.Is(err, backends.ErrCorrupt) {
			s.Fatalf("B29: Pack of a wrong handle: %v, want ErrCorrupt", err)
		}
	}
	s.invalidate(l)
	_, refusal, err := s.Unpack(backends.Key{Export: 77, Page: 1}, s.packings(e, Page(Structured, 1))[1])
	if refusal != backends.RefusedUnmanaged || err != nil {
		s.Fatalf("B31: Unpack for an export that was not initialised: %v, %v", refusal, err)
	}
	s.checkPages(0)
}

// testPackedDamage unpacks what is not a page any more (B30).
func testPackedDamage(s *subject) {
	s.initAll()
	d, e := s.decoder(), s.encoder()
	defer e.Close()
	key := backends.Key{Export: 1, Page: 7}
	refused := func(what string, p backends.Packed) {
		s.Helper()
		if handle, refusal, err := s.Unpack(key, p); !errors.Is(err, backends.ErrCorrupt) {
			s.Fatalf("B30: Unpack of %s, %s: handle %#x, %v, %v, want ErrCorrupt", p.Encoding, what, uint64(handle), refusal, err)
		}
		s.checkPages(0)
	}
	for _, content := range []Content{SameFilled, Structured, Text} {
		for _, p := range s.packings(e, Page(content, 3)) {
			for at := 0; at < len(p.Data); at += 1 + len(p.Data)/9 {
				damaged := p
				damaged.Data = bytes.Clone(p.Data)
				damaged.Data[at] ^= 0x10
				if d.Decode(damaged, make([]byte, backends.PageSize)) == nil {
					continue // a bit of a frame's header that means nothing
				}
				refused("with a bit flipped", damaged)
			}
			other := p
			other.Sum ^= 1 << 7
			refused("with another checksum", other)
			for _, length := range []int{0, 1, len(p.Data) / 2, len(p.Data) - 1} {
				refused("cut short", backends.Packed{Encoding: p.Encoding, Sum: p.Sum, Data: p.Data[:length]})
			}
			refused("too long", backends.Packed{Encoding: p.Encoding, Sum: p.Sum, Data: append(bytes.Clone(p.Data), make([]byte, 2*backends.PageSize)...)})
			for _, encoding := range []backends.Encoding{0, backends.Encodings, 255} {
				refused("of no encoding", backends.Packed{Encoding: encoding, Sum: p.Sum, Data: p.Data})
			}
		}
	}
	// Something that unpacks to much more than a page.
	bomb := make([]byte, 1<<20)
	binary.LittleEndian.PutUint64(bomb, 1)
	block := make([]byte, lz4.CompressBlockBound(len(bomb)))
	n, err := lz4.CompressBlock(bomb, block, nil)
	if err != nil {
		s.Fatal(err)
	}
	refused("of a megabyte", backends.Packed{Encoding: backends.EncodingLZ4, Data: block[:min(n, backends.PageSize)]})
	refused("of a megabyte", backends.Packed{Encoding: backends.EncodingZstd, Data: e.EncodeAll(bomb, nil)})
}
