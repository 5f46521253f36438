package daemon

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/fault"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

// behindRules is the backend itself, behind the rules that may be before it.
func behindRules(b backends.Backend) backends.Backend {
	if wrapped, ok := b.(*fault.Backend); ok {
		return wrapped.Backend
	}
	return b
}

// showSettings lists the settings of a backend that are in force.
func showSettings(b backends.Backend) []admin.Setting {
	shown := []admin.Setting{}
	if c, ok := behindRules(b).(*zcache.Cache); ok {
		for _, s := range config.ShowZcache(c.Config()) {
			shown = append(shown, admin.Setting(s))
		}
	}
	return shown
}

// SetBackend implements admin.Service.
func (s service) SetBackend(name string, settings []admin.Setting) (admin.Backend, error) {
	b, found := findBackend(s.d.frontswap, name)
	if !found {
		return admin.Backend{}, notLoaded(name)
	}
	c, ok := behindRules(b.Backend).(*zcache.Cache)
	if !ok {
		return admin.Backend{}, &admin.Error{
			Status: http.StatusBadRequest, Message: fmt.Sprintf("backend %s, a %s, has no settings", name, b.Kind), Hint: listHint,
		}
	}
	err := c.Update(func(now zcache.Config) (zcache.Config, error) { return s.settings(now, settings) })
	var wrong *cli.Error
	switch {
	case errors.As(err, &wrong):
		return admin.Backend{}, &admin.Error{Status: http.StatusBadRequest, Message: wrong.Problem, Hint: wrong.Hint}
	case err != nil:
		return admin.Backend{}, &admin.Error{
			Status: http.StatusBadRequest, Message: err.Error(), Hint: "tmemctl backend show " + name + " shows the settings in force",
		}
	}
	// For a process that takes over; without memory that outlives this one it does
	// nothing.
	if err := s.d.frontswap.RecordAgain(); err != nil {
		s.d.log.Error("a process that takes over would find the backend as it was set before", "backend", name, "error", err)
	}
	s.d.log.Info("backend set", "backend", name, "settings", settings)
	if b, found = findBackend(s.d.frontswap, name); !found {
		return admin.Backend{}, notLoaded(name)
	}
	return showBackend(b), nil
}

// settings applies changes to a configuration: all, or the first that is wrong is
// the error.
func (s service) settings(c zcache.Config, changes []admin.Setting) (zcache.Config, error) {
	if len(changes) == 0 {
		return c, cli.Misuse("write KEY=VALUE, such as codec=zstd", "nothing to set")
	}
	seen := map[string]bool{}
	for _, change := range changes {
		if seen[change.Key] {
			return c, cli.Misuse("give it once", "%s is there twice", change.Key)
		}
		seen[change.Key] = true
		if wrong := config.SetZcache(&c, config.Setting(change), s.d.options.RAM); wrong != nil {
			return c, wrong
		}
	}
	if wrong := config.CheckZcache(c); wrong != nil {
		return c, wrong
	}
	return c, nil
}
