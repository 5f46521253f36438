package daemon

import (
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
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/tier"
)

// CreateDisk implements admin.Service.
func (s service) CreateDisk(r admin.DiskRequest) (admin.Disk, error) {
	if err := s.d.createDisk(r); err != nil {
		return admin.Disk{}, err
	}
	return s.showDisk(r.Name)
}

// badDisk is what a request is answered with that asks for something that cannot be.
func badDisk(key string, wrong *cli.Error) error {
	return &admin.Error{Status: http.StatusBadRequest, Message: key + wrong.Problem, Hint: wrong.Hint}
}

// createDisk serves a disk. After an error it is as if nobody had asked.
func (d *Daemon) createDisk(r admin.DiskRequest) error {
	d.loading.Lock()
	defer d.loading.Unlock()
	if err := d.mayChange("serves no other disk"); err != nil {
		return err
	}
	absent := func(s state.Disk) bool { return s.Name == r.Name }
	if slices.ContainsFunc(d.absent, absent) {
		return &admin.Error{
			Status: http.StatusConflict, Message: fmt.Sprintf("there is a disk %s already, which could not be opened", r.Name),
			Hint: "choose another name, or delete that one first: tmemctl disk delete " + r.Name,
		}
	}
	if err := d.checkName(r.Name); err != nil {
		return err
	}
	made, err := d.makeDiskFile(r)
	if err != nil {
		return err
	}
	if err := d.serveNew(r, made); err != nil {
		if made {
			if gone := os.Remove(filepath.Clean(r.Path)); gone != nil && !errors.Is(gone, os.ErrNotExist) {
				err = errors.Join(err, gone)
			}
		}
		return err
	}
	return nil
}

// makeDiskFile makes the file of a disk that is to have a size. made also says that an
// overlay is made when it is opened.
func (d *Daemon) makeDiskFile(r admin.DiskRequest) (made bool, err error) {
	path := filepath.Clean(r.Path)
	_, missing := os.Lstat(path)
	if r.Size == "" {
		return r.Base != "" && errors.Is(missing, os.ErrNotExist), nil
	}
	switch {
	case r.Base != "":
		return false, badDisk("size: ", cli.Misuse("leave it out", "an overlay is as long as its base"))
	case r.ReadOnly:
		return false, badDisk("size: ", cli.Misuse("leave one of them out", "a new file that is read only stays empty"))
	case !filepath.IsAbs(path):
		return false, badDisk("path: ", cli.Misuse("write the whole path, from the / on", "%q is not an absolute path", r.Path))
	case missing == nil:
		return false, badDisk("size: ", cli.Misuse("leave it out to serve what is there, or choose another path for a new file", "%s is there already", path))
	}
	size, wrong := config.ExportSize(r.Size, d.options.RAM)
	if wrong != nil {
		return false, badDisk("size: ", wrong)
	}
	if err := tier.CreateImage(path, uint64(size/pageSize)); err != nil {
		return false, &admin.Error{Status: http.StatusConflict, Message: "path: " + err.Error(), Hint: cureNewStorage(err)}
	}
	return true, nil
}

// serveNew opens a disk and serves it. REQUIRES: loading held.
func (d *Daemon) serveNew(r admin.DiskRequest, made bool) error {
	var exports []config.Export
	for _, e := range d.list() {
		exports = append(exports, e.Export)
	}
	var disks []config.Disk
	for _, s := range d.listDisks() {
		disks = append(disks, s.Disk)
	}
	c, wrong := d.config.NewDisk(config.DiskEntry{
		Name: r.Name, Path: r.Path, ReadOnly: r.ReadOnly, Base: r.Base, Shared: r.Shared, Mode: r.Mode, Allow: r.Allow,
	}, exports, disks)
	if wrong != nil {
		return badDisk("", wrong)
	}
	device, err := d.openDisk(c, d.newDiskID())
	if err != nil {
		return &admin.Error{Status: http.StatusConflict, Message: fmt.Sprintf("disk %s: %v", c.Name, err), Hint: cureDisk(err)}
	}
	s := d.newServed(c, device)
	s.created, s.made = true, made
	d.putDisk(len(d.listDisks()), s)
	err = d.saveState(false)
	if err == nil {
		err = d.server().AddExport(s.nbd())
	}
	if err != nil {
		d.takeDisk(s)
		return errors.Join(fmt.Errorf("create disk %s: %w", c.Name, err), device.Close(), d.saveState(false))
	}
	d.log.Info("disk created", "disk", c.Name, "path", c.Path, "made", made)
	return nil
}

