package backends

import (
	"context"
	"errors"

	"github.com/tmemd/tmemd/backends/sharedmem"
)

// PageSize is the unit of everything that a backend stores: 4096 bytes.
const PageSize = 4096

const (
	// HandleBits is how many low bits of a [Handle] the page map keeps.
	HandleBits = 48
	// MaxPages bounds the pages of one export, and so the page number in a
	// [Key]: 2^40 pages are 4 PiB.
	MaxPages = 1 << 40
)

// Handle is a backend's own name for a stored page. Only the backend that made
// it can read it; the page map keeps it in HandleBits bits and gives it back.
// A handle is valid from the Store that returned it to the Invalidate that
// names it, and no two live pages of one backend share one unless the handle
// itself is the data (a same-filled page).
type Handle uint64

// Key says which page of which export is meant. A backend stores it beside the
// data, so that a load proves that it found the right page.
type Key struct {
	Export uint32 // stable number of the export
	Page   uint64 // page number within the export, below MaxPages
}

// Refusal says why a backend did not take a page. A refusal is normal: the
// page goes on to the next backend, then to storage.
type Refusal uint8

// The reasons for a refusal. Accepted is the zero value: not refused.
const (
	Accepted         Refusal = iota
	RefusedFull              // the pool is at its limit
	RefusedPoor              // the page does not compress well enough
	RefusedBusy              // no working memory is free at this instant
	RefusedUnmanaged         // the export was not initialised here
	RefusedFault             // a rule of fault injection said so
	RefusedMean              // the page compresses, but pages here compress badly on average and it is one of those
	RefusedOnce              // a page of an ephemeral export that was offered once would take the place of others
	Refusals                 // the number of values above, for arrays indexed by reason
)

// String returns the reason as metrics and the admin API spell it.
func (r Refusal) String() string {
	switch r {
	case Accepted:
		return "accepted"
	case RefusedFull:
		return "full"
	case RefusedPoor:
		return "compress_poor"
	case RefusedBusy:
		return "busy"
	case RefusedUnmanaged:
		return "unmanaged"
	case RefusedFault:
		return "fault"
	case RefusedMean:
		return "mean_compress_poor"
	case RefusedOnce:
		return "offered_once"
	}
	return "unknown"
}

// ErrCorrupt is what Load wraps when the bytes found are not the page that was
// stored: a checksum, a key or a length disagrees.
var ErrCorrupt = errors.New("stored page is corrupt")

// ErrGone is what Load of a page of an ephemeral export wraps when the backend has
// forgotten the page: a miss, which is normal and costs no memory to report.
var ErrGone = errors.New("page is not there any more")

// ErrTransient is what Store and Load wrap when they failed for a reason that
// goes away by itself. The backend stays in use.
var ErrTransient = errors.New("backend is not available for the moment")

// Export describes an export to [Backend.Init].
type Export struct {
	ID    uint32
	Name  string
	Pages uint64

	// Ephemeral makes the pages ones that the backend may forget, see the package
	// comment. Numbers of ephemeral exports and of others are distinct.
	Ephemeral bool

	// Dedup, if it is not 0, lets the backend keep identical pages of all exports with
	// the same number once. Exports of different numbers, and those with 0, share
	// nothing. The number has no meaning beyond the process.
	Dedup uint32

	// Host is the same for all ephemeral exports of a backend, and for all others;
	// nil where nobody serves one.
	Host Host
}

// Host is whoever loaded a backend, as far as the backend may turn to it, from
// goroutines of its own, from Init to the end of InvalidateArea. Never from
// inside a method of Backend, and never with a lock held that such a method
// takes: the host holds its own locks when it calls those.
type Host interface {
	// Rehandle gives a page a new handle: after a backend has moved or
	// recompressed its copy. If the page still has the handle old, next is called
	// while nobody can load, store or invalidate the page; the handle that it
	// returns replaces old, and old is then the backend's to forget, without an
	// Invalidate. Rehandle returns false, and changes nothing, if the page has
	// another handle or is in use just now (it never waits), or if next returns
	// false.
	Rehandle(key Key, old Handle, next func() (Handle, bool)) bool

	// Evict moves up to n of the backend's pages to the next place, coldest first,
	// with an Invalidate for each, and returns how many it moved. It waits for
	// storage. An error is storage's; pages that were not moved stay.
	Evict(ctx context.Context, n uint64) (uint64, error)

	// Refaults counts the pages that Evict moved to storage and that were loaded
	// from there soon after: so soon that they would still be in memory had the
	// backend half as much again. A backend whose pages come straight back is to
	// evict less.
	Refaults() uint64

	// Owed reports that exports which have a right to more memory of the backend
	// want it, and others are to give it up: pages are to be evicted even if they
	// come straight back.
	Owed() bool
}

