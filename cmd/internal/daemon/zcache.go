package daemon

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

var zcacheKind = kind{
	create: func(c config.Backend, s site) (backends.Backend, error) {
		settings := c.Zcache
		settings.Memory, settings.Log = s.at, s.log
		return zcache.New(settings)
	},
	reopen: func(settings json.RawMessage, s site) (backends.Backend, error) {
		var c zcache.Config
		if err := decodeSettings(zcache.Kind, settings, &c); err != nil {
			return nil, err
		}
		c.Memory, c.Log = s.at, s.log
		return zcache.Open(c)
	},
	describe: func(b backends.Backend) (string, any) {
		c := b.(*zcache.Cache).Config()
		return c.Memory.Name, c
	},
	files:   []string{".arena", ".chunks"},
	orphans: func(b backends.Backend) int64 { return b.(*zcache.Cache).Orphans() },
	show: func(b backends.Backend) []config.Setting {
		return config.ZcacheSettings().Show(b.(*zcache.Cache).Config())
	},
	set: func(b backends.Backend, changes []config.Setting, ram int64) error {
		return b.(*zcache.Cache).Update(func(now zcache.Config) (zcache.Config, error) {
			changed, wrong := config.ZcacheSettings().SetAll(now, changes, ram)
			if wrong != nil {
				return now, wrong
			}
			return changed, nil
		})
	},
	touch: func(b backends.Backend) error { return b.(*zcache.Cache).Touch() },
}

// decodeSettings reads what a kind's describe returned in an earlier process.
func decodeSettings(kind string, settings json.RawMessage, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(settings))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("settings of %s: %w", kind, err)
	}
	return nil
}
