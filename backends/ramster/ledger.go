package ramster

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/wire"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// ledger is what has to outlive the process beside pages and stubs: the key, the
// counter that nonces are made of, who we are, and which donor each place in a stub
// means. It is a memory file of its own:
//
//	bytes 0–7    the last generation that was given out
//	bytes 8–23   our identity
//	bytes 24–39  our epoch
//	bytes 40–71  the key
//	bytes 72–79  format: 1
//	bytes 128–…  496 ephemeral pools that donors may have: number + 1, or 0, of 8 bytes each
//	bytes 4096–… 256 places of 256 bytes
//
//	place        byte 0      state, written last
//	             byte 1      length of the name
//	             byte 2      length of the address
//	             bytes 8–23  the donor's identity
//	             bytes 24–39 its epoch
//	             bytes 40–103, 104–231 name, address
//
// The generation is taken by an atomic addition in the file itself, so whatever ends
// the process, the next one goes on behind it. Places are changed with mu held.
type ledger struct {
	folder *sharedmem.Folder // nil if it ends with the process
	region *sharedmem.Region
	memory []byte

	mu sync.Mutex
}

const (
	ledgerName    = ".ledger"
	ledgerPurpose = "ledger of donors"
	ledgerFormat  = 1
	placeCount    = 256 // place 0 is nobody's
	placeSize     = 256
	placesStart   = 4096
	ledgerSize    = placesStart + placeCount*placeSize

	identityAt = 8
	epochAt    = 24
	keyAt      = 40
	formatAt   = 72
	cachedAt   = 128
	cachedMost = (placesStart - cachedAt) / 8

	// MaxName and MaxAddress bound the name and the address of a donor, in bytes.
	MaxName    = 64
	MaxAddress = 128
)

// placeState says what a place in the ledger means.
type placeState uint32

// The states of a place.
const (
	placeFree    placeState = iota // stubs do not name it
	placeMember                    // a donor with what it was given
	placeLeaving                   // the same, but it gets no more, and what it has moves away
	placeLost                      // a donor that has lost what it was given: not believed
	placeStates
)

// place is one entry, as it is read.
type place struct {
	state   placeState
	party   wire.Party
	name    string
	address string
}

func createLedger(at arena.Place, identity [16]byte, log func(msg string, args ...any)) (*ledger, error) {
	region, err := at.Folder.Create(at.Name+ledgerName, ledgerPurpose, ledgerSize, 0)
	if err != nil {
		return nil, err
	}
	if err := region.Claim(0, ledgerSize); err != nil {
		return nil, errors.Join(err, region.Close())
	}
	l := newLedger(at.Folder, region, log)
	_, _ = rand.Read(l.memory[identityAt:formatAt]) // never an error
	if identity != [16]byte{} {
		copy(l.memory[identityAt:], identity[:])
	}
	binary.LittleEndian.PutUint64(l.memory[formatAt:], ledgerFormat)
	return l, nil
}

func openLedger(at arena.Place, log func(msg string, args ...any)) (*ledger, error) {
	region, _, err := at.Folder.Open(at.Name+ledgerName, ledgerPurpose)
	if err != nil {
		return nil, err
	}
	l := newLedger(at.Folder, region, log)
	if len(l.memory) != ledgerSize {
		return nil, errors.Join(fmt.Errorf("the %s has %d bytes: %w", ledgerPurpose, len(l.memory), sharedmem.ErrDamaged), region.Leave())
	}
	if format := binary.LittleEndian.Uint64(l.memory[formatAt:]); format != ledgerFormat {
		return nil, errors.Join(fmt.Errorf("the %s has format %d: %w", ledgerPurpose, format, sharedmem.ErrOtherVersion), region.Leave())
	}
	for i := range placeCount {
		if e := l.entry(uint8(i)); placeState(e[0]) >= placeStates || e[1] > MaxName || e[2] > MaxAddress {
			return nil, errors.Join(fmt.Errorf("place %d in the %s makes no sense: %w", i, ledgerPurpose, sharedmem.ErrDamaged), region.Leave())
		}
	}
	return l, nil
}

func newLedger(folder *sharedmem.Folder, region *sharedmem.Region, log func(msg string, args ...any)) *ledger {
	l := &ledger{folder: folder, region: region, memory: region.Bytes()}
	// The key is not to be found on a swap device. Where locking is refused the memory
	// folder is as good as what it is on.
	if err := unix.Mlock(l.memory); err != nil {
		log("the key of pages that donors have is not locked in memory", "error", err)
	}
	return l
}

