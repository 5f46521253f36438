package daemon

import (
	"errors"
	"log/slog"
	"maps"
	"slices"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/zcache"
)

// kinds is the list of backends that can be loaded: how each is made with a
// limit in bytes, all of it taken at once with touch. It is all that there is to
// registering a kind.
var kinds = map[string]func(limit int64, touch bool, log *slog.Logger) (backends.Backend, error){
	zcache.Kind: func(limit int64, touch bool, log *slog.Logger) (backends.Backend, error) {
		cache, err := zcache.New(zcache.Config{Limit: limit, Log: log})
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
