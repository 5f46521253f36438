package zcache

import (
	"hash/crc32"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
)

// staged names a page that waits to be compressed.
type staged struct {
	key backends.Key
	ref arena.Ref
}

// stage stores the page as it came, if somebody is there to compress it behind,
// the staging share has room, and it looks as if it would compress.
func (c *Cache) stage(key backends.Key, data []byte) (arena.Ref, bool) {
	share := c.config.Load().stagingPages()
	if share == 0 || c.background.Load() == nil {
		return 0, false
	}
	if c.shared() >= share {
		c.moved[backends.MovedInline].Add(1)
		return 0, false
	}
	if looksRandom(data) {
		return 0, false
	}
	ref, ok := c.put(arena.Object{
		Export: key.Export,
		Page:   key.Page,
		Codec:  uint8(Raw),
		Sum:    crc32.Checksum(data, castagnoli),
		Data:   data,
	})
	if !ok {
		return 0, false // compressed it may fit
	}
	select {
	case c.staged <- staged{key, ref}:
		c.moved[backends.MovedStaged].Add(1)
		return ref, true
	default: // full of pages that are gone already
		c.forget(ref)
		return 0, false
	}
}

// shared is how many pages count against the staging share. Those that did not
// compress do, unless keeping such pages is wanted.
func (c *Cache) shared() int64 {
	raw := c.kept[Raw].pages.Load()
	if c.keepsIncompressible() {
		raw -= c.settled.Load()
	}
	return raw
}

// behindBatch is how many pages are compressed between two looks at the clock.
const behindBatch = 16

// behind compresses staged pages. While stores come in, it takes little of a
// processor at first, and the more the fuller the share is: below a half it
// pauses after each batch, from there on it does not. While none come in, the
// processor is idle as far as it knows, and it does not pause either.
func (b *background) behind() {
	r := b.newReplacement()
	w := &behindWorker{replacement: r, sharer: &sharer{replacement: r}, timer: time.NewTimer(time.Hour)}
	defer w.timer.Stop()
	accepted := uint64(0)
	for n := 1; ; n++ {
		s, ok := w.nextStaged()
		if !ok {
			return
		}
		if !w.settle(s) {
			return
		}
		pause := time.Duration(0)
		if n%behindBatch == 0 {
			now := b.refused[backends.Accepted].Load()
			if now != accepted {
				pause = b.restraint()
			}
			accepted = now
		}
		if !w.sleep(pause) {
			return
		}
	}
}

// nextStaged waits for a page to compress. The first one after a while may be the
// first of a burst, whose client has better use for the processor than we: so it
// waits a moment longer, if the share is empty enough.
func (w *behindWorker) nextStaged() (s staged, ok bool) {
	select {
	case s = <-w.staged:
		return s, w.ctx.Err() == nil
	default:
	}
	select {
	case <-w.ctx.Done():
		return s, false
	case s = <-w.staged:
		return s, w.sleep(w.restraint())
	}
}

// restraint is the pause after a batch: a millisecond with nothing staged, none
// with half of the share.
func (b *background) restraint() time.Duration {
	half := max(1, b.config.Load().stagingPages()/2)
	free := half - int64(len(b.staged))
	return time.Duration(max(0, free)) * time.Millisecond / time.Duration(half)
}

// behindWorker is the working memory for compressing behind.
type behindWorker struct {
	*replacement
	compressor compressor
	page       [backends.PageSize]byte
	sharer     *sharer
	timer      *time.Timer // of sleep
}

// sleep is [background.sleep] without a new timer: pages that come one by one each have a
// pause.
func (w *behindWorker) sleep(d time.Duration) bool {
	if d <= 0 {
		return w.ctx.Err() == nil
	}
	w.timer.Reset(d)
	select {
	case <-w.timer.C:
		return true
	case <-w.ctx.Done():
		return false
	}
}

// settle compresses one staged page, or leaves it for later if it is in use just
// now. It returns false if the background ends.
func (w *behindWorker) settle(s staged) bool {
	for !w.compressBehind(s) {
		if !w.sleep(time.Millisecond) {
			return false
		}
		select {
		case w.staged <- s:
			return true
		default: // no room in the queue: once more at once
		}
	}
	return true
}

// compressBehind compresses one staged page. It returns false if the page was in
// use.
func (w *behindWorker) compressBehind(s staged) bool {
	was, ok := w.arena.Snapshot(s.ref, w.page[:])
	if !ok || was.Export != s.key.Export || was.Page != s.key.Page || Codec(was.Codec) != Raw || was.Flags&flagSettled != 0 {
		return true // gone, or dealt with
	}
	if len(was.Data) != backends.PageSize {
		return true // damaged: Load says so
	}
	domain := w.domainOf(was.Export)
	if domain != 0 {
		switch w.sharer.share(s.ref, was, was.Data, domain) {
		case sharedNow:
			w.moved[backends.MovedShared].Add(1)
			return true
		case sharedLater:
			return false
		}
	}
	codec, data := w.encode(&w.compressor, w.config.Load().Codec, was.Data)
	if data == nil {
		// Acknowledged, and more than refused cannot be done about it now: it stays
		// as it is, in the staging share, until it is evicted or dropped.
		return w.settleRaw(s, was)
	}
	next := was
	next.Codec, next.Data = uint8(codec), data
	if !w.replace(s.ref, was, next) {
		return false
	}
	w.note(domain, was.Sum, w.to)
	w.moved[backends.MovedBehind].Add(1)
	return true
}

// settleRaw marks a page as not to be compressed, if it is still the one that was
// copied: under its lock, so that the count of such pages stays true. It returns
// false if the page was in use.
func (b *background) settleRaw(s staged, was arena.Object) bool {
	marked := false
	b.host.Rehandle(s.key, backends.Handle(s.ref), func() (backends.Handle, bool) {
		now, ok := b.arena.Get(s.ref)
		if ok && sameObject(now, was) && now.Flags&flagSettled == 0 && b.arena.Mark(s.ref, flagSettled, 0) {
			b.settled.Add(1)
			b.moved[backends.MovedKeptRaw].Add(1)
			marked = true
		}
		return 0, false // the handle stays
	})
	return marked
}
