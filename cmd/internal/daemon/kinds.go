package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

// kind is how backends of one kind are made.
type kind struct {
	// create makes a new one as it is configured, with its memory at a place, and all
	// of that taken at once with touch.
	create func(c config.Backend, touch bool, at arena.Place, log *slog.Logger) (backends.Backend, error)
	// reopen makes one of what an earlier process left at the place, with the
	// settings that describe returned there.
	reopen func(settings json.RawMessage, at arena.Place, log *slog.Logger) (backends.Backend, error)
	// describe says where one keeps its memory, and with which settings.
	describe func(backends.Backend) (name string, settings any)
	// orphans counts the copies in a reopened one that nobody has adopted.
	orphans func(backends.Backend) int64
}

// kinds is the list of backends that can be loaded. With settings.go it is all that there is to
// registering a kind.
var kinds = map[string]kind{
	zcache.Kind: {
		create: func(c config.Backend, touch bool, at arena.Place, log *slog.Logger) (backends.Backend, error) {
			settings := c.Zcache
			settings.Limit, settings.Memory, settings.Log = c.Size, at, log
			cache, err := zcache.New(settings)
			if err != nil {
				return nil, err
			}
			if !touch {
				return cache, nil
			}
			if err := cache.Touch(); err != nil {
				return nil, errors.Join(err, cache.Close())
			}
			return cache, nil
		},
		reopen: func(settings json.RawMessage, at arena.Place, log *slog.Logger) (backends.Backend, error) {
			var c zcache.Config
			decoder := json.NewDecoder(bytes.NewReader(settings))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(&c); err != nil {
				return nil, fmt.Errorf("settings of %s: %w", zcache.Kind, err)
			}
			c.Memory, c.Log = at, log
			return zcache.Open(c)
		},
		describe: func(b backends.Backend) (string, any) {
			c := b.(*zcache.Cache).Config()
			return c.Memory.Name, c
		},
		orphans: func(b backends.Backend) int64 { return b.(*zcache.Cache).Orphans() },
	},
}

// Kinds lists the kinds of backends.
func Kinds() []string { return slices.Sorted(maps.Keys(kinds)) }
