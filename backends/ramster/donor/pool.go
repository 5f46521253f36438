package donor

import (
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/pageindex"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// pool is one pool of an owner. Its fields are immutable, but for what they lead to.
type pool struct {
	number uint32 // the donor's own, which objects carry as their export
	theirs uint32
	owner  *owner
	client *client
	epoch  [16]byte // of the owner
	kind   int      // persistent or ephemeral
	table  *pageindex.Table
	hand   uint64 // page where the next one is dropped; guarded by Donor.evicting
}

func (p *pool) slot() int { return int(p.number % maxPools) }

func (d *Donor) newPool(e entry, o *owner) *pool {
	kind := persistent
	if e.ephemeral {
		kind = ephemeral
	}
	return &pool{
		number: e.number, theirs: e.theirs, owner: o, client: o.client, epoch: e.epoch, kind: kind,
		table: d.index.NewTable(&o.client.nodes),
	}
}

// poolOf is the pool that an object belongs to, or nil.
// REQUIRES: the page's stripe held, and as long as the pool is used.
func (d *Donor) poolOf(number uint32) *pool {
	p := d.pools[number%maxPools].Load()
	if p == nil || p.number != number {
		return nil
	}
	return p
}

// makePool is the operation.
func (d *Donor) makePool(o *owner, epoch [16]byte, theirs uint32, isEphemeral bool) wire.Status {
	if p := o.pools[theirs]; p != nil {
		if (p.kind == ephemeral) != isEphemeral {
			return wire.Bad
		}
		return wire.OK
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !o.client.granted {
		return wire.Denied
	}
	if o.client.pools >= maxPoolsOfClient {
		return wire.Full
	}
	e, ok := d.ledger.add(entry{theirs: theirs, ephemeral: isEphemeral, client: o.client.name, identity: o.identity, epoch: epoch})
	if !ok {
		return wire.Full
	}
	d.enterLocked(d.newPool(e, o))
	return wire.OK
}

func (d *Donor) enterLocked(p *pool) {
	p.owner.pools[p.theirs] = p
	p.client.pools++
	d.pools[p.slot()].Store(p)
}

// destroy forgets a pool and all its pages. If the process ends meanwhile, the entry
// in the ledger says that the rest is garbage. REQUIRES: the caller is the owner's
// session, or it has none.
func (d *Donor) destroy(p *pool) {
	d.mu.Lock()
	d.ledger.leave(p.number)
	d.pools[p.slot()].Store(nil)
	delete(p.owner.pools, p.theirs)
	d.mu.Unlock()
	// Whoever found the pool before is done with it when these were held once.
	d.evicting.Lock()
	d.evicting.Unlock() //lint:ignore SA2001 see above
	for i := range d.stripes {
		d.stripes[i].Lock()
		d.stripes[i].Unlock() //lint:ignore SA2001 see above
	}
	p.table.Range(0, func(_, word uint64) bool {
		size := d.sizeOf(refOf(word))
		if d.arena.Free(refOf(word)) {
			d.charge(p, -size)
		}
		p.client.pages[p.kind].Add(-1)
		return true
	})
	p.table.Free()
	d.mu.Lock()
	d.ledger.remove(p.number)
	p.client.pools--
	d.mu.Unlock()
	d.askRoom()
}

// charge has the pool's client pay for so many bytes of slots.
func (d *Donor) charge(p *pool, size int64) {
	p.client.slots.Add(size)
	if p.kind == ephemeral {
		p.client.droppable.Add(size)
		d.droppable.Add(size)
	}
}

// sizeOf is the bytes of an object's slot, 0 if its header is damaged.
func (d *Donor) sizeOf(ref arena.Ref) int64 {
	o, ok := d.arena.Get(ref)
	if !ok {
		return 0
	}
	return d.arena.SlotSize(len(o.Data))
}

// A word in a table is an object's name + 1.
func refOf(word uint64) arena.Ref { return arena.Ref(word - 1) }
func wordOf(ref arena.Ref) uint64 { return uint64(ref) + 1 }
