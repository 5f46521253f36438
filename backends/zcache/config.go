package zcache

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/pressure"
)

// Config says what [New] makes, and what [Cache.Configure] changes. Zero values
// mean the defaults.
type Config struct {
	// Limit bounds the memory for pages, in bytes: at least [arena.ChunkSize],
	// and sensibly many times that, since every size in use holds a chunk. With
	// SelfSizing it is the most that the pool may ever take; see Cache.Limit.
	Limit int64

	// SelfSizing lets the pool shrink while the host is short of memory, and grow
	// back, as package pressure says. It needs a host to evict to.
	SelfSizing bool

	// Floor is what SelfSizing leaves at least, in bytes, up to Limit. By default
	// a quarter of Limit.
	Floor int64

	// Capacity is the highest Limit there can ever be; it costs address space
	// only. By default the memory of the machine, or Limit if that is more. It
	// cannot be changed.
	Capacity int64

	// Codec compresses new pages: LZ4 (the default) or Zstd.
	Codec Codec

	// Staging bounds the pages that are acknowledged as they came and compressed
	// behind, in bytes of the pool, up to 64 MiB. By default 1/16 of Limit; less
	// than 0 compresses every page in line.
	Staging int64

	// KeepIncompressible keeps pages that do not compress as they are, so that
	// pages go to the next place in the order of their age and not by what is in
	// them; as zswap does since 6.18. By default they are refused. Without a host,
	// which could evict them, they are refused in any case.
	KeepIncompressible bool

	// AcceptPercent: once the pool is full, nothing is accepted until no more
	// than so much is in use of what was when it filled; 1 to 100, by default 90,
	// as in zswap. 100 accepts again at once.
	AcceptPercent int

	// Cold is how long nobody has to use a page before it is recompressed with
	// zstd. By default 10 minutes; less than 0 never recompresses.
	Cold time.Duration

	// ColdPercent is what recompression may take of one processor; 1 to 100, by
	// default 10.
	ColdPercent int

	// Scrub is the time in which the scrubber reads the whole pool once. By
	// default 6 hours; less than 0 never scrubs.
	Scrub time.Duration

	// Pressure says how short of memory the host is, for SelfSizing. By default
	// [pressure.Host]. Its type is comparable; it cannot be changed.
	Pressure pressure.Source `json:"-"`

	// Memory says where pages are kept: by default in memory that ends with the
	// process. It cannot be changed.
	Memory arena.Place `json:"-"`

	// Log gets what happens in the background and needs somebody to look at it:
	// damaged pages, evictions that fail. By default nobody does. It cannot be
	// changed.
	Log *slog.Logger `json:"-"`
}

const (
	maxStaging           = 64 << 20
	defaultAcceptPercent = 90
	defaultCold          = 10 * time.Minute
	defaultColdPercent   = 10
	defaultScrub         = 6 * time.Hour
)

