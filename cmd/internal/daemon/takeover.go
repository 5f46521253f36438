package daemon

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/frontswap"
)

// takeOver takes over what a process that did not end properly has left in memory:
// backends, page maps and what was under way. loaded says whether that process had
// loaded the backends of the configuration. Until frontswap's Resume nothing that
// was left is changed.
func (d *Daemon) takeOver() (loaded bool, err error) {
	start := time.Now()
	r, err := d.restore()
	if err != nil {
		return false, d.takeoverError(err)
	}
	for i, e := range d.exports {
		if !e.takeover {
			continue
		}
		s, _, err := d.openStorage(e.Export, false, true)
		if err != nil {
			return false, d.config.Fault(fmt.Sprintf("export[%d].storage", i), cureStorage(err), err)
		}
		if err := d.openDevice(e, s, false); err != nil {
			return false, d.takeoverError(err)
		}
	}
	t, err := d.frontswap.Resume()
	if err != nil {
		return false, d.takeoverError(err)
	}
	d.touchBackends()
	keep := map[string]bool{recordName: true}
	for _, e := range d.exports {
		if e.takeover {
			e.device.Resume()
			if e.emptied {
				if err := e.device.Empty(); err != nil {
					return false, d.takeoverError(err)
				}
				d.log.Warn("a restore did not come to its end; the export is empty, as it was before", "export", e.Name)
			}
			e.device.SetWritethrough(e.Writethrough)
			keep[frontswap.MapName(e.id)] = true
		}
	}
	for _, b := range r.Backends {
		for _, rest := range kinds[b.Kind].files {
			keep[b.Files+rest] = true
		}
		if b.state() == frontswap.StateDraining {
			d.draining = append(d.draining, b.Name)
		}
	}
	if err := d.memory.RemoveExcept(func(name string) bool { return keep[name] || d.isLent(name) }); err != nil {
		d.log.Warn("memory files that nobody needs stay", "error", err)
	}
	what := "took over from a tmemd that did not end properly"
	if d.options.Heir.runs() {
		what = "upgraded: took over from the program before"
	}
	d.log.Info(what,
		"pages", t.Pages, "backends", len(r.Backends), "orphans", t.Orphans, "seconds", time.Since(start).Round(time.Microsecond).Seconds())
	if t.Lost+t.Rescued > 0 {
		d.log.Error("pages in memory were not found again: those that storage has too are read from there, the others are I/O errors until they are written anew",
			"lost", t.Lost, "on_storage", t.Rescued)
	}
	return r.Complete, nil
}

// touchBackends takes the memory of backends that were taken over, as it is taken of
// those that are loaded. Without it they serve all the same.
func (d *Daemon) touchBackends() {
	if !d.config.Touch {
		return
	}
	for _, b := range d.frontswap.Backends() {
		inner := behindRules(b.Backend)
		touch := kinds[inner.Kind()].touch
		if touch == nil {
			continue
		}
		if err := touch(inner); err != nil {
			d.log.Warn("memory of a backend is taken as it is used, not beforehand", "backend", b.Name, "error", err)
		}
	}
}

// restore opens the recorded backends and registers them.
func (d *Daemon) restore() (record, error) {
	var r record
	var err error
	if d.record, _, err = d.memory.Open(recordName, recordPurpose); err != nil {
		return r, err
	}
	if r, err = readRecord(d.record.Bytes()); err != nil {
		return r, err
	}
	d.complete.Store(r.Complete)
	var list []frontswap.Registered
	for _, b := range r.Backends {
		made, err := d.reopen(b)
		if err != nil {
			return r, errors.Join(err, closeAll(list))
		}
		list = append(list, frontswap.Registered{
			Name: b.Name, Owner: b.Owner, Order: b.Order, State: b.state(), Reason: b.Reason, Backend: d.faults.backend(b.Name, made),
		})
	}
	if err := d.frontswap.Restore(list); err != nil {
		return r, errors.Join(fmt.Errorf("%w: %w", sharedmem.ErrDamaged, err), closeAll(list))
	}
	return r, nil
}

// closeAll closes backends that were opened and not changed.
func closeAll(list []frontswap.Registered) error {
	var errs []error
	for _, b := range list {
		errs = append(errs, b.Backend.Close())
	}
	return errors.Join(errs...)
}

// takeoverError says that what was left in memory cannot be used, why, and what to
// do about it.
func (d *Daemon) takeoverError(err error) error {
	var known *cli.Error
	if errors.As(err, &known) {
		return err
	}
	hint := "tmemd check --state-dir " + d.config.StateDir + " tells more; " + freshHint
	switch {
	case errors.Is(err, sharedmem.ErrOtherVersion):
		hint = "start the version that was running, and stop it properly (SIGTERM) before changing versions; or " + freshHint
	case errors.Is(err, sharedmem.ErrFolderInUse):
		hint = "stop the process that uses it"
	case errors.Is(err, os.ErrNotExist):
		hint = "the pages are gone: " + freshHint
	}
	return cli.Failure(hint, "the tmemd that used %s did not end properly, and the pages that it had in memory cannot be taken over: %v",
		d.config.StateDir, strings.ReplaceAll(err.Error(), "\n", "; "))
}

// goOnDraining unloads the backends that were being unloaded.
func (d *Daemon) goOnDraining() {
	for _, name := range slices.Clone(d.draining) {
		if _, err := d.moves.unload(name); err != nil {
			d.log.Warn("a backend that was being unloaded stays", "backend", name, "error", err)
		}
	}
	d.draining = nil
}

// lost counts the pages that a takeover did not find, by now.
func (d *Daemon) lost() (pages int64) {
	for _, e := range d.list() {
		pages += e.device.Stats().Area.Lost
	}
	return pages
}
