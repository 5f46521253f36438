package daemon

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/state"
	"github.com/tmemd/tmemd/nbd"
)

// listMoved is a snapshot of the exports that another daemon has.
func (d *Daemon) listMoved() []state.Export {
	d.exportsMu.RLock()
	defer d.exportsMu.RUnlock()
	return slices.Clone(d.moved)
}

func (d *Daemon) findMoved(name string) (state.Export, bool) {
	list := d.listMoved()
	i := slices.IndexFunc(list, func(m state.Export) bool { return m.Name == name })
	if i < 0 {
		return state.Export{}, false
	}
	return list[i], true
}

// movedTo is what clients are told that ask for an export which moved.
func movedTo(name, address string) string {
	return fmt.Sprintf("export %s moved to %s", name, address)
}

// movedExport is what is served of an export that moved: the word where to.
func movedExport(m state.Export) nbd.Export {
	access, err := config.ParseAccess(m.Allow)
	if err != nil {
		access = &nbd.Access{} // as in export.nbd
	}
	return nbd.Export{Name: m.Name, Refusal: movedTo(m.Name, m.Moved), Access: access}
}

// forgetMoved forgets an export that moved. Storage that was not made for it is noted as
// not whole, as that of a deleted one is. REQUIRES: loading held.
func (d *Daemon) forgetMoved(m state.Export) error {
	if err := d.server().RemoveExport(m.Name); err != nil && !errors.Is(err, nbd.ErrExportUnknown) {
		return err
	}
	remembered := d.deleted
	if err := removeMovedStorage(m); err != nil {
		d.log.Warn("storage of an export that moved is not removed", "export", m.Name, "error", err)
	}
	if _, err := os.Lstat(m.Storage); err == nil {
		gone := m
		gone.Created, gone.Moved, gone.Deleted, gone.Resized, gone.Writethrough, gone.Allow = false, "", true, false, "", nil
		d.deleted = append(slices.Clone(d.deleted), gone)
	}
	d.setMoved(func(list []state.Export) []state.Export {
		return slices.DeleteFunc(list, func(other state.Export) bool { return other.Name == m.Name })
	})
	if err := d.saveState(false); err != nil {
		d.deleted = remembered
		d.setMoved(func(list []state.Export) []state.Export { return append(list, m) })
		return errors.Join(err, d.server().AddExport(movedExport(m)))
	}
	d.log.Info("export that moved is forgotten", "export", m.Name, "to", m.Moved)
	return nil
}

func (d *Daemon) setMoved(change func([]state.Export) []state.Export) {
	d.exportsMu.Lock()
	defer d.exportsMu.Unlock()
	d.moved = change(slices.Clone(d.moved))
}

// removeMovedStorage removes a file that was made for an export which is elsewhere now.
func removeMovedStorage(m state.Export) error {
	st, err := os.Lstat(m.Storage)
	if errors.Is(err, os.ErrNotExist) || !m.Created || err == nil && !st.Mode().IsRegular() {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Remove(m.Storage)
}
