package zcache

import (
	"fmt"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/packed"
	"github.com/tmemd/tmemd/backends/samefilled"
)

// Pack implements [backends.Backend].
func (c *Cache) Pack(key backends.Key, handle backends.Handle, dst []byte) (backends.Packed, error) {
	fail := func(reason string) (backends.Packed, error) {
		c.corrupt.Add(1)
		return backends.Packed{}, fmt.Errorf("pack page %d of export %d from zcache: %s: %w", key.Page, key.Export, reason, backends.ErrCorrupt)
	}
	if len(dst) != backends.PageSize {
		return backends.Packed{}, fmt.Errorf("pack page %d of export %d from zcache: buffer of %d bytes is not a page", key.Page, key.Export, len(dst))
	}
	if samefilled.Is(handle) {
		value, ok := samefilled.Value(key, handle)
		if !ok {
			return fail("handle does not belong to this page")
		}
		samefilled.Fill(dst, value)
		return packed.Filled(value, packed.Sum(dst), (*[4]byte)(dst)), nil
	}
	object, ok := c.arena.Get(arena.Ref(handle))
	switch {
	case !ok:
		return fail("header makes no sense")
	case object.Export != key.Export || object.Page != key.Page || isContent(object):
		return fail("header names another page")
	case Codec(object.Codec) == shared:
		p, reason := c.packShared(object, dst)
		if reason != "" {
			return fail(reason)
		}
		return p, nil
	case Codec(object.Codec) == 0 || object.Codec >= codecs || len(object.Data) > len(dst):
		return fail("codec or length is unknown")
	}
	return backends.Packed{
		Encoding: encodings[object.Codec], Sum: object.Sum, Data: dst[:copy(dst, object.Data)],
	}, nil
}

// encodings are what codecs are called outside. Constant.
var encodings = [codecs]backends.Encoding{LZ4: backends.EncodingLZ4, Raw: backends.EncodingRaw, Zstd: backends.EncodingZstd}

// Unpack implements [backends.Backend]. A page that came raw or filled goes the way
// of a store: it may have waited to be compressed.
func (c *Cache) Unpack(key backends.Key, p backends.Packed) (backends.Handle, backends.Refusal, error) {
	decoder, err := c.decoder()
	if err != nil {
		return 0, backends.Accepted, fmt.Errorf("unpack page %d of export %d to zcache: %w", key.Page, key.Export, err)
	}
	page := make([]byte, backends.PageSize)
	if err := decoder.Decode(p, page); err != nil {
		return 0, backends.Accepted, fmt.Errorf("unpack page %d of export %d to zcache: %w", key.Page, key.Export, err)
	}
	export, ok := (*c.exports.Load())[key.Export]
	switch {
	case !ok || export.ephemeral:
		return 0, c.count(backends.RefusedUnmanaged), nil
	case p.Encoding != backends.EncodingLZ4 && p.Encoding != backends.EncodingZstd, len(p.Data) > maxCompressed, key.Page >= backends.MaxPages:
		return c.Store(key, page)
	case c.isFull():
		return 0, c.count(backends.RefusedFull), nil
	case len(p.Data) > maxMean && !c.keepsIncompressible() && c.isMeanPoor():
		return 0, c.count(backends.RefusedMean), nil
	}
	codec := LZ4
	if p.Encoding == backends.EncodingZstd {
		codec = Zstd
		if _, err := c.zstd.get(); err != nil { // or nobody could load it
			return 0, backends.Accepted, fmt.Errorf("unpack page %d of export %d to zcache: %w", key.Page, key.Export, err)
		}
	}
	ref, ok := c.put(arena.Object{Export: key.Export, Page: key.Page, Codec: uint8(codec), Sum: p.Sum, Data: p.Data})
	if !ok {
		c.filled()
		return 0, c.count(backends.RefusedFull), nil
	}
	export.charge.Add(c.arena.SizeOf(ref))
	c.watchRoom()
	return backends.Handle(ref), c.count(backends.Accepted), nil
}

// decoder makes the decoder for packed pages when the first one comes.
func (c *Cache) decoder() (*packed.Decoder, error) {
	if d := c.unpacker.Load(); d != nil {
		return d, nil
	}
	d, err := packed.NewDecoder()
	if err != nil {
		return nil, err
	}
	c.unpacker.Store(d)
	return d, nil
}
