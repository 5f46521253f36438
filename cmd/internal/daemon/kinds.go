package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"log/slog"
	"maps"
	"net"
	"slices"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/tier"
)

// kind is how backends of one kind are made, and told apart from others.
type kind struct {
	// create makes a new one as it is configured.
	create func(c config.Backend, s site) (backends.Backend, error)
	// reopen makes one of what an earlier process left at the place, with the
	// settings that describe returned there.
	reopen func(settings json.RawMessage, s site) (backends.Backend, error)
	// describe says where one keeps its memory, and with which settings.
	describe func(backends.Backend) (name string, settings any)
	// files are how the names of its memory files go on.
	files []string
	// orphans counts the copies in a reopened one that nobody has adopted.
	orphans func(backends.Backend) int64
	// show lists the settings in force.
	show func(backends.Backend) []config.Setting
	// set changes settings, all or none. An error may be a *cli.Error.
	set func(b backends.Backend, changes []config.Setting, ram int64) error
	// touch takes all of its memory; nil if it cannot be taken beforehand.
	touch func(backends.Backend) error
}

// site is where a backend is made, and what it finds there.
type site struct {
	at       arena.Place
	log      *slog.Logger
	identity [16]byte // who it is to other hosts, in this process and in later ones
	copied   bool     // storage gets a copy of each page in any case
	dial     func(ctx context.Context, address string) (net.Conn, error)
}

// kinds is the list of backends that can be loaded: all that there is to registering a
// kind, with its settings in package config.
var kinds = map[string]kind{
	zcache.Kind:  zcacheKind,
	ramster.Kind: ramsterKind,
}

// Kinds lists the kinds of backends.
func Kinds() []string { return slices.Sorted(maps.Keys(kinds)) }

func (d *Daemon) newSite(name string, at arena.Place) site {
	s := site{at: at, log: d.log, identity: d.identityOf("backend " + name), dial: d.dialDonor, copied: true}
	for _, e := range d.list() {
		mode := e.Writethrough
		if e.device != nil {
			mode = e.device.Writethrough()
		}
		s.copied = s.copied && mode != tier.WritethroughOff
	}
	return s
}

// identityOf is who a part of this daemon is to other hosts: the same for as long as
// there is the state folder.
func (d *Daemon) identityOf(part string) [16]byte {
	sum := sha256.Sum256(append(d.identity[:], part...))
	return [16]byte(sum[:])
}
