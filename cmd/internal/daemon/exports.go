package daemon

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/state"
	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/tier"
)

// export is one export that is served.
type export struct {
	config.Export        // immutable, with the size that it begins with
	created       bool   // immutable: by a request, not by the configuration
	stale         bool   // immutable: what storage has is to be dropped at the start
	id            uint32 // immutable once it is open: its number, in memory files
	takeover      bool   // immutable: its page map is what the last run left
	resized       bool   // by a request, against the configuration; guarded by Daemon.loading once the daemon runs
	restoring     bool   // its pages are not all there yet, and do not count; guarded like resized
	emptied       bool   // immutable: what a restore that was killed left in it is dropped at the start
	shrinking     int64  // the size that it is about to have, or 0; guarded like resized

	content string       // names the content; immutable once the device is open
	device  *tier.Device // immutable once it is served
}

// size is the size in bytes that it has now.
func (e *export) size() int64 {
	if e.device == nil {
		return e.Size
	}
	size, _ := e.device.Size() // never an error
	return size
}

// overcommitted says whether the page map takes memory as pages are written: a client's
// exports may be many and mostly empty. Those of nobody in particular are swap of a host,
// where a write must not fail for want of it.
func (e *export) overcommitted() bool { return e.Client != "" && e.Client != frontswap.DefaultClient }

func (e *export) state() state.Export {
	mode := e.Writethrough
	if e.device != nil {
		mode = e.device.Writethrough()
	}
	size := e.size()
	if e.shrinking > 0 {
		size = min(size, e.shrinking)
	}
	s := state.Export{
		Name: e.Name, ID: e.id, Content: e.content, Size: size, Storage: e.Storage, Client: e.Client,
		Created: e.created, Resized: e.resized || e.shrinking > 0 && !e.created, Writethrough: mode.String(),
	}
	if e.created {
		s.Allow = e.Allow
	}
	if e.restoring {
		s.Restoring = state.RestoringPages
	}
	return s
}

func (e *export) nbd() nbd.Export {
	access, err := config.ParseAccess(e.Allow)
	if err != nil {
		// Checked before, or damaged in state.json: then better nobody.
		access = &nbd.Access{}
	}
	// tmemctl attach holds a server to the description when it reconnects.
	return nbd.Export{Name: e.Name, Description: "swap through tmemd, content " + e.content, Device: e.device, Access: access}
}

// identify gives the export's content a name: a new one, if the content is new.
func (e *export) identify(blank bool) error {
	if e.content != "" && !blank {
		return nil
	}
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return fmt.Errorf("name the content of export %s: %w", e.Name, err)
	}
	e.content = hex.EncodeToString(id[:])
	return nil
}

// list is a snapshot of the exports.
func (d *Daemon) list() []*export {
	d.exportsMu.RLock()
	defer d.exportsMu.RUnlock()
	return slices.Clone(d.exports)
}

// find returns the export of that name, or nil.
func (d *Daemon) find(name string) *export {
	list := d.list()
	i := slices.IndexFunc(list, func(e *export) bool { return e.Name == name })
	if i < 0 {
		return nil
	}
	return list[i]
}

func (d *Daemon) setWritethrough(name string, mode tier.Writethrough) error {
	d.exportsMu.RLock()
	defer d.exportsMu.RUnlock()
	for _, e := range d.exports {
		if e.Name == name {
			e.device.SetWritethrough(mode)
			return nil
		}
	}
	return noExport(name)
}

// noteSettings notes the exports' modes, unless the daemon is being stopped: then
// state.json is the stop's.
func (d *Daemon) noteSettings() {
	d.loading.Lock()
	defer d.loading.Unlock()
	if phase(d.phase.Load()) != phaseServing {
		return
	}
	if err := d.saveState(false); err != nil {
		d.log.Warn("a setting is not noted for a process that takes over", "error", err)
	}
}

func noExport(name string) *admin.Error {
	return &admin.Error{
		Status: http.StatusNotFound, Message: "there is no export " + name, Hint: "tmemctl export list shows what there is",
	}
}

// SetExport implements admin.Service.
func (s service) SetExport(name string, settings admin.ExportSettings) (admin.Export, error) {
	if settings.Writethrough != "" {
		mode, err := parseWritethrough(settings.Writethrough)
		if err != nil {
			return admin.Export{}, err
		}
		if err := s.d.setWritethrough(name, mode); err != nil {
			return admin.Export{}, err
		}
		// For a process that takes over; not worth to fail for.
		s.d.noteSettings()
	}
	return s.findExport(name)
}

func parseWritethrough(text string) (tier.Writethrough, error) {
	mode, err := tier.ParseWritethrough(text)
	if err != nil {
		return 0, &admin.Error{
			Status: http.StatusBadRequest, Message: fmt.Sprintf("writethrough: %q is no mode", text), Hint: config.WritethroughSyntax,
		}
	}
	return mode, nil
}

// findExport shows the export of that name.
func (s service) findExport(name string) (admin.Export, error) {
	for _, e := range s.Exports() {
		if e.Name == name {
			return e, nil
		}
	}
	return admin.Export{}, noExport(name)
}
