package donor

import "github.com/tmemd/tmemd/backends/ramster/wire"

// answer acts on a request of a session and adds its replies. data is what a put
// stores. It returns false if the connection is to end.
func (c *connection) answer(r wire.Request, data []byte) bool {
	d := c.donor
	switch r.Operation {
	case wire.Hello:
		return c.reply(r, wire.Reply{Status: wire.Bad})
	case wire.Stats:
		d.roomOf(c.client).Encode(c.room())
		return c.reply(r, wire.Reply{Length: wire.StatsSize})
	case wire.Pool:
		return c.reply(r, wire.Reply{Status: d.makePool(c.owner, c.party.Epoch, r.Pool, r.Flags&wire.Ephemeral != 0)})
	}
	p := c.owner.pools[r.Pool]
	if p == nil && r.Operation != wire.Get {
		return c.reply(r, wire.Reply{Status: wire.Gone})
	}
	switch r.Operation {
	case wire.Put:
		status := d.put(p, r.Page, r.Generation, data)
		if status == wire.Full {
			d.askRoom()
		}
		return c.reply(r, wire.Reply{Status: status})
	case wire.Get:
		return c.get(r, p)
	case wire.Flush:
		return c.flushed(r, d.flush(p, r.Page, r.Page+uint64(r.Count), r.Generation))
	case wire.FlushObject:
		return c.flushed(r, d.flush(p, r.Page, r.Page+wire.ObjectPages, r.Generation))
	case wire.Destroy:
		d.destroy(p)
		return c.reply(r, wire.Reply{})
	case wire.List:
		return c.list(r, p)
	}
	return c.reply(r, wire.Reply{Status: wire.Bad})
}

func (c *connection) flushed(r wire.Request, any bool) bool {
	if !any {
		return c.reply(r, wire.Reply{Status: wire.None})
	}
	return c.reply(r, wire.Reply{})
}

// get answers each page of the run.
func (c *connection) get(r wire.Request, p *pool) bool {
	exclusive := r.Flags&wire.Exclusive != 0
	if p != nil && exclusive && p.kind == persistent {
		return c.reply(r, wire.Reply{Status: wire.Bad})
	}
	for i := range uint64(r.Count) {
		a := wire.Reply{Status: wire.Gone, Page: r.Page + i}
		if i+1 < uint64(r.Count) {
			a.Flags = wire.More
		}
		if p != nil {
			n, generation, ok := c.donor.get(p, a.Page, exclusive, c.room()[:wire.MaxBlob])
			a.Status, a.Length, a.Generation = wire.OK, uint32(n), generation
			if !ok {
				a.Status = wire.None
			}
		}
		if !c.reply(r, a) {
			return false
		}
	}
	return true
}

// list answers with the pages from one on.
func (c *connection) list(r wire.Request, p *pool) bool {
	b := c.room()
	listed, next := 0, uint64(wire.MaxPages)
	p.table.Range(r.Page, func(page, _ uint64) bool {
		if listed == int(r.Count) {
			next = page
			return false
		}
		if generation, ok := c.donor.version(p, page); ok {
			wire.Listed{Page: page, Generation: generation}.Encode(b[listed*wire.ListedSize:])
			listed++
		}
		return true
	})
	return c.reply(r, wire.Reply{Length: uint32(listed * wire.ListedSize), Page: next})
}
