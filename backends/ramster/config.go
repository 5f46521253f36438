package ramster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/pressure"
)

// Config says what [New] makes. Zero values mean the defaults.
type Config struct {
	// Pages bounds how many pages donors may have at a time. Each takes 40 bytes of
	// memory here. By default as many as 64 GiB has.
	Pages int64

	// Staging bounds the memory for pages that donors do not have yet, in bytes: at
	// least 1 MiB, by default 64 MiB.
	Staging int64

	// Home bounds the memory for pages that come home while this host has some to spare, as
	// package pressure says. By default 0: pages stay where they are.
	Home int64

	// Copies is how many donors have to have a page before it leaves the staging area,
	// 1 to MaxCopies. By default 2.
	Copies int

	// Deadline is how long a load waits for one donor before it asks another one. By
	// default 500 ms.
	Deadline time.Duration

	// Patience is how long donors may be out of reach before loads of their pages fail
	// instead of waiting. By default 20 s.
	Patience time.Duration

	// Lost is how long a donor has to be out of reach before its copies are made again
	// elsewhere. By default 30 s.
	Lost time.Duration

	// Compare is how often what a donor has is compared with what it should have, beside
	// each time that it comes back or a page is found missing. By default 10 minutes.
	Compare time.Duration

	// Rate bounds what making copies again moves, in bytes of sealed pages a second. By
	// default 32 MiB.
	Rate int64

	// Identity is who we are to donors, in this process and in later ones: one that
	// comes with another epoch makes them give up what it stored before. By default
	// random, and then they cannot.
	Identity [16]byte

	// Donors are connected to from the start. AddDonor and RemoveDonor change the list.
	Donors []Donor

	// Pressure says how short of memory this host is, for Home. By default
	// [pressure.Host].
	Pressure pressure.Source `json:"-"`

	// Memory says where pages, and what is known of those that donors have, are kept:
	// by default in memory that ends with the process.
	Memory arena.Place `json:"-"`

	// Dial connects to a donor's address: encrypted, and sure of who is there.
	Dial func(ctx context.Context, address string) (net.Conn, error) `json:"-"`

	// Log gets what needs somebody to look at it. By default nobody does.
	Log *slog.Logger `json:"-"`
}

// Donor is a donor as the operator names it.
type Donor struct {
	Name    string // 1 to MaxName bytes
	Address string // 1 to MaxAddress bytes, for Config.Dial
}

const (
	// MaxCopies bounds Config.Copies.
	MaxCopies = 4
	// MinStaging is the least for Config.Staging, in bytes.
	MinStaging = 1 << 20

	defaultPages    = 64 << 30 / backends.PageSize
	defaultStaging  = 64 << 20
	defaultCopies   = 2
	defaultDeadline = 500 * time.Millisecond
	defaultPatience = 20 * time.Second
	defaultLost     = 30 * time.Second
	defaultCompare  = 10 * time.Minute
	defaultRate     = 32 << 20
)

func (c Config) withDefaults() Config {
	if c.Pages == 0 {
		c.Pages = defaultPages
	}
	if c.Staging == 0 {
		c.Staging = defaultStaging
	}
	if c.Copies == 0 {
		c.Copies = defaultCopies
	}
	if c.Deadline == 0 {
		c.Deadline = defaultDeadline
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	if c.Lost == 0 {
		c.Lost = defaultLost
	}
	if c.Compare == 0 {
		c.Compare = defaultCompare
	}
	if c.Rate == 0 {
		c.Rate = defaultRate
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	const maxPages = 1 << 34 // 64 TiB, of which the stubs are 512 GiB
	switch {
	case c.Pages < 1 || c.Pages > maxPages:
		return fmt.Errorf("%d pages are outside 1 to %d", c.Pages, int64(maxPages))
	case c.Staging < MinStaging || c.Staging > 1<<40:
		return fmt.Errorf("a staging area of %d bytes is outside %d to %d", c.Staging, MinStaging, int64(1)<<40)
	case c.Home < 0 || c.Home > 1<<40:
		return fmt.Errorf("%d bytes for pages that come home are outside 0 to %d", c.Home, int64(1)<<40)
	case c.Copies < 1 || c.Copies > MaxCopies:
		return fmt.Errorf("%d copies are outside 1 to %d", c.Copies, MaxCopies)
	case c.Deadline < time.Millisecond || c.Lost < time.Millisecond || c.Compare < time.Millisecond:
		return fmt.Errorf("a deadline of %v, %v until a donor is lost, or %v between comparisons, is below 1 ms", c.Deadline, c.Lost, c.Compare)
	case c.Rate < backends.PageSize:
		return fmt.Errorf("a rate of %d bytes a second is less than a page", c.Rate)
	case c.Dial == nil:
		return errors.New("there is no way to connect to donors")
	}
	return nil
}

// arenaLimit is the memory for staged pages, those at home, and for stubs, in bytes, in whole chunks.
func (c Config) arenaLimit() int64 {
	limit := c.Staging + c.Home + c.Pages*stubSlot
	return (limit + arena.ChunkSize - 1) / arena.ChunkSize * arena.ChunkSize
}

// stubChunks is how many chunks of the arena are for stubs alone, a thirty-second: as many stubs as
// there are pages in the queue. While there is room for those, staged pages leave; without it none
// would any more, as their memory is free when their stubs are there, and not before.
func (c Config) stubChunks() int64 { return (c.arenaLimit()/arena.ChunkSize + 31) / 32 }
