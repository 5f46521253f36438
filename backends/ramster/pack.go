package ramster

import (
	"fmt"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/packed"
	"github.com/tmemd/tmemd/backends/samefilled"
)

// Pack implements [backends.Backend]. A page that donors have is fetched, and its seal
// broken: it is packed as it was before it was sent.
func (c *Cache) Pack(key backends.Key, handle backends.Handle, dst []byte) (backends.Packed, error) {
	if samefilled.Is(handle) || len(dst) != backends.PageSize || c.isEphemeral(key.Export) {
		if err := c.Load(key, handle, dst); err != nil {
			return backends.Packed{}, err
		}
		var room [4]byte
		return packed.Raw(dst, &room), nil
	}
	o, ok := c.arena.Get(arena.Ref(handle))
	if !ok || o.Export != key.Export || o.Page != key.Page {
		return backends.Packed{}, c.Load(key, handle, dst) // which says what is wrong
	}
	s, remote := decodeStub(o)
	switch {
	case !remote && len(o.Data) <= len(dst) && encodings(o.Codec) != 0:
		return backends.Packed{Encoding: encodings(o.Codec), Sum: o.Sum, Data: dst[:copy(dst, o.Data)]}, nil
	case !remote || c.adopting != nil:
		return backends.Packed{}, c.Load(key, handle, dst)
	}
	w := c.waiters.Get().(*waiter)
	defer c.waiters.Put(w)
	if err := c.fetchRemote(w, key, s, o.Sum, dst); err != nil {
		return backends.Packed{}, fmt.Errorf("pack page %d of export %d from ramster: %w", key.Page, key.Export, err)
	}
	data := w.plain[sealedHeader : w.length-sealOverhead+sealedHeader]
	return backends.Packed{Encoding: encodings(w.plain[0]), Sum: o.Sum, Data: dst[:copy(dst, data)]}, nil
}

// encodings is what a codec is called outside, or 0.
func encodings(codec uint8) backends.Encoding {
	switch codec {
	case codecLZ4:
		return backends.EncodingLZ4
	case codecRaw:
		return backends.EncodingRaw
	}
	return 0
}

// Unpack implements [backends.Backend]. lz4 is what donors get; all else is
// compressed anew.
func (c *Cache) Unpack(key backends.Key, p backends.Packed) (backends.Handle, backends.Refusal, error) {
	fail := func(err error) (backends.Handle, backends.Refusal, error) {
		return 0, backends.Accepted, fmt.Errorf("unpack page %d of export %d to ramster: %w", key.Page, key.Export, err)
	}
	if c.unpacker.Load() == nil {
		d, err := packed.NewDecoder()
		if err != nil {
			return fail(err)
		}
		c.unpacker.Store(d)
	}
	page := make([]byte, backends.PageSize)
	if err := c.unpacker.Load().Decode(p, page); err != nil {
		return fail(err)
	}
	e := (*c.exports.Load())[key.Export]
	switch {
	case e == nil || e.ephemeral:
		return 0, c.count(backends.RefusedUnmanaged), nil
	case p.Encoding != backends.EncodingLZ4 || len(p.Data) > maxCompressed || key.Page >= backends.MaxPages:
		return c.Store(key, page)
	case c.isFull():
		return 0, c.count(backends.RefusedFull), nil
	}
	ref, refusal := c.stageObject(arena.Object{Export: key.Export, Page: key.Page, Codec: codecLZ4, Sum: p.Sum, Data: p.Data})
	if refusal == backends.Accepted {
		e.charge.Add(c.arena.SizeOf(ref))
	}
	return backends.Handle(ref), c.count(refusal), nil
}
