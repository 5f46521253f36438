package daemon

import (
	"log/slog"
	"maps"
	"slices"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/zcache"
)

// kinds is the list of backends that can be loaded: how each is made with a
// limit in bytes. It is all that there is to registering a kind.
var kinds = map[string]func(limit int64, log *slog.Logger) (backends.Backend, error){
	zcache.Kind: func(limit int64, log *slog.Logger) (backends.Backend, error) {
		return zcache.New(zcache.Config{Limit: limit, Log: log})
	},
}

// Kinds lists the kinds of backends.
func Kinds() []string { return slices.Sorted(maps.Keys(kinds)) }
