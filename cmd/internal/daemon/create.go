package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/state"
	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/nbd"
)

// CreateExport implements admin.Service.
func (s service) CreateExport(r admin.CreateRequest) (admin.Export, error) {
	e, err := s.newExport(r)
	if err != nil {
		return admin.Export{}, err
	}
	if err := s.d.create(e); err != nil {
		return admin.Export{}, err
	}
	return s.findExport(e.Name)
}

// newExport is the export that a request asks for, not opened.
func (s service) newExport(r admin.CreateRequest) (*export, error) {
	bad := func(key string, wrong *cli.Error) error {
		return &admin.Error{Status: http.StatusBadRequest, Message: key + wrong.Problem, Hint: wrong.Hint}
	}
	r, err := s.fromTemplate(r)
	if err != nil {
		return nil, err
	}
	e := &export{created: true, Export: config.Export{Name: r.Name, SizeChosen: true, Storage: r.Storage, Client: r.Client}}
	if wrong := config.CheckExportName(r.Name); wrong != nil {
		return nil, bad("", wrong)
	}
	var wrong *cli.Error
	if e.Size, wrong = config.ExportSize(r.Size, s.d.options.RAM); wrong != nil {
		return nil, bad("size: ", wrong)
	}
	if r.Writethrough != "" {
		mode, err := parseWritethrough(r.Writethrough)
		if err != nil {
			return nil, err
		}
		e.Writethrough = mode
	}
	if _, wrong := config.CheckAccess(r.Allow, s.d.config.NBD.TLS); wrong != nil {
		return nil, bad("allow: ", wrong)
	}
	e.Allow = r.Allow
	if e.Storage == "" {
		e.Storage = s.d.folder.Path(e.Name + ".img")
	}
	if !filepath.IsAbs(e.Storage) {
		return nil, bad("storage: ", cli.Misuse("write the whole path, from the / on", "%q is not an absolute path", e.Storage))
	}
	e.Storage = filepath.Clean(e.Storage)
	return e, nil
}

// fromTemplate fills in what a request leaves to the template that it names.
func (s service) fromTemplate(r admin.CreateRequest) (admin.CreateRequest, error) {
	if r.Template == "" {
		return r, nil
	}
	t := s.d.config.Template(r.Template)
	if t == nil {
		return r, &admin.Error{
			Status: http.StatusBadRequest, Message: "there is no template " + r.Template, Hint: "[[template]] in the configuration names those that there are",
		}
	}
	r.Size, r.Client, r.Writethrough = cmp.Or(r.Size, t.Size), cmp.Or(r.Client, t.Client), cmp.Or(r.Writethrough, t.Writethrough)
	if r.Storage == "" && t.Folder != "" {
		r.Storage = filepath.Join(t.Folder, r.Name+".img")
	}
	if len(r.Allow) == 0 {
		r.Allow = t.Allow
	}
	return r, nil
}

// create opens an export and serves it. After an error it is as if nobody had
// asked.
func (d *Daemon) create(e *export) error {
	d.loading.Lock()
	defer d.loading.Unlock()
	if err := d.mayChange("creates no export"); err != nil {
		return err
	}
	if err := d.checkNew(e); err != nil {
		return err
	}
	if err := refuseContent(e.Storage); err != nil {
		return err
	}
	storage, blank, err := d.openStorage(e.Export, false, false)
	if err != nil {
		return &admin.Error{Status: http.StatusConflict, Message: err.Error(), Hint: cureNewStorage(err)}
	}
	e.id = d.newID()
	if err := d.openDevice(e, storage, blank); err != nil {
		return errors.Join(err, removeNew(e.Storage, blank))
	}
	if err := d.publish(e); err != nil {
		return errors.Join(fmt.Errorf("create export %s: %w", e.Name, err), e.device.Close(), removeNew(e.Storage, blank), d.saveState(false))
	}
	d.log.Info("export created", "export", e.Name, "bytes", e.Size, "storage", e.Storage)
	return nil
}

// publish notes a new export and serves it. After an error the caller notes again what
// there is. REQUIRES: loading held.
func (d *Daemon) publish(e *export) error {
	forgotten := d.deleted
	d.deleted = slices.DeleteFunc(slices.Clone(d.deleted), func(s state.Export) bool { return s.Name == e.Name })
	d.add(e)
	err := d.saveState(false)
	if err == nil {
		err = d.server().AddExport(e.nbd())
	}
	if err != nil {
		d.deleted = forgotten
		d.remove(e)
	}
	return err
}

// checkNew refuses an export that cannot be made: its name is taken, or there is no such
// client. REQUIRES: loading held.
func (d *Daemon) checkNew(e *export) error {
	if _, found := d.quotaOf(cmp.Or(e.Client, frontswap.DefaultClient)); !found {
		return noClient(e.Client)
	}
	return d.checkName(e.Name)
}