// DeleteDisk implements admin.Service.
func (s service) DeleteDisk(name string, removeStorage bool) error {
	d := s.d
	d.loading.Lock()
	defer d.loading.Unlock()
	if err := d.mayChange("takes no disk away"); err != nil {
		return err
	}
	if i := slices.IndexFunc(d.absent, func(s state.Disk) bool { return s.Name == name }); i >= 0 {
		return d.forgetAbsent(i, removeStorage)
	}
	served := d.findDisk(name)
	if served == nil {
		return noDisk(name)
	}
	if removeStorage && !served.made {
		return notOurs(name, served.Path)
	}
	return d.deleteDisk(served, removeStorage)
}

func notOurs(name, path string) error {
	return &admin.Error{
		Status: http.StatusConflict, Message: fmt.Sprintf("the storage of disk %s, %s, is not the daemon's to remove", name, path),
		Hint: "delete it without --remove-storage; only files that tmemctl disk create made are removed",
	}
}

// forgetAbsent REQUIRES: loading held.
func (d *Daemon) forgetAbsent(i int, removeStorage bool) error {
	gone, before := d.absent[i], d.absent
	if removeStorage && !gone.Made {
		return notOurs(gone.Name, gone.Path)
	}
	d.absent = slices.Delete(slices.Clone(before), i, i+1)
	if err := d.saveState(false); err != nil {
		d.absent = before
		return err
	}
	if removeStorage {
		if err := os.Remove(gone.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("disk %s is deleted, not without trouble: %w", gone.Name, err)
		}
	}
	return nil
}

// deleteDisk takes a disk away from clients. Its content is storage's, and stays there.
// REQUIRES: loading held.
func (d *Daemon) deleteDisk(s *servedDisk, removeStorage bool) error {
	if err := d.hideDisk(s); err != nil {
		return err
	}
	at := d.takeDisk(s)
	if err := d.saveState(false); err != nil {
		d.putDisk(at, s)
		return errors.Join(err, d.server().AddExport(s.nbd()))
	}
	err := s.device.Close()
	if removeStorage {
		err = errors.Join(err, os.Remove(s.Path))
	}
	if err != nil {
		return fmt.Errorf("disk %s is deleted, not without trouble: %w", s.Name, err)
	}
	d.log.Info("disk deleted", "disk", s.Name, "path", s.Path, "removed", removeStorage)
	return nil
}

// hideDisk keeps new clients away; it is refused while there are any.
func (d *Daemon) hideDisk(s *servedDisk) error {
	err := d.server().RemoveExport(s.Name)
	if errors.Is(err, nbd.ErrExportInUse) {
		return &admin.Error{
			Status: http.StatusConflict, Message: fmt.Sprintf("disk %s has clients attached", s.Name),
			Hint: "let them go first: umount there, then tmemctl detach or nbd-client -d; tmemctl status shows who they are",
		}
	}
	return err
}

func noDisk(name string) *admin.Error {
	return &admin.Error{
		Status: http.StatusNotFound, Message: "there is no disk " + name, Hint: "tmemctl disk list shows what there is",
	}
}

// listDisks is a snapshot of the disks.
func (d *Daemon) listDisks() []*servedDisk {
	d.exportsMu.RLock()
	defer d.exportsMu.RUnlock()
	return slices.Clone(d.disks)
}

