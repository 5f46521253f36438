package frontswap

import "github.com/tmemd/tmemd/backends"

// Owner says where the newest copy of a page is.
type Owner uint8

// Owners, as the page map stores them. The numbers are the map's format.
const (
	// OwnerNone: nobody has written the page since the area was opened; storage
	// has whatever it had before.
	OwnerNone Owner = 0
	// OwnerStorage: storage has the page.
	OwnerStorage Owner = 1
	// OwnerHole: the page reads as zeros; what storage has is dead.
	OwnerHole Owner = 2

	firstBackendOwner Owner = 3

	// MaxBackends is how many backends can be registered at once.
	MaxBackends = 15

	// OwnerLost: a backend had the page, and did not have it any more when a process
	// took over from another. Reading it is an error until it is written or dropped.
	OwnerLost Owner = firstBackendOwner + MaxBackends

	owners = int(OwnerLost) + 1
)

// backendSlot is the index of the backend that o names; ok is false if o is
// not a backend.
func (o Owner) backendSlot() (slot int, ok bool) {
	return int(o) - int(firstBackendOwner), o >= firstBackendOwner && o < OwnerLost
}

// wordSize is what a word takes, in bytes.
const wordSize = 8

// word is one entry of the page map: all that is known about a page.
//
//	bit  0–47  the owner's handle, if that is a backend; a shadow, if it is storage
//	bit 48–52  the owner
//	bit 53     synced: storage has an identical copy of what the backend has
//	bit 54     referenced: stored or loaded since the last look for cold pages
//	bit 55–63  always 0
//
// A word of 0 is "nobody yet", so that a fresh map is a valid one.
type word uint64

const (
	synced     word = 1 << 53
	referenced word = 1 << 54
	unused     word = 1<<64 - 1<<55

	handleMask = 1<<backends.HandleBits - 1
	ownerShift = backends.HandleBits
	ownerMask  = 1<<5 - 1
)

// makeWord makes the word of a page that has just been put there.
func makeWord(o Owner, h backends.Handle) word {
	return word(o)<<ownerShift | word(h)&handleMask
}

// isWord says whether w can be a word at all: what else is in a map is damage.
func (w word) isWord() bool { return w&unused == 0 && int(w.owner()) < owners }

func (w word) owner() Owner            { return Owner(w >> ownerShift & ownerMask) }
func (w word) handle() backends.Handle { return backends.Handle(w & handleMask) }
