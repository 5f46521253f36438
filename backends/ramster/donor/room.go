package donor

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/tmemd/tmemd/backends/arena"
)

const (
	// compactChunks is how many chunks are emptied between two looks at the rest.
	compactChunks = 64
	// tidyEvery is how often the memory is looked at when nothing happens.
	tidyEvery = time.Second
	tidyPause = 5 * time.Millisecond
)

// askRoom wakes whoever keeps room.
func (d *Donor) askRoom() {
	select {
	case d.roomAsked <- struct{}{}:
	default:
	}
}

// keepRoom keeps a part of the memory free of ephemeral pages, and all of it dense,
// and says what owners are to take back.
func (d *Donor) keepRoom(ctx context.Context) {
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-d.roomAsked:
		}
		d.balance()
		d.makeRoom(ctx)
		d.shareOut()
		if s := d.arena.Stats(); s.HeldBytes-s.UsedBytes > s.HeldBytes/100 {
			d.compact(compactChunks)
		}
		// Not more often than that, however many ask.
		pause.Reset(tidyPause)
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}

// makeRoom drops ephemeral pages while less than a twentieth of the chunks is free.
func (d *Donor) makeRoom(ctx context.Context) {
	low := max(1, int(d.limit.Load()/arena.ChunkSize/20))
	for ctx.Err() == nil && d.arena.Room() < low {
		if d.arena.Movable() > 0 {
			before := d.arena.Room()
			d.compact(compactChunks)
			if d.arena.Room() > before {
				continue
			}
		}
		if !d.evictAny() {
			return
		}
	}
}

// watchIndex follows an index that grew, as it takes its memory from the arena's.
func (d *Donor) watchIndex() {
	if d.index.Bytes() > d.indexed.Load() {
		d.balance()
	}
}

// balance gives the arena what the index leaves of the limit.
func (d *Donor) balance() {
	d.sizing.Lock()
	defer d.sizing.Unlock()
	index := (d.index.Bytes() + arena.ChunkSize - 1) / arena.ChunkSize * arena.ChunkSize
	d.indexed.Store(index)
	// In range: the capacity is no less than any limit.
	_ = d.arena.SetLimit(min(max(d.limit.Load()-index, arena.ChunkSize), d.arena.Capacity()))
	if d.arena.Room() > 0 {
		index += arena.ChunkSize
	}
	_ = d.index.SetLimit(min(max(index, arena.ChunkSize), d.arena.Capacity()))
}

// shareOut says how far each client's use is to come down, while more is held than the
// limit allows and no ephemeral page is left to drop: those that are furthest above
// their share first, down to where all of them use as much for their weight.
//
// Who has no grant cannot be asked, and counts as memory that is not there.
func (d *Donor) shareOut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	over := -int64(d.arena.Room()) * arena.ChunkSize
	if over <= arena.ChunkSize { // the index may have been a chunk faster
		for _, c := range d.clients {
			c.target.Store(noTarget)
		}
		return
	}
	var shares []share
	total := int64(0)
	for _, c := range d.clients {
		s := share{client: c, used: c.used(), weight: c.weight.Load()}
		if !c.granted || s.used <= 0 {
			c.target.Store(noTarget)
			continue
		}
		shares = append(shares, s)
		total += s.used
	}
	level(shares, max(0, total-over))
	for _, s := range shares {
		if s.target == s.used {
			s.target = noTarget
		}
		s.client.target.Store(s.target)
	}
}

// share is a client's part in what there is.
type share struct {
	client       *client
	used, weight int64
	target       int64
}

// level shares out a total: each keeps what it uses, or its weight's part of a level, if
// that is less.
func level(shares []share, total int64) {
	weights := int64(0)
	for _, s := range shares {
		weights += s.weight
	}
	excess := func(s share) float64 { return float64(s.used) / float64(s.weight) }
	slices.SortFunc(shares, func(a, b share) int { return cmp.Compare(excess(a), excess(b)) })
	for i := range shares {
		s := &shares[i]
		// Those before it keep all they have, as they are below every later level.
		s.target = min(s.used, int64(float64(total)*float64(s.weight)/float64(weights)))
		total -= s.target
		weights -= s.weight
	}
}

// SetLimit changes the limit, at most to the capacity. What is above it goes as
// ephemeral pages are dropped and owners take the others back; it may take them a while.
func (d *Donor) SetLimit(bytes int64) error {
	config := d.config
	config.Limit, config.Floor = bytes, min(config.Floor, bytes)
	if err := config.validate(); err != nil {
		return err
	}
	d.sizing.Lock()
	d.most.Store(bytes)
	d.limit.Store(bytes)
	d.sizing.Unlock()
	d.balance()
	d.askRoom()
	return nil
}
