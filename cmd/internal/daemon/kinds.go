package daemon

import (
	"errors"
	"log/slog"
	"maps"
	"slices"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

// kinds is the list of backends that can be loaded: how each is made as it is
// configured, all of its memory taken at once with touch. With settings.go it is
// all that there is to registering a kind.
var kinds = map[string]func(c config.Backend, touch bool, log *slog.Logger) (backends.Backend, error){
	zcache.Kind: func(c config.Backend, touch bool, log *slog.Logger) (backends.Backend, error) {
		settings := c.Zcache
		settings.Limit, settings.Log = c.Size, log
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
}

// Kinds lists the kinds of backends.
func Kinds() []string { return slices.Sorted(maps.Keys(kinds)) }
