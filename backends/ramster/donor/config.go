package donor

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/pressure"
)

// Config says what [New] makes and [Open] opens. Zero values mean the defaults, where
// there are any.
type Config struct {
	// Identity is who this donor is to owners, as long as its configuration lasts.
	// Open takes the one that was, and refuses another.
	Identity [16]byte

	// Limit bounds the memory for pages and their index, in bytes: at least
	// [arena.ChunkSize] and sensibly many times that.
	Limit int64

	// Capacity is the highest Limit there can ever be; it costs address space only.
	// By default the memory of the machine, or Limit if that is more.
	Capacity int64

	// SelfSizing lets the donor follow the host's memory pressure between Floor, by
	// default a quarter of Limit, and Limit, as package pressure says. Pressure is by
	// default [pressure.Host].
	SelfSizing bool
	Floor      int64
	Pressure   pressure.Source

	// Memory says where pages are kept: by default in memory that ends with the
	// process.
	Memory arena.Place

	// Clients says who may store how much. Who is not in it is denied. See SetClients.
	Clients map[string]Grant

	// Identify says under which names the client at the other end may appear: those
	// of its certificate, or its user. It is called once for each connection, from the
	// connection's goroutine, with the deadline of the greeting set: it may shake hands.
	// An error ends the connection without a word. It has no default.
	Identify func(net.Conn) (names []string, err error)

	// MaxSessions bounds the sessions of all owners, by default 256, each of which
	// has 256 KiB for its requests and replies.
	MaxSessions int

	// HelloTimeout is how long a client has to greet, by default 10 s, and
	// WriteTimeout how long it may leave replies unread, by default 30 s.
	HelloTimeout time.Duration
	WriteTimeout time.Duration

	// Log gets what somebody should look at. By default nobody does.
	Log *slog.Logger
}

// Grant is what one client may do.
type Grant struct {
	Quota  int64 // bytes that it may use: its objects' slots and its part of the index
	Weight int64 // beside other clients, when memory is short; by default 1
}

const (
	// maxName is the length of the longest name of a client, in bytes.
	maxName = 200
	// maxOwners and maxPoolsOfClient bound what one client can have at once.
	maxOwners        = 64
	maxPoolsOfClient = 256
	// maxGreeting is how many connections may be about to greet.
	maxGreeting = 256
	maxWeight   = 1 << 20

	defaultSessions     = 256
	defaultHelloTimeout = 10 * time.Second
	defaultWriteTimeout = 30 * time.Second
)

func (c Config) withDefaults() Config {
	if c.Capacity == 0 {
		c.Capacity = max(c.Limit, pressure.Installed())
	}
	if c.Floor == 0 {
		c.Floor = max(arena.ChunkSize, c.Limit/4)
	}
	if c.Pressure == nil {
		c.Pressure = pressure.Host()
	}
	if c.MaxSessions == 0 {
		c.MaxSessions = defaultSessions
	}
	if c.HelloTimeout == 0 {
		c.HelloTimeout = defaultHelloTimeout
	}
	if c.WriteTimeout == 0 {
		c.WriteTimeout = defaultWriteTimeout
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
	case c.Floor < arena.ChunkSize || c.Floor > c.Limit:
		return fmt.Errorf("floor of %d bytes is outside %d to the limit of %d", c.Floor, arena.ChunkSize, c.Limit)
	case c.Identify == nil:
		return errors.New("there is nothing that identifies clients")
	}
	return checkGrants(c.Clients)
}

func checkGrants(clients map[string]Grant) error {
	for name, g := range clients {
		switch {
		case name == "" || len(name) > maxName:
			return fmt.Errorf("client %q: a name has 1 to %d bytes", name, maxName)
		case g.Quota < 0 || g.Weight < 0 || g.Weight > maxWeight:
			return fmt.Errorf("client %q: quota %d or weight %d is out of range", name, g.Quota, g.Weight)
		}
	}
	return nil
}
