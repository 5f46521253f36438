package zcache

import (
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// sharing knows the contents that pages share, and where their like may be found.
//
// A content is an object of the arena, found by its number through a table. Each page
// keeps an object of its own, a reference, which names that number: so moving a content
// changes one entry, and everything that is about a page is about its reference.
// How many references there are is in the table alone. It ends with the process,
// and the next one counts the references that it adopts (Z9).
//
// The index is hints: for each checksum of a page a few objects that had it lately.
// They may be stale, as nobody takes them back; whoever follows one looks what is there.
// An object that is pushed out of it is not found, which costs only its memory.
type sharing struct {
	arena   *arena.Arena
	seed    maphash.Seed
	regions [2]*sharedmem.Region // of entries and hints

	entries []entry         // by number; each guarded by the lock of its number
	locks   [64]contentLock // by number, modulo
	hints   []atomic.Uint64

	mu    sync.Mutex // guards free and bump; taken with no lock of a content held
	free  uint32     // first free number + 1, linked by entry.at
	bump  uint32     // numbers from here on were never in use
	moves sync.Mutex // held by the one who moves a content; nobody waits for it

	references, referenceBytes, charged  atomic.Int64
	contents, contentBytes, contentSlots atomic.Int64
}

// entry is one content. While count is above 0 it stays, while pins is it stays where
// it is.
type entry struct {
	at     uint64 // where it is, its ref + 1, 0 for nowhere; of a free number the next free one + 1
	count  uint32 // references, and those who are about to make or move something
	pins   uint32 // who reads it
	domain uint32 // whose pages may share it from now on; 0 of those of an earlier process
}

const (
	hintTag    = 1<<64 - 1<<arena.RefBits
	entryBytes = int64(unsafe.Sizeof(entry{}))
	// The table has an entry for so many bytes of capacity, and the index a hint for so
	// many of the limit. When there is no number left, pages are not shared.
	bytesPerContent, bytesPerHint = 1024, 1024

	hintWays = 4
)

type contentLock struct {
	sync.Mutex
	_ [56]byte
}

// makeSharing makes it with the first who needs it. REQUIRES: exportsMu held, or nobody
// else knows c.
func (c *Cache) makeSharing() (*sharing, error) {
	if s := c.sharing.Load(); s != nil {
		return s, nil
	}
	contents := max(c.arena.Capacity()/bytesPerContent, 64)
	hints := int64(hintWays)
	for hints*bytesPerHint < c.config.Load().Config.Limit {
		hints *= 2
	}
	table, err := sharedmem.NewFile("table of shared pages of the "+arenaPurpose, contents*entryBytes)
	if err != nil {
		return nil, err
	}
	index, err := sharedmem.NewFile("index for sharing of the "+arenaPurpose, hints*8)
	if err != nil {
		return nil, errors.Join(err, table.Close())
	}
	s := &sharing{
		arena:   c.arena,
		seed:    maphash.MakeSeed(),
		regions: [2]*sharedmem.Region{table, index},
		entries: unsafe.Slice((*entry)(unsafe.Pointer(&table.Bytes()[0])), contents),
		hints:   unsafe.Slice((*atomic.Uint64)(unsafe.Pointer(&index.Bytes()[0])), hints),
	}
	c.sharing.Store(s)
	return s, nil
}

func (s *sharing) close() error {
	if s == nil {
		return nil
	}
	s.entries, s.hints = nil, nil
	return errors.Join(s.regions[0].Close(), s.regions[1].Close())
}

// at returns the entry of a number with its lock held; nil, without one, if there is
// none.
func (s *sharing) at(number uint32) (*entry, *contentLock) {
	if s == nil || int64(number) >= int64(len(s.entries)) {
		return nil, nil
	}
	lock := &s.locks[number%uint32(len(s.locks))]
	lock.Lock()
	return &s.entries[number], lock
}

// take returns a number for a new content, held so many times.
func (s *sharing) take(domain, holds uint32) (number uint32, ok bool) {
	s.mu.Lock()
	switch {
	case s.free != 0:
		number = s.free - 1
		s.free = uint32(s.entries[number].at)
	case int64(s.bump) < int64(len(s.entries)):
		number = s.bump
		s.bump++
	default:
		s.mu.Unlock()
		return 0, false
	}
	s.mu.Unlock()
	e, lock := s.at(number)
	defer lock.Unlock()
	*e = entry{count: holds, domain: domain}
	return number, true
}

// hold keeps the content from being freed, if it is at ref.
func (s *sharing) hold(number uint32, ref arena.Ref) (domain uint32, ok bool) {
	e, lock := s.at(number)
	if e == nil {
		return 0, false
	}
	defer lock.Unlock()
	if e.count == 0 || e.at != uint64(ref)+1 {
		return 0, false
	}
	e.count++
	return e.domain, true
}

// drop takes back one hold, or reference. With the last one the content is freed, and
// only then its number.
func (s *sharing) drop(number uint32) {
	e, lock := s.at(number)
	if e == nil {
		return
	}
	if e.count != 1 {
		e.count -= min(e.count, 1)
		lock.Unlock()
		return
	}
	at := e.at
	*e = entry{}
	lock.Unlock()
	if at != 0 {
		s.wipe(arena.Ref(at - 1))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries[number].at = uint64(s.free)
	s.free = number + 1
}

// wipe frees a content's object, and overwrites it: the export that is gone may have
// been scrubbed already.
func (s *sharing) wipe(ref arena.Ref) {
	o, ok := s.arena.Get(ref)
	if size := s.arena.SizeOf(ref); s.arena.Wipe(ref) && ok {
		s.countContent(len(o.Data), size, -1)
	}
}

// pin says where the content is, and keeps it there until unpin.
func (s *sharing) pin(number uint32) (arena.Ref, bool) {
	e, lock := s.at(number)
	if e == nil {
		return 0, false
	}
	defer lock.Unlock()
	if e.count == 0 || e.at == 0 {
		return 0, false
	}
	e.pins++
	return arena.Ref(e.at - 1), true
}

func (s *sharing) unpin(number uint32) {
	e, lock := s.at(number)
	defer lock.Unlock()
	e.pins--
}

// move says where the content is from now on, unless somebody reads it where it was.
func (s *sharing) move(number uint32, to arena.Ref) bool {
	e, lock := s.at(number)
	defer lock.Unlock()
	if e.pins > 0 {
		return false
	}
	e.at = uint64(to) + 1
	return true
}

// bucket is where hints for a checksum are, and what tells them from others there.
func (s *sharing) bucket(domain, sum uint32) (hints []atomic.Uint64, tag uint64) {
	h := maphash.Comparable(s.seed, uint64(domain)<<32|uint64(sum))
	at := h % uint64(len(s.hints)/hintWays) * hintWays
	return s.hints[at : at+hintWays], (h>>40 | 1) << arena.RefBits
}

// find returns objects that a page of that checksum may be like.
func (s *sharing) find(domain, sum uint32) (refs [hintWays]arena.Ref, n int) {
	hints, tag := s.bucket(domain, sum)
	for i := range hints {
		if h := hints[i].Load(); h&hintTag == tag {
			refs[n] = arena.Ref(h &^ hintTag)
			n++
		}
	}
	return refs, n
}

// put makes ref the hint for the checksum, the newest of its bucket.
func (s *sharing) put(domain, sum uint32, ref arena.Ref) {
	hints, tag := s.bucket(domain, sum)
	h := tag | uint64(ref)
	for i := range hints {
		old := hints[i].Load()
		hints[i].Store(h)
		if old == 0 || old&hintTag == tag {
			return
		}
		h = old
	}
}

// count counts references and contents that come or go. s may be nil only for objects of
// codecs that there are not.
func (s *sharing) count(o arena.Object, n int64) {
	switch {
	case s == nil:
	case isContent(o):
		s.countContent(len(o.Data), s.arena.SlotSize(len(o.Data)), n)
	case Codec(o.Codec) == shared:
		s.references.Add(n)
		s.referenceBytes.Add(n * int64(len(o.Data)))
		if l, ok := linkOf(o); ok {
			s.charged.Add(n * int64(l.charge))
		}
	}
}

func (s *sharing) countContent(length int, slot, n int64) {
	s.contents.Add(n)
	s.contentBytes.Add(n * int64(length))
	s.contentSlots.Add(n * slot)
}

// addTo adds what is shared to a backend's account: contents are no pages.
func (s *sharing) addTo(stats *backends.Stats) {
	references, contents := max(s.references.Load(), 0), max(s.contents.Load(), 0)
	stats.Pages -= min(stats.Pages, uint64(contents))
	stats.SharedPages, stats.SharedContents = uint64(references), uint64(contents)
	stats.SharedSaved = uint64(max(s.charged.Load()-s.contentSlots.Load()-references*s.arena.SlotSize(linkBytes), 0))
	stats.Codecs = append(stats.Codecs, backends.CodecStats{
		Name: shared.String(), Pages: uint64(references), Bytes: uint64(max(s.referenceBytes.Load()+s.contentBytes.Load(), 0)),
	})
	for _, region := range s.regions {
		stats.Memory = append(stats.Memory, region.Usage())
	}
}

// adoptReference counts a reference that was adopted. If its content is not there,
// Load says so.
func (c *Cache) adoptReference(o arena.Object) {
	s, err := c.makeSharing()
	if err != nil {
		c.log.Error("shared pages cannot be taken over", "error", err)
		return
	}
	c.findContents(s)
	s.count(o, 1)
	l, ok := linkOf(o)
	e, lock := s.at(l.number)
	if !ok || e == nil {
		if e != nil {
			lock.Unlock()
		}
		return
	}
	defer lock.Unlock()
	s.bump = max(s.bump, l.number+1)
	if e.count++; e.count > 1 {
		return
	}
	if e.at == 0 {
		return
	}
	content, ok := c.arena.Claim(arena.Ref(e.at-1), e.domain, uint64(l.number))
	e.domain = 0 // numbers of domains do not outlive the process
	if !ok {
		e.at = 0
		return
	}
	c.keepContent(s, content)
}

func (c *Cache) keepContent(s *sharing, content arena.Object) {
	s.count(content, 1)
	if Codec(content.Codec) == contentOf|Zstd {
		c.adoptZstd()
	}
}

// findContents notes where contents are that an earlier process has left. Of two of
// one number, of which one was to take the place of the other, either will do.
func (c *Cache) findContents(s *sharing) {
	if c.adopting.seen {
		return
	}
	c.adopting.seen = true
	c.arena.Left(func(ref arena.Ref, o arena.Object) {
		if isContent(o) && o.Page < uint64(len(s.entries)) {
			s.entries[o.Page].at, s.entries[o.Page].domain = uint64(ref)+1, o.Export
		}
	})
}

// adoptContent keeps a content that a page map named, which none does.
func (c *Cache) adoptContent(ref arena.Ref, o arena.Object) {
	s, err := c.makeSharing()
	if err != nil || o.Page >= uint64(len(s.entries)) {
		return
	}
	c.findContents(s)
	e := &s.entries[o.Page]
	if e.count++; e.count == 1 {
		e.at, e.domain = uint64(ref)+1, 0
	}
	s.bump = max(s.bump, uint32(o.Page)+1)
	c.keepContent(s, o)
}

// settle makes the numbers free that no adopted reference names. REQUIRES: nobody else
// knows s.
func (s *sharing) settle() {
	for number := range s.bump {
		if e := &s.entries[number]; e.count == 0 {
			*e = entry{at: uint64(s.free)}
			s.free = number + 1
		}
	}
}
