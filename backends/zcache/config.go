package zcache

import (
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
)

// Config says what [New] makes, and what [Cache.Configure] changes. Zero values
// mean the defaults.
type Config struct {
	// Limit bounds the memory for pages, in bytes: at least [arena.ChunkSize],
	// and sensibly many times that, since every size in use holds a chunk.
	Limit int64

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
// Staging, which stays relative to Limit while it is 0.
func (c Config) withDefaults() Config {
	if c.Capacity == 0 {
		c.Capacity = max(c.Limit, hostMemory())
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
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func hostMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return int64(info.Totalram) * int64(info.Unit)
}

func (c Config) validate() error {
	switch {
	case c.Limit < arena.ChunkSize || c.Limit > c.Capacity:
		return fmt.Errorf("limit of %d bytes is outside %d to the capacity of %d", c.Limit, arena.ChunkSize, c.Capacity)
	case c.Codec != LZ4 && c.Codec != Zstd:
		return fmt.Errorf("codec %v does not compress new pages", c.Codec)
	case c.AcceptPercent < 1 || c.AcceptPercent > 100:
		return fmt.Errorf("accept threshold of %d %% is outside 1 to 100", c.AcceptPercent)
	case c.ColdPercent < 1 || c.ColdPercent > 100:
		return fmt.Errorf("share of %d %% of a processor is outside 1 to 100", c.ColdPercent)
	}
	return nil
}

// stagingPages is how many pages the staging share has room for.
func (c *Config) stagingPages() int64 {
	share := c.Staging
	if share == 0 {
		share = c.Limit / 16
	}
	return max(0, min(share, maxStaging)/backends.PageSize)
}

// Config returns the settings in force, with the defaults filled in.
func (c *Cache) Config() Config { return *c.config.Load() }

// Configure changes the settings while the cache works; start from [Cache.Config].
// Pages stay as they are: they keep the codec they were written with. If Limit
// goes below what is held, stores are refused and pages evicted in the background
// until it fits.
func (c *Cache) Configure(config Config) error {
	c.exportsMu.Lock()
	defer c.exportsMu.Unlock()
	old := c.config.Load()
	config = config.withDefaults()
	if config.Capacity != old.Capacity || config.Memory != old.Memory || config.Log != old.Log {
		return fmt.Errorf("configure zcache: the capacity, the memory and the log stay as they were made")
	}
	if err := config.validate(); err != nil {
		return fmt.Errorf("configure zcache: %w", err)
	}
	return c.applyLocked(&config)
}

func (c *Cache) applyLocked(config *Config) error {
	if config.Codec == Zstd {
		if _, err := c.zstd.get(); err != nil {
			return err
		}
	}
	if err := c.arena.SetLimit(config.Limit); err != nil {
		return err
	}
	c.config.Store(config)
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