// withDefaults fills in the defaults, but for Limit, which has none, and for
// Staging and Floor, which stay relative to Limit while they are 0.
func (c Config) withDefaults() Config {
	if c.Capacity == 0 {
		c.Capacity = max(c.Limit, pressure.Installed())
	}
	if c.Codec == 0 {
		c.Codec = LZ4
	}
	if c.AcceptPercent == 0 {
		c.AcceptPercent = defaultAcceptPercent
	}
	if c.Cold == 0 {
		c.Cold = defaultCold
	}
	if c.ColdPercent == 0 {
		c.ColdPercent = defaultColdPercent
	}
	if c.Scrub == 0 {
		c.Scrub = defaultScrub
	}
	if c.Pressure == nil {
		c.Pressure = pressure.Host()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	switch {
	case c.Limit < arena.ChunkSize || c.Limit > c.Capacity:
		return fmt.Errorf("limit of %d bytes is outside %d to the capacity of %d", c.Limit, arena.ChunkSize, c.Capacity)
	case c.Floor < 0 || c.Floor > c.Limit:
		return fmt.Errorf("floor of %d bytes is outside 0 to the limit of %d", c.Floor, c.Limit)
	case c.Codec != LZ4 && c.Codec != Zstd:
		return fmt.Errorf("codec %v does not compress new pages", c.Codec)
	case c.AcceptPercent < 1 || c.AcceptPercent > 100:
		return fmt.Errorf("accept threshold of %d %% is outside 1 to 100", c.AcceptPercent)
	case c.ColdPercent < 1 || c.ColdPercent > 100:
		return fmt.Errorf("share of %d %% of a processor is outside 1 to 100", c.ColdPercent)
	}
	return nil
}

// FloorBytes is Floor, or what it is by default.
func (c *Config) FloorBytes() int64 {
	if c.Floor != 0 {
		return c.Floor
	}
	return max(arena.ChunkSize, c.Limit/4)
}

// StagingBytes is Staging, or what it is by default, and 0 if nothing is staged.
func (c *Config) StagingBytes() int64 {
	share := c.Staging
	if share == 0 {
		share = c.Limit / 16
	}
	return max(0, min(share, maxStaging))
}

// settings is the configuration in force. It is replaced as a whole.
type settings struct {
	Config
	limit int64 // what the pool may take now: Limit, or less with SelfSizing
}

// stagingPages is how many pages the staging share has room for.
func (s *settings) stagingPages() int64 { return s.StagingBytes() / backends.PageSize }

// lowChunks is how many chunks are to be free: a twentieth, at least one.
func (s *settings) lowChunks() int { return max(1, int(s.limit/arena.ChunkSize/20)) }

// Config returns the settings in force, with the defaults filled in.
func (c *Cache) Config() Config { return c.config.Load().Config }

// Limit is what the pool may take at the moment, in bytes: Config.Limit, or what
// is left of it while the host is short of memory.
func (c *Cache) Limit() int64 { return c.config.Load().limit }

// Configure changes the settings while the cache works, all or none; start from
// [Cache.Config]. Pages stay as they are: they keep the codec they were written
// with. If Limit goes below what is held, stores are refused and pages evicted in
// the background until it fits.
func (c *Cache) Configure(config Config) error {
	return c.Update(func(Config) (Config, error) { return config, nil })
}

// Update is Configure with what change makes of the settings in force, without
// others' changes in between. An error of change changes nothing and is returned
// as it is.
func (c *Cache) Update(change func(Config) (Config, error)) error {
	c.exportsMu.Lock()
	defer c.exportsMu.Unlock()
	if c.closed {
		return fmt.Errorf("configure zcache: it is closed")
	}
	old := c.config.Load()
	config, err := change(old.Config)
	if err != nil {
		return err
	}
	config = config.withDefaults()
	if config.Capacity != old.Capacity || config.Memory != old.Memory || config.Log != old.Log || config.Pressure != old.Pressure {
		return fmt.Errorf("configure zcache: the capacity, the memory, the log and the source of pressure stay as they were made")
	}
	if err := config.validate(); err != nil {
		return fmt.Errorf("configure zcache: %w", err)
	}
	next := settings{config, config.Limit}
	if config.SelfSizing && old.limit < old.Config.Limit {
		// The host is still short of memory: the operator's word is about the bounds.
		next.limit = min(max(old.limit, config.FloorBytes()), config.Limit)
	}
	if err := c.applyLocked(&next); err != nil {
		return fmt.Errorf("configure zcache: %w", err)
	}
	return nil
}

// applyLocked REQUIRES: exportsMu held, or nobody else knows c.
func (c *Cache) applyLocked(next *settings) error {
	if next.Codec == Zstd {
		if _, err := c.zstd.get(); err != nil {
			return err
		}
	}
	if err := c.arena.SetLimit(next.limit); err != nil {
		return err
	}
	c.config.Store(next)
	c.limitMoved()
	return nil
}

// SetLimit changes Config.Limit.
func (c *Cache) SetLimit(bytes int64) error {
	config := c.Config()
	config.Limit = bytes
	return c.Configure(config)
}

// SetCodec changes Config.Codec.
func (c *Cache) SetCodec(codec Codec) error {
	config := c.Config()
	config.Codec = codec
	return c.Configure(config)
}
