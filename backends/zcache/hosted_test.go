package zcache_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
)

// restless is a configuration in which everything in the background happens all
// the time.
func restless(limit int64) zcache.Config {
	return zcache.Config{Limit: limit, Staging: limit / 4, Cold: 2 * time.Millisecond, ColdPercent: 100, Scrub: 5 * time.Millisecond}
}

func newWith(t testing.TB, config zcache.Config) *zcache.Cache {
	t.Helper()
	c, err := zcache.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestHosted takes turns with three configurations.
func TestHosted(t *testing.T) {
	var made atomic.Uint64
	backendtest.RunHosted(t, func(t *testing.T) backends.Backend {
		config := restless(2 << 20)
		switch made.Add(1) % 3 {
		case 0:
			config = zcache.Config{Limit: 10 << 20}
		case 1:
			config.Codec = zcache.Zstd
		}
		return newWith(t, config)
	})
}
