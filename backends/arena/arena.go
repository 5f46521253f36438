package arena

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/tmemd/tmemd/backends/sharedmem"
)

const (
	// ChunkSize is the unit in which memory is taken from the system, in bytes.
	ChunkSize = 64 << 10
	// MaxData is the length of the largest object, in bytes: a whole page, and what
	// sealing one and the version of one add. The classes are those of a bare page.
	MaxData = 4096 + 64 + 16
	// MaxPages bounds Object.Page, and MaxCodec Object.Codec.
	MaxPages = 1 << pageBits
	MaxCodec = 1<<codecBits - 1
	// MaxFlags bounds Object.Flags.
	MaxFlags = 1<<flagBits - 1
	// RefBits is how many low bits of a Ref are in use.
	RefBits = 40
	// RefUnit is what every object is aligned to, in bytes.
	RefUnit = 32

	headerSize = 16
	pageSize   = 4096 // the system's: what a hole can be punched for
	maxLimit   = RefUnit << RefBits
)

// Ref names an object: the address of its slot in units of RefUnit. Every value
// below 1<<RefBits may occur, 0 too.
type Ref uint64

// Object is what Put stores and Get finds.
type Object struct {
	Export uint32
	Page   uint64 // below MaxPages
	Codec  uint8  // how Data is encoded: 1 to MaxCodec, the caller's business
	Flags  uint8  // up to MaxFlags, the caller's business; see Mark
	Sum    uint32 // a checksum, the caller's business
	Data   []byte // 1 to MaxData bytes

	// Droppable objects are in chunks of their own; see Reclaim.
	Droppable bool
}

// Arena is an arena. All methods may be called from any goroutine, but for a
// live object Free must not overlap with Get or the use of its Data, and there
// is one Compact at a time. A droppable object may be gone at any moment: whoever
// reads it takes a Snapshot, and whoever frees it calls FreeOf.
type Arena struct {
	region  *sharedmem.Region
	table   *sharedmem.Region // holds chunks
	memory  []byte            // the region's; nil after Close
	chunks  []chunk           // one for each chunk of the region; nil after Close
	classes []class           // smallest first, then those of droppable objects; classes[0] is unused
	// classFor is the first class for a slot of at least so many RefUnits; immutable.
	classFor [(headerSize+MaxData)/RefUnit + 2]uint8
	sizes    int // classes of each sort: those from 1 on, then the droppable ones; immutable
	pool     pool
	used     atomic.Int64 // bytes of the slots in use
	touched  atomic.Int64 // bytes of memory that chunks have; see A5

	droppable atomic.Int64  // chunks with droppable objects
	hand      atomic.Uint64 // where Reclaim goes on: a chunk, modulo their number

	scrubbing atomic.Int32 // calls of Scrub under way

	survey *survey // from Open to Settle: nothing is put or freed meanwhile
}

// Place says where an arena's memory is. The zero value is memory that ends with
// the process; with a folder it is the files Name.arena and Name.chunks there.
type Place struct {
	Folder *sharedmem.Folder
	Name   string
}

// Stats counts what an arena holds. It is a snapshot of each class in turn.
type Stats struct {
	Objects   int64
	Droppable int64 // of Objects
	DataBytes int64 // the objects' data, without headers and padding
	UsedBytes int64 // the slots that the objects are in
	HeldBytes int64 // memory taken from the system; see A5
}

// New makes an empty arena that holds at most limit bytes, rounded down to
// whole chunks. SetLimit may raise the limit up to capacity, which costs address
// space only; it is at least the limit, and at most 32 TiB. purpose is for
// [sharedmem.Usage].
func New(purpose string, limit, capacity int64) (*Arena, error) {
	return Create(Place{}, purpose, limit, capacity)
}

// Create is New at a place. In a folder the bookkeeping's memory is claimed at
// once, 20 bytes for each chunk of the capacity.
func Create(at Place, purpose string, limit, capacity int64) (*Arena, error) {
	if err := checkLimit(purpose, limit, capacity); err != nil {
		return nil, err
	}
	chunks := capacity / ChunkSize
	region, err := at.Folder.Create(at.Name+regionName, purpose, chunks*ChunkSize, 0)
	if err != nil {
		return nil, err
	}
	table, err := at.Folder.Create(at.Name+tableName, tablePurpose(purpose), tableSize(chunks), 0)
	if err != nil {
		return nil, errors.Join(err, region.Close())
	}
	if err := table.Claim(0, tableSize(chunks)); err != nil {
		return nil, errors.Join(err, region.Close(), table.Close())
	}
	return assemble(region, table, limit), nil
}

const (
	regionName = ".arena"
	tableName  = ".chunks"
)

func tablePurpose(purpose string) string { return "chunk table of the " + purpose }

// tableSize is in whole pages of the system.
func tableSize(chunks int64) int64 {
	return (chunks*int64(unsafe.Sizeof(chunk{})) + pageSize - 1) / pageSize * pageSize
}

func checkLimit(purpose string, limit, capacity int64) error {
	if limit < ChunkSize || limit > capacity || capacity > maxLimit {
		return fmt.Errorf("make the %s: limit of %d bytes is outside %d to the capacity of %d, or that above %d",
			purpose, limit, ChunkSize, capacity, int64(maxLimit))
	}
	return nil
}

func assemble(region, table *sharedmem.Region, limit int64) *Arena {
	a := &Arena{
		region: region,
		table:  table,
		memory: region.Bytes(),
		chunks: unsafe.Slice((*chunk)(unsafe.Pointer(&table.Bytes()[0])), len(region.Bytes())/ChunkSize),
	}
	a.makeClasses()
	a.pool.region, a.pool.touched, a.pool.chunks = region, &a.touched, a.chunks
	a.pool.setLimit(int(limit / ChunkSize))
	return a
}

