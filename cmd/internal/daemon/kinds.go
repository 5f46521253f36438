package daemon

import (
	"maps"
	"slices"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/zcache"
)

// kinds is the list of backends that can be loaded: how each is made with a
// limit in bytes. It is all that there is to registering a kind.
var kinds = map[string]func(limit int64) (backends.Backend, error){
	zcache.Kind: func(limit int64) (backends.Backend, error) { return zcache.New(zcache.Config{Limit: limit}) },
}

// Kinds lists the kinds of backends.
func Kinds() []string { return slices.Sorted(maps.Keys(kinds)) }