// Backend holds pages for frontswap. The package comment is its manual: life
// cycle, outcomes, threads, and the numbered rules that the comments here cite.
type Backend interface {
	// Kind names the implementation ("zcache"), in lower case.
	Kind() string

	// Local reports whether Store and Load return without waiting for a disk or
	// a network. Constant for the life of the backend.
	Local() bool

	// Adopt says whether handle names a live copy of the page that this backend
	// has from an earlier process, and keeps it. It answers true once for each such
	// copy. A backend whose memory ends with the process answers false, except for
	// handles that are the data. Called from one goroutine, before the first Init.
	Adopt(key Key, handle Handle) bool

	// Adopted ends adoption: copies that nobody adopted are forgotten, and their
	// number returned. It is called once, if anything may have been adopted, before
	// the first Init. Until then nothing that an earlier process left is changed,
	// and Load serves what was adopted. An error means that the backend is of no use.
	Adopted() (orphans uint64, err error)

	// Init prepares for pages of the export. It is called once for each export
	// before the first Store for it, and again after InvalidateArea if the
	// export is opened anew. An error leaves nothing behind.
	Init(Export) error

	// Store copies data, of PageSize bytes, and returns a handle for it, or a
	// reason not to, or an error if the backend itself failed. Exactly one of
	// the three is meaningful: err != nil is failed, a Refusal other than
	// Accepted is refused, otherwise the page is stored. It does not replace: an
	// older copy of the same key is a handle of its own, which the caller
	// invalidates afterwards (beforehand, if the export is ephemeral). data is not
	// retained or changed.
	Store(key Key, data []byte) (Handle, Refusal, error)

	// Load fills dst, of PageSize bytes, with the page that Store was given, and
	// keeps it. An error means that dst holds nothing of use; ErrCorrupt is in
	// its chain if the copy is damaged, ErrGone if the page was forgotten.
	Load(key Key, handle Handle, dst []byte) error

	// Pack returns the page in the form in which it is kept, copied to dst, of
	// PageSize bytes. It may wait as Load may. An error is as one of Load's; that the
	// data is the page that the checksum names is left to whoever decodes it.
	Pack(key Key, handle Handle, dst []byte) (Packed, error)

	// Unpack is Store of a page that is packed, by any backend. It is kept as it is if
	// this backend has its encoding. ErrCorrupt is in the chain of the error for one
	// that does not decode to the page that its checksum names; nothing else about
	// it is believed.
	Unpack(key Key, p Packed) (Handle, Refusal, error)

	// Invalidate forgets the page. It never blocks and cannot fail. The handle
	// must be live, or be of an ephemeral export and have been forgotten.
	Invalidate(key Key, handle Handle)

	// InvalidateArea forgets the export: the end of what Init began. Every page
	// of the export has been invalidated before.
	InvalidateArea(export uint32)

	// Used is the memory that the export's pages take here, in bytes: the
	// backend's own, overhead of a page included, but for pages whose handle is the
	// data. 0 for exports that are not initialised, and for ephemeral ones. It takes
	// no lock.
	Used(export uint32) uint64

	// Room is how many bytes pages can still take before they are refused as
	// RefusedFull, about; ephemeral pages, which give way, count as room. It takes no
	// lock.
	Room() uint64

	// Stats returns a snapshot, cheap enough for each metrics scrape.
	Stats() Stats

	// Close gives all memory back. The caller has invalidated every page and
	// every area, and calls nothing afterwards but Stats.
	Close() error
}

// Named is a backend under the name that an operator gave it.
type Named struct {
	Name    string
	Backend Backend
}

// Stats is a backend's account of itself. Bytes are plain bytes.
type Stats struct {
	Pages           uint64           // pages held, same-filled ones included
	EphemeralPages  uint64           // of these, pages of ephemeral exports
	SameFilledPages uint64           // of Pages, pages that cost no memory beyond the map word
	StoredBytes     uint64           // bytes of page data after compression
	HeldBytes       uint64           // memory taken from the system for them, overhead included
	LimitBytes      uint64           // HeldBytes stays at or below this, but for the time after it was lowered; 0 means no limit
	MaxBytes        uint64           // the highest LimitBytes of a backend that sizes itself; else LimitBytes
	Stall           float64          // share of the time, 0 to 1, that tasks of this host waited for memory lately, as far as the backend looks
	Incompressible  uint64           // of Pages, those kept as they came because they do not compress
	SharedPages     uint64           // of Pages, those that are kept together with identical ones
	SharedContents  uint64           // what is kept for SharedPages
	SharedSaved     uint64           // bytes that SharedPages take less than by themselves, about
	Refused         [Refusals]uint64 // by reason; index Accepted counts accepted stores
	CorruptLoads    uint64           // loads that failed with ErrCorrupt
	Moved           [Movements]uint64
	Codecs          []CodecStats // the pages that are not same-filled, by encoding
	Memory          []sharedmem.Usage
}
