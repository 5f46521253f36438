package backends

// Movement is something that becomes of a page after a store was decided, or of
// the pool. [Stats] counts each. A backend that never does such a thing counts
// nothing there.
type Movement uint8

// The movements.
const (
	MovedStaged     Movement = iota // stored as it came, to be compressed behind
	MovedInline                     // compressed in line because the share for pages as they came was taken
	MovedBehind                     // compressed behind
	MovedKeptRaw                    // found incompressible, and kept as it came
	MovedCold                       // recompressed because nobody used it
	MovedColdPoor                   // recompressed without a gain, and left as it was
	MovedCompacted                  // copied so that memory can be given back
	MovedEvicted                    // evicted to make room
	MovedDropped                    // a page of an ephemeral export, forgotten to make room
	MovedContended                  // left as it was because it was in use, or replaced, just then
	MovedRefaulted                  // evicted, and loaded from storage soon after
	EvictionFailed                  // an eviction that ended in an error; not a page
	EvictionPaused                  // evicting stopped for a while because evicted pages came straight back; not a page
	PoolFilled                      // the pool reached its limit and refuses until it has room; not a page
	PoolShrunk                      // the pool's limit went down because the host is short of memory; not a page
	PoolGrown                       // the pool's limit went up again; not a page
	ScrubbedPage                    // read in the background and found right
	ScrubbedCorrupt                 // read in the background and found damaged
	MovedShared                     // found identical to another page behind, and kept together with it
	Movements                       // the number of values above, for arrays indexed by movement
)

// String returns the movement as metrics and the admin API spell it.
func (m Movement) String() string {
	switch m {
	case MovedStaged:
		return "staged"
	case MovedInline:
		return "compressed_inline"
	case MovedBehind:
		return "compressed_behind"
	case MovedShared:
		return "shared"
	case MovedKeptRaw:
		return "kept_raw"
	case MovedCold:
		return "recompressed"
	case MovedColdPoor:
		return "recompress_poor"
	case MovedCompacted:
		return "compacted"
	case MovedEvicted:
		return "evicted"
	case MovedDropped:
		return "dropped"
	case MovedContended:
		return "contended"
	case MovedRefaulted:
		return "refaulted"
	case EvictionPaused:
		return "eviction_paused"
	case PoolShrunk:
		return "pool_shrunk"
	case PoolGrown:
		return "pool_grown"
	case EvictionFailed:
		return "eviction_failed"
	case PoolFilled:
		return "pool_limit_hit"
	case ScrubbedPage:
		return "scrubbed"
	case ScrubbedCorrupt:
		return "scrub_corrupt"
	}
	return "unknown"
}

// CodecStats counts the pages that are kept in one encoding.
type CodecStats struct {
	Name  string // "raw", "lz4", "zstd"
	Pages uint64
	Bytes uint64 // of page data in this encoding
}
