package arena

import (
	"fmt"
	"sync/atomic"

	"github.com/tmemd/tmemd/backends/sharedmem"
)

const (
	// ChunkSize is the unit in which memory is taken from the system, in bytes.
	ChunkSize = 64 << 10
	// MaxData is the length of the largest object, in bytes: 7/8 of a page.
	MaxData = 4096 * 7 / 8
	// MaxPages bounds Object.Page, and MaxCodec Object.Codec.
	MaxPages = 1 << pageBits
	MaxCodec = 1<<codecBits - 1
	// RefBits is how many low bits of a Ref are in use.
	RefBits = 40

	headerSize = 16
	// classStep is the difference between two classes, and what every slot is
	// aligned to: measured on pages of real processes, 64 bytes cost 1.5 % of
	// density against 16, and keep the number of part-filled chunks small.
	classStep  = 64
	classCount = (headerSize + MaxData + classStep - 1) / classStep
	maxLimit   = classStep << RefBits
)

// Ref names an object: the address of its slot in units of 64 bytes. Every
// value below 1<<RefBits may occur, 0 too.
type Ref uint64

// Object is what Put stores and Get finds.
type Object struct {
	Export uint32
	Page   uint64 // below MaxPages
	Codec  uint8  // how Data is encoded: 1 to MaxCodec, the caller's business
	Sum    uint32 // a checksum, the caller's business
	Data   []byte // 1 to MaxData bytes
}

// Arena is an arena. All methods may be called from any goroutine, but for a
// live object Free must not overlap with another call.
type Arena struct {
	region  *sharedmem.Region
	memory  []byte                // the region's; nil after Close
	chunks  []chunk               // one for each chunk of the region
	classes [classCount + 1]class // indexed by slot size / classStep; 0 is unused
	pool    pool
}

// Stats counts what an arena holds. It is a snapshot of each class in turn.
type Stats struct {
	Objects   int64
	DataBytes int64 // the objects' data, without headers and padding
	HeldBytes int64 // memory taken from the system; see A5
}

// New makes an empty arena that holds at most limit bytes, rounded down to
// whole chunks; at least one, at most 64 TiB. purpose is for [sharedmem.Usage].
func New(purpose string, limit int64) (*Arena, error) {
	if limit < ChunkSize || limit > maxLimit {
		return nil, fmt.Errorf("make the %s: limit of %d bytes is outside %d to %d",
			purpose, limit, ChunkSize, int64(maxLimit))
	}
	chunks := limit / ChunkSize
	region, err := sharedmem.NewFile(purpose, chunks*ChunkSize)
	if err != nil {
		return nil, err
	}
	a := &Arena{
		region: region,
		memory: region.Bytes(),
		chunks: make([]chunk, chunks),
	}
	for i := 1; i < len(a.classes); i++ {
		a.classes[i].size = int64(i) * classStep
		a.classes[i].slots = ChunkSize / a.classes[i].size
	}
	a.pool.region, a.pool.chunks = region, a.chunks
	return a, nil
}

// Put stores a copy of the object. It returns false if there is no room below
// the limit, or if a field is out of its range.
func (a *Arena) Put(o Object) (Ref, bool) {
	if o.Page >= MaxPages || o.Codec == 0 || o.Codec > MaxCodec || len(o.Data) == 0 || len(o.Data) > MaxData {
		return 0, false
	}
	c := &a.classes[(headerSize+len(o.Data)+classStep-1)/classStep]
	offset, ok := a.take(c, int64(len(o.Data)))
	if !ok {
		return 0, false
	}
	a.write(offset, o)
	return Ref(offset / classStep), true
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

// locate finds the slot that ref names, if it can be one.
func (a *Arena) locate(ref Ref) (n int, c *class, offset int64, ok bool) {
	if ref >= Ref(len(a.memory)/classStep) {
		return 0, nil, 0, false
	}
	offset = int64(ref) * classStep
	n = int(offset / ChunkSize)
	number := a.chunks[n].class.Load()
	if number == 0 {
		return 0, nil, 0, false
	}
	c = &a.classes[number]
	within := offset % ChunkSize
	return n, c, offset, within%c.size == 0 && within/c.size < c.slots
}

// Stats counts. It takes each class's lock for an instant.
func (a *Arena) Stats() Stats {
	s := Stats{HeldBytes: a.pool.held()}
	for i := range a.classes {
		c := &a.classes[i]
		c.mu.Lock()
		s.Objects += c.objects
		s.DataBytes += c.dataBytes
		c.mu.Unlock()
	}
	return s
}

// Usage reports the arena's region. It may be called after Close.
func (a *Arena) Usage() sharedmem.Usage { return a.region.Usage() }

// Close gives all memory back, whether or not objects are left. Nothing but
// Stats and Usage may overlap with it; later calls find an empty arena without
// room.
func (a *Arena) Close() error {
	a.memory = nil
	a.pool.close()
	for i := range a.classes {
		c := &a.classes[i]
		c.mu.Lock()
		c.partial, c.objects, c.dataBytes = 0, 0, 0
		c.mu.Unlock()
	}
	return a.region.Close()
}

// isFree says whether the slot may be given out (A2).
func (a *Arena) isFree(offset int64) bool {
	return atomic.LoadUint64(a.word0(offset)) == 0
}