// Put stores a copy of the object. It returns false if there is no room below
// the limit, or if a field is out of its range.
func (a *Arena) Put(o Object) (Ref, bool) {
	if o.Page >= MaxPages || o.Flags > MaxFlags || o.Codec == 0 || o.Codec > MaxCodec || len(o.Data) == 0 || len(o.Data) > MaxData {
		return 0, false
	}
	c := a.classOfObject(o)
	offset, ok := a.take(c, int64(len(o.Data)))
	if !ok {
		return 0, false
	}
	a.write(offset, c.size, o)
	return Ref(offset / RefUnit), true
}

// Get returns the object. Its Data is the arena's own memory: read only, and
// dead after Free. It returns false if ref cannot be the name of an object, or
// the header there is not one that Put wrote.
//
// Without damage, and with a live ref, the object is the one that was put. Get
// cannot tell an object from another that took its place: compare Export, Page
// and Sum.
func (a *Arena) Get(ref Ref) (Object, bool) {
	_, c, offset, ok := a.locate(ref)
	if !ok {
		return Object{}, false
	}
	return a.read(offset, c)
}

// Free forgets the object and returns true. It returns false, and changes
// nothing, if there is none under ref.
func (a *Arena) Free(ref Ref) bool {
	n, c, offset, ok := a.locate(ref)
	if !ok {
		return false
	}
	freed, empty := a.release(c, n, offset)
	if empty {
		a.pool.put(n)
	}
	return freed
}

// SizeOf is the bytes of memory that an object under ref takes, 0 if there can be
// none.
func (a *Arena) SizeOf(ref Ref) int64 {
	_, c, _, ok := a.locate(ref)
	if !ok {
		return 0
	}
	return c.size
}

// locate finds the slot that ref names, if it can be one.
func (a *Arena) locate(ref Ref) (n int, c *class, offset int64, ok bool) {
	if ref >= Ref(len(a.memory)/RefUnit) {
		return 0, nil, 0, false
	}
	offset = int64(ref) * RefUnit
	n = int(offset / ChunkSize)
	number := a.chunks[n].class.Load()
	if number == 0 || number >= uint32(len(a.classes)) {
		return 0, nil, 0, false
	}
	c = &a.classes[number]
	within := offset % ChunkSize
	return n, c, offset, within%c.size == 0 && within/c.size < c.slots
}

// SetLimit changes the limit, at least one chunk and at most the capacity; it
// is rounded down to whole chunks. If more is held, what is kept for reuse goes
// back at once, and Put finds no room in new chunks until enough objects are
// gone: see Compact.
func (a *Arena) SetLimit(limit int64) error {
	if limit < ChunkSize || limit > int64(len(a.memory)) {
		return fmt.Errorf("limit of %d bytes is outside %d to %d", limit, ChunkSize, len(a.memory))
	}
	a.pool.setLimit(int(limit / ChunkSize))
	return nil
}

// Touch takes the memory of all chunks below the limit now, and keeps it: what is
// freed is used again instead of going back to the system. For a host that
// swaps through us, where taking memory may have to wait for swap. A limit that
// is raised later adds chunks that are taken as they are used.
func (a *Arena) Touch() error {
	a.pool.mu.Lock()
	limit := int64(a.pool.limit)
	a.pool.mu.Unlock()
	if err := errors.Join(a.region.Touch(0, limit*ChunkSize), a.table.Touch(0, int64(len(a.table.Bytes()))/pageSize*pageSize)); err != nil {
		return err
	}
	a.pool.keepAll()
	return nil
}

// Capacity is the highest limit that there can be.
func (a *Arena) Capacity() int64 { return int64(len(a.memory)) }

// Used is the bytes of all slots in use, without a lock.
func (a *Arena) Used() int64 { return a.used.Load() }

// Room says how many chunks can still be taken from the system, less than 0 if
// more are held than the limit allows; those kept for reuse count as free. It
// takes no lock.
func (a *Arena) Room() int { return a.pool.room() }

// Stats counts. It takes each class's lock for an instant.
func (a *Arena) Stats() Stats {
	s := Stats{HeldBytes: a.touched.Load(), UsedBytes: a.used.Load()}
	for i := range a.classes {
		c := &a.classes[i]
		c.mu.Lock()
		s.Objects += c.objects
		if c.droppable {
			s.Droppable += c.objects
		}
		s.DataBytes += c.dataBytes
		c.mu.Unlock()
	}
	return s
}

// Usage reports the region of the objects and that of the bookkeeping. It may
// be called after Close.
func (a *Arena) Usage() [2]sharedmem.Usage {
	return [2]sharedmem.Usage{a.region.Usage(), a.table.Usage()}
}

// Close gives all memory back, whether or not objects are left. Nothing but
// Stats and Usage may overlap with it; later calls find an empty arena without
// room. One that was opened and not settled leaves everything as it was found.
func (a *Arena) Close() error {
	release := (*sharedmem.Region).Close
	if a.survey != nil {
		release = (*sharedmem.Region).Leave
	}
	a.memory, a.chunks = nil, nil
	a.pool.close()
	for i := range a.classes {
		c := &a.classes[i]
		c.mu.Lock()
		c.partial, c.held, c.objects, c.dataBytes = 0, 0, 0, 0
		c.mu.Unlock()
	}
	a.used.Store(0)
	a.touched.Store(0)
	a.droppable.Store(0)
	return errors.Join(release(a.region), release(a.table))
}

// isFree says whether the slot may be given out (A2).
func (a *Arena) isFree(offset int64) bool {
	return atomic.LoadUint64(a.word0(offset)) == 0
}
