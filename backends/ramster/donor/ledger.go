package donor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync/atomic"
	"unsafe"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/wire"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// ledger is the table of pools, in a memory file that outlives the process. Place 0
// says whose it is; each other one is a pool's:
//
//	word 0   bits 0–1 state, 2 ephemeral, 12–31 how often the place was used,
//	         32–63 CRC32C of all that follows
//	byte 8   4 bytes the owner's number, 4 the name's length, 16 the owner's identity,
//	         16 its epoch, the client's name
//
// A pool's number is its place, with how often that was used above: an object that a
// damaged header or index left behind is never taken for a later pool's.
//
// Word 0 is what counts, and is written last. Guarded by Donor.mu.
type ledger struct{ region *sharedmem.Region }

const (
	placeBits  = 12
	maxPools   = 1 << placeBits
	entrySize  = 256
	ledgerSize = maxPools * entrySize
	nameAt     = 48

	stateFree    = 0
	stateLive    = 1
	stateLeaving = 2 // its pages are being freed
	stateMask    = 3
	kindBit      = 4

	ledgerMagic   = "tmpools\x01"
	ledgerName    = ".pools"
	ledgerPurpose = "table of the donor's pools"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// entry is one pool of the ledger.
type entry struct {
	number    uint32
	theirs    uint32
	ephemeral bool
	client    string
	identity  [16]byte
	epoch     [16]byte
}

func createLedger(at arena.Place, party wire.Party) (ledger, error) {
	region, err := at.Folder.Create(at.Name+ledgerName, ledgerPurpose, ledgerSize, 0)
	if err != nil {
		return ledger{}, err
	}
	if err := region.Claim(0, ledgerSize); err != nil {
		return ledger{}, errors.Join(err, region.Close())
	}
	b := region.Bytes()[:entrySize]
	party.EncodeWelcome(b[16:])
	binary.LittleEndian.PutUint64(b[8:], uint64(crc32.Checksum(b[16:], castagnoli)))
	copy(b, ledgerMagic)
	return ledger{region}, nil
}

func openLedger(at arena.Place) (l ledger, party wire.Party, err error) {
	region, _, err := at.Folder.Open(at.Name+ledgerName, ledgerPurpose)
	if err != nil {
		return ledger{}, party, err
	}
	if len(region.Bytes()) != ledgerSize {
		return ledger{}, party, errors.Join(fmt.Errorf("the %s has %d bytes: %w", ledgerPurpose, len(region.Bytes()), sharedmem.ErrDamaged), region.Leave())
	}
	b := region.Bytes()[:entrySize]
	if string(b[:8]) != ledgerMagic || binary.LittleEndian.Uint64(b[8:]) != uint64(crc32.Checksum(b[16:], castagnoli)) {
		return ledger{}, party, errors.Join(fmt.Errorf("the %s does not say whose it is: %w", ledgerPurpose, sharedmem.ErrDamaged), region.Leave())
	}
	return ledger{region}, wire.DecodeWelcome(b[16:]), nil
}

func (l ledger) bytes(place int) []byte { return l.region.Bytes()[place*entrySize:][:entrySize] }

func (l ledger) word(place int) *uint64 { return (*uint64)(unsafe.Pointer(&l.bytes(place)[0])) }

// add enters a pool; false if the table is full.
func (l ledger) add(e entry) (entry, bool) {
	for place := 1; place < maxPools; place++ {
		w := atomic.LoadUint64(l.word(place))
		if w&stateMask != stateFree {
			continue
		}
		used := uint32(w)>>placeBits + 1
		e.number = used<<placeBits | uint32(place)
		b := l.bytes(place)
		clear(b[8:])
		binary.LittleEndian.PutUint32(b[8:], e.theirs)
		binary.LittleEndian.PutUint32(b[12:], uint32(len(e.client)))
		copy(b[16:], e.identity[:])
		copy(b[32:], e.epoch[:])
		copy(b[nameAt:], e.client)
		w = uint64(crc32.Checksum(b[8:], castagnoli))<<32 | uint64(used<<placeBits) | stateLive
		if e.ephemeral {
			w |= kindBit
		}
		atomic.StoreUint64(l.word(place), w)
		return e, true
	}
	return entry{}, false
}

// leave says that what belongs to the pool is garbage.
func (l ledger) leave(number uint32) { l.setState(int(number%maxPools), stateLeaving) }

// remove says that nothing of the pool is left.
func (l ledger) remove(number uint32) { l.setState(int(number%maxPools), stateFree) }

func (l ledger) setState(place int, state uint64) {
	w := l.word(place)
	atomic.StoreUint64(w, atomic.LoadUint64(w)&^stateMask|state)
}

// live returns the pools that there are, and how many entries are damaged. It changes
// nothing.
func (l ledger) live() (entries []entry, damaged int) {
	for place := 1; place < maxPools; place++ {
		w := atomic.LoadUint64(l.word(place))
		if w&stateMask != stateLive {
			continue
		}
		b := l.bytes(place)
		length := binary.LittleEndian.Uint32(b[12:])
		if uint32(w>>32) != crc32.Checksum(b[8:], castagnoli) || length == 0 || length > maxName {
			damaged++
			continue
		}
		entries = append(entries, entry{
			number:    uint32(w)>>placeBits<<placeBits | uint32(place),
			theirs:    binary.LittleEndian.Uint32(b[8:]),
			ephemeral: w&kindBit != 0,
			client:    string(b[nameAt:][:length]),
			identity:  [16]byte(b[16:]),
			epoch:     [16]byte(b[32:]),
		})
	}
	return entries, damaged
}

// settle frees the places of pools that are not live, when their pages are gone.
func (l ledger) settle(live []entry) {
	known := make(map[int]bool, len(live))
	for _, e := range live {
		known[int(e.number%maxPools)] = true
	}
	for place := 1; place < maxPools; place++ {
		if !known[place] && atomic.LoadUint64(l.word(place))&stateMask != stateFree {
			l.setState(place, stateFree)
		}
	}
}