// checkName refuses a name that something else has. REQUIRES: loading held.
func (d *Daemon) checkName(name string) error {
	if moved, ok := d.findMoved(name); ok {
		return &admin.Error{
			Status: http.StatusConflict, Message: fmt.Sprintf("export %s was here, and moved to %s", name, moved.Moved),
			Hint: "choose another name, or forget that one: tmemctl export delete " + name,
		}
	}
	if slices.ContainsFunc(d.restoring, func(s state.Export) bool { return s.Name == name }) {
		return d.transfers.busy(name)
	}
	if slices.ContainsFunc(d.list(), func(other *export) bool { return other.Name == name }) {
		return &admin.Error{
			Status: http.StatusConflict, Message: fmt.Sprintf("there is an export %s already", name), Hint: "choose another name, or delete that one first",
		}
	}
	if slices.ContainsFunc(d.absent, func(s state.Disk) bool { return s.Name == name }) || d.findDisk(name) != nil ||
		slices.ContainsFunc(d.bases, func(s *servedBase) bool { return s.Name == name }) {
		return &admin.Error{
			Status: http.StatusConflict, Message: fmt.Sprintf("there is a disk or base %s already", name), Hint: "choose another name",
		}
	}
	return nil
}

// refuseContent keeps a new export from files that belong to somebody. What a
// device has, nobody can tell.
func refuseContent(path string) error {
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && st.Mode().IsRegular() && st.Size() == 0 || err == nil && st.Mode().Type() == os.ModeDevice {
		return nil
	}
	if err == nil && st.Mode().IsRegular() {
		err = fmt.Errorf("%s exists and is not empty", path)
	} else if err == nil {
		err = fmt.Errorf("%s is neither a file nor a block device", path)
	}
	return &admin.Error{
		Status: http.StatusConflict, Message: "storage: " + err.Error(), Hint: "remove it, or choose another path with --storage",
	}
}

func cureNewStorage(err error) string {
	if errors.Is(err, os.ErrNotExist) {
		return "make its folder first"
	}
	return cureStorage(err)
}

// removeNew removes the file that an export began with.
func removeNew(path string, blank bool) error {
	if !blank {
		return nil
	}
	return os.Remove(path)
}

func (d *Daemon) add(e *export) {
	d.exportsMu.Lock()
	defer d.exportsMu.Unlock()
	d.exports = append(d.exports, e)
}

// remove takes an export off the list. Nobody looks at its device any more when
// it returns.
func (d *Daemon) remove(e *export) {
	d.exportsMu.Lock()
	defer d.exportsMu.Unlock()
	d.exports = slices.DeleteFunc(d.exports, func(other *export) bool { return other == e })
}

// DeleteExport implements admin.Service.
func (s service) DeleteExport(name string, removeStorage bool) error {
	d := s.d
	d.loading.Lock()
	defer d.loading.Unlock()
	if err := d.mayChange("deletes no export"); err != nil {
		return err
	}
	if moved, ok := d.findMoved(name); ok {
		return d.forgetMoved(moved)
	}
	e := d.find(name)
	if e == nil {
		return noExport(name)
	}
	if err := d.transfers.busy(name); err != nil {
		return err
	}
	if removeStorage && !e.removable() {
		return &admin.Error{
			Status: http.StatusConflict, Message: fmt.Sprintf("the storage of export %s, %s, is not the daemon's to remove", name, e.Storage),
			Hint: "delete it without --remove-storage; only files of exports made by tmemctl export create are removed",
		}
	}
	return d.delete(e, removeStorage)
}

// removable says whether storage is a file that was made for the export.
func (e *export) removable() bool {
	st, err := os.Lstat(e.Storage)
	return e.created && err == nil && st.Mode().IsRegular()
}

// delete takes an export away from clients and drops its pages. Storage that
// stays is noted as not whole, as backends had pages of it.
// REQUIRES: loading held.
func (d *Daemon) delete(e *export, removeStorage bool) error {
	err := d.server().RemoveExport(e.Name)
	if errors.Is(err, nbd.ErrExportInUse) {
		return &admin.Error{
			Status: http.StatusConflict, Message: fmt.Sprintf("export %s has clients attached", e.Name),
			Hint: "let them go first: tmemctl detach, or swapoff and nbd-client -d; tmemctl status shows who they are",
		}
	}
	if err != nil {
		return err
	}
	remembered := d.deleted
	if !removeStorage {
		gone := e.state()
		gone.Created, gone.Resized, gone.Deleted, gone.Writethrough, gone.Allow = false, false, true, "", nil
		d.deleted = append(slices.Clone(d.deleted), gone)
	}
	d.remove(e)
	if err := d.saveState(false); err != nil {
		d.deleted = remembered
		d.add(e)
		return errors.Join(err, d.server().AddExport(e.nbd()))
	}
	err = e.device.Close()
	if removeStorage {
		err = errors.Join(err, os.Remove(e.Storage))
	}
	if err != nil {
		return fmt.Errorf("export %s is deleted, not without trouble: %w", e.Name, err)
	}
	d.log.Info("export deleted", "export", e.Name, "storage", e.Storage, "removed", removeStorage)
	return nil
}
