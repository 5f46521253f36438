package daemon

import (
	"errors"
	"net/http"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/fault"
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
	inner := behindRules(b)
	for _, s := range kinds[inner.Kind()].show(inner) {
		shown = append(shown, admin.Setting(s))
	}
	return shown
}

// settingsOf are the settings of a request.
func settingsOf(asked []admin.Setting) []config.Setting {
	settings := make([]config.Setting, 0, len(asked)+1)
	for _, s := range asked {
		settings = append(settings, config.Setting(s))
	}
	return settings
}

// badSetting is what a request is told that something is wrong with.
func badSetting(wrong *cli.Error) *admin.Error {
	return &admin.Error{Status: http.StatusBadRequest, Message: wrong.Problem, Hint: wrong.Hint}
}

// SetBackend implements admin.Service.
func (s service) SetBackend(name string, settings []admin.Setting) (admin.Backend, error) {
	b, found := findBackend(s.d.frontswap, name)
	if !found {
		return admin.Backend{}, notLoaded(name)
	}
	inner := behindRules(b.Backend)
	err := kinds[inner.Kind()].set(inner, settingsOf(settings), s.d.options.RAM)
	var wrong *cli.Error
	switch {
	case errors.As(err, &wrong):
		return admin.Backend{}, badSetting(wrong)
	case err != nil:
		return admin.Backend{}, &admin.Error{
			Status: http.StatusBadRequest, Message: err.Error(), Hint: "tmemctl backend show " + name + " shows the settings in force",
		}
	}
	s.d.recordSettings(name)
	s.d.log.Info("backend set", "backend", name, "settings", settings)
	if b, found = findBackend(s.d.frontswap, name); !found {
		return admin.Backend{}, notLoaded(name)
	}
	return showBackend(b), nil
}

// recordSettings notes how a backend is set now, for a process that takes over; without
// memory that outlives this one it does nothing.
func (d *Daemon) recordSettings(name string) {
	if err := d.frontswap.RecordAgain(); err != nil {
		d.log.Error("a process that takes over would find the backend as it was set before", "backend", name, "error", err)
	}
}
