package daemon

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/frontswap"
)

// loadConfigured loads the backends of the configuration, in its order.
func (d *Daemon) loadConfigured() error {
	for i, b := range d.config.Backends {
		if d.frontswap.Find(b.Name) != nil {
			continue // taken over from a process that died while it loaded them
		}
		if err := d.loadBackend(b); err != nil {
			hint := "choose a smaller size, or start without it and load it later"
			var told *cli.Error
			if errors.As(err, &told) {
				hint, err = told.Hint, errors.New(told.Problem)
			}
			return d.config.Fault(fmt.Sprintf("backend[%d].kind", i), hint, err)
		}
	}
	return nil
}

func (d *Daemon) loadBackend(c config.Backend) error {
	b, err := d.makeBackend(c)
	if err != nil {
		return err
	}
	if err := d.frontswap.Register(c.Name, b); err != nil {
		d.faults.forget(b)
		return errors.Join(err, b.Close())
	}
	d.lookSoon()
	return nil
}

func (d *Daemon) makeBackend(c config.Backend) (backends.Backend, error) {
	kind := kinds[c.Kind]
	b, err := kind.create(c, d.newSite(c.Name, d.newPlace(c.Name)))
	if err == nil && d.config.Touch && kind.touch != nil {
		if err = kind.touch(b); err != nil {
			err = errors.Join(err, b.Close())
		}
	}
	if err != nil {
		return nil, d.memoryError(fmt.Errorf("load backend %s: %w", c.Name, err))
	}
	if r, ok := b.(*remote); ok {
		r.list(d.log) // recorded with the rest
	}
	return d.faults.backend(c.Name, b), nil
}

// loadRequested loads a backend that the admin API asked for.
func (d *Daemon) loadRequested(c config.Backend) error {
	d.loading.Lock()
	defer d.loading.Unlock()
	if err := d.mayChange("loads no backend"); err != nil {
		return err
	}
	if d.moves.unloading(c.Name) {
		return &admin.Error{
			Status: http.StatusConflict, Message: fmt.Sprintf("backend %s is being unloaded", c.Name),
			Hint: "wait for its end (tmemctl backend list), or use another name",
		}
	}
	err := d.loadBackend(c)
	if errors.Is(err, frontswap.ErrExists) {
		return lifecycleError(err)
	}
	return err
}