// findDisk returns the disk of that name, or nil.
func (d *Daemon) findDisk(name string) *servedDisk {
	for _, s := range d.listDisks() {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// putDisk puts a disk on the list.
func (d *Daemon) putDisk(at int, s *servedDisk) {
	d.exportsMu.Lock()
	defer d.exportsMu.Unlock()
	d.disks = slices.Insert(slices.Clone(d.disks), at, s)
}

// takeDisk takes a disk off the list and says where it was. Nobody looks at its device
// any more when it returns.
func (d *Daemon) takeDisk(s *servedDisk) (at int) {
	d.exportsMu.Lock()
	defer d.exportsMu.Unlock()
	at = slices.Index(d.disks, s)
	d.disks = slices.Delete(slices.Clone(d.disks), at, at+1)
	return at
}

// newDiskID is a number that no disk has, and none had lately. REQUIRES: loading held
// once the daemon runs.
func (d *Daemon) newDiskID() uint32 {
	const numbers = firstBaseID - firstDiskID
	for {
		id := firstDiskID + d.nextDisk%numbers
		d.nextDisk++
		if !slices.ContainsFunc(d.listDisks(), func(s *servedDisk) bool { return s.device.ID() == id }) {
			return id
		}
	}
}

func (s *servedDisk) state() state.Disk {
	saved := state.Disk{Name: s.Name, Path: s.Path, Made: s.made, ReadOnly: s.ReadOnly, Base: s.Base, Mode: s.device.Mode().String(), Allow: s.Allow}
	if s.Shared != nil {
		saved.Shared = s.Shared.String()
	}
	return saved
}

// savedDisks is what the next run is to serve too. REQUIRES: loading held once the
// daemon runs.
func (d *Daemon) savedDisks() (saved []state.Disk) {
	for _, s := range d.listDisks() {
		if s.created {
			saved = append(saved, s.state())
		}
	}
	return append(saved, d.absent...)
}

// keepDisks keeps those in mind that requests made in the last run. One that the
// configuration names by now is the configuration's.
func (d *Daemon) keepDisks(last state.State) {
	for _, s := range last.Disks {
		if slices.ContainsFunc(d.config.Disks, func(c config.Disk) bool { return c.Name == s.Name }) {
			d.log.Info("the configuration says what the disk is, not tmemctl disk create any more", "disk", s.Name)
			continue
		}
		d.absent = append(d.absent, s)
	}
}

// openCreated opens the disks that requests made in earlier runs. One that cannot be
// opened is no reason to serve no swap: it is kept in mind for the next start.
func (d *Daemon) openCreated() {
	saved := d.absent
	d.absent = nil
	for _, s := range saved {
		if err := d.openSaved(s); err != nil {
			d.absent = append(d.absent, s)
			d.log.Error("a disk is not served: put right what it says and start again, or tmemctl disk delete "+s.Name, "disk", s.Name, "error", err)
		}
	}
}

func (d *Daemon) openSaved(s state.Disk) error {
	var exports []config.Export
	for _, e := range d.list() {
		exports = append(exports, e.Export)
	}
	var disks []config.Disk
	for _, other := range d.listDisks() {
		disks = append(disks, other.Disk)
	}
	c, wrong := d.config.NewDisk(config.DiskEntry{
		Name: s.Name, Path: s.Path, ReadOnly: s.ReadOnly, Base: s.Base, Shared: s.Shared, Mode: s.Mode, Allow: s.Allow,
	}, exports, disks)
	if wrong != nil {
		return wrong
	}
	if _, err := os.Stat(c.Path); err != nil {
		return err // an overlay that is gone is not made anew: it had content
	}
	device, err := d.openDisk(c, d.newDiskID())
	if err != nil {
		return err
	}
	served := d.newServed(c, device)
	served.created, served.made = true, s.Made
	d.putDisk(len(d.listDisks()), served)
	return nil
}