// owner says who we are.
func (l *ledger) owner() (p wire.Party) {
	copy(p.Identity[:], l.memory[identityAt:])
	copy(p.Epoch[:], l.memory[epochAt:])
	return p
}

func (l *ledger) key() []byte { return l.memory[keyAt : keyAt+keySize] }

// next gives out a generation, or a session: never the same twice (R2).
func (l *ledger) next() uint64 {
	return atomic.AddUint64((*uint64)(unsafe.Pointer(&l.memory[0])), 1)
}

func (l *ledger) entry(n uint8) []byte {
	at := placesStart + int(n)*placeSize
	return l.memory[at : at+placeSize]
}

// read returns what a place means.
func (l *ledger) read(n uint8) (p place) {
	e := l.entry(n)
	p.state = placeState(e[0])
	copy(p.party.Identity[:], e[8:])
	copy(p.party.Epoch[:], e[24:])
	p.name, p.address = string(e[40:40+int(e[1])]), string(e[104:104+int(e[2])])
	return p
}

// take gives a place to a donor, or returns 0 if there is none.
func (l *ledger) take(p place) uint8 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := 1; n < placeCount; n++ {
		e := l.entry(uint8(n))
		if placeState(e[0]) != placeFree {
			continue
		}
		e[1], e[2] = uint8(len(p.name)), uint8(len(p.address))
		copy(e[8:], p.party.Identity[:])
		copy(e[24:], p.party.Epoch[:])
		copy(e[40:104], p.name)
		copy(e[104:232], p.address)
		l.setLocked(uint8(n), p.state)
		return uint8(n)
	}
	return 0
}

// set changes the state of a place.
func (l *ledger) set(n uint8, state placeState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setLocked(n, state)
}

func (l *ledger) setLocked(n uint8, state placeState) {
	// One store commits it: a word of its own, as bytes have no atomic store.
	e := l.entry(n)
	word := (*uint32)(unsafe.Pointer(&e[0]))
	atomic.StoreUint32(word, uint32(state)|uint32(e[1])<<8|uint32(e[2])<<16)
}

// find returns the place of a donor of that epoch, 0 if there is none. One that is
// lost stays lost, whoever turns up.
func (l *ledger) find(party wire.Party) uint8 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := 1; n < placeCount; n++ {
		e := l.entry(uint8(n))
		state := placeState(e[0])
		if (state == placeMember || state == placeLeaving) && bytes.Equal(e[8:24], party.Identity[:]) && bytes.Equal(e[24:40], party.Epoch[:]) {
			return uint8(n)
		}
	}
	return 0
}

// named returns the place of the donor that is called so, 0 if there is none.
func (l *ledger) named(d Donor) uint8 {
	for n := 1; n < placeCount; n++ {
		if p := l.read(uint8(n)); (p.state == placeMember || p.state == placeLeaving) && p.name == d.Name && p.address == d.Address {
			return uint8(n)
		}
	}
	return 0
}

// cachedPools lists the ephemeral pools that donors may have.
func (l *ledger) cachedPools() (pools []uint32) {
	for i := range cachedMost {
		if n := l.cachedPool(i).Load(); n != 0 && n <= math.MaxUint32+1 {
			pools = append(pools, uint32(n-1))
		}
	}
	return pools
}

func (l *ledger) cachedPool(i int) *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&l.memory[cachedAt+8*i]))
}

// noteCached notes that donors may have an ephemeral pool, in the place of one that is not
// in use if need be. It returns false if all are.
func (l *ledger) noteCached(pool uint32, used func(uint32) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	free := -1
	for i := range cachedMost {
		switch n := l.cachedPool(i).Load(); {
		case n == uint64(pool)+1:
			return true
		case n == 0 && (free < 0 || l.cachedPool(free).Load() != 0), n != 0 && free < 0 && !used(uint32(n-1)):
			free = i
		}
	}
	if free < 0 {
		return false
	}
	l.cachedPool(free).Store(uint64(pool) + 1)
	return true
}

// unnoteCached notes that a number is not that of an ephemeral pool.
func (l *ledger) unnoteCached(pool uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range cachedMost {
		l.cachedPool(i).CompareAndSwap(uint64(pool)+1, 0)
	}
}

// close gives the memory back, with the key gone, unless another process is to have
// it.
func (l *ledger) close() error {
	if l.folder == nil || !l.folder.Left() {
		clear(l.memory)
	}
	l.memory = nil
	return l.region.Close()
}

// leave leaves it as it was found.
func (l *ledger) leave() error {
	l.memory = nil
	return l.region.Leave()
}
