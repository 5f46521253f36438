package donor

import (
	"errors"
	"fmt"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// Open opens a donor that an earlier process left in Config.Memory, however it ended:
// with its pools and pages, of the same identity and epoch. Capacity is what it was.
func Open(config Config) (*Donor, error) {
	config.Capacity = max(config.Limit, arena.ChunkSize) // until the arena says what it is
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("open the donor: %w", err)
	}
	ledger, party, err := openLedger(config.Memory)
	if err != nil {
		return nil, fmt.Errorf("open the donor: %w", err)
	}
	if config.Identity != party.Identity && config.Identity != [16]byte{} {
		return nil, errors.Join(errors.New("open the donor: what was left is another donor's"), ledger.region.Leave())
	}
	a, err := arena.Open(config.Memory, arenaPurpose, config.Limit)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the donor: %w", err), ledger.region.Leave())
	}
	config.Identity, config.Capacity = party.Identity, a.Capacity()
	d, err := assemble(config, party, a, ledger)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the donor: %w", err), a.Close(), ledger.region.Leave())
	}
	if err := d.adopt(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the donor: %w", err), a.Close(), ledger.region.Leave(), d.index.Close())
	}
	d.start()
	return d, nil
}

// adopt makes the pools and the index anew. Until the arena is settled nothing in the
// memory is changed.
func (d *Donor) adopt() error {
	entries, damaged := d.ledger.live()
	if damaged > 0 {
		d.config.Log.Error("pools are lost: their entries are damaged", "pools", damaged)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range entries {
		d.adoptPoolLocked(e)
	}
	lost := 0
	d.arena.Left(func(ref arena.Ref, o arena.Object) {
		p := d.pools[o.Export%maxPools].Load()
		if p == nil || p.number != o.Export || !d.isBetter(p, o) {
			return // garbage, or what a put was to replace
		}
		if !p.table.Set(o.Page, wordOf(ref)) {
			lost++
		}
	})
	if lost > 0 {
		return fmt.Errorf("no memory for the index of %d pages", lost)
	}
	for _, e := range entries {
		d.claim(d.pools[e.number%maxPools].Load())
	}
	if _, err := d.arena.Settle(); err != nil {
		return err
	}
	d.ledger.settle(entries)
	return nil
}

func (d *Donor) adoptPoolLocked(e entry) {
	c := d.clientLocked(e.client)
	key := ownerKey{c, e.identity}
	o := d.owners[key]
	if o == nil {
		o = &owner{client: c, identity: e.identity, epoch: e.epoch, pools: make(map[uint32]*pool)}
		d.owners[key] = o
		c.owners++
	}
	d.enterLocked(d.newPool(e, o))
}

// isBetter says whether the object is a version of a page, and newer than what the
// index has.
func (d *Donor) isBetter(p *pool, o arena.Object) bool {
	if o.Codec != codec || len(o.Data) <= versionSize || len(o.Data) > versionSize+wire.MaxBlob || versionOf(o) == 0 {
		return false
	}
	other, ok := d.find(p, o.Page, p.table.Get(o.Page))
	return !ok || versionOf(other) < versionOf(o)
}

// claim keeps the objects that the pool's index leads to.
func (d *Donor) claim(p *pool) {
	p.table.Range(0, func(page, word uint64) bool {
		o, ok := d.arena.Claim(refOf(word), p.number, page)
		if !ok {
			p.table.Delete(page) // only damage gets here
			return true
		}
		d.charge(p, d.arena.SlotSize(len(o.Data)))
		p.client.pages[p.kind].Add(1)
		return true
	})
}
