package daemon

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/metrics"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/tier"
	"github.com/tmemd/tmemd/tier/disk"
)

// servedDisk is one disk that is served: of the configuration, or made by a request, which
// is all that is kept of it, as storage is the truth. All is immutable.
type servedDisk struct {
	config.Disk
	created bool   // by a request
	made    bool   // its file was made for it
	content string // names it
	device  *disk.Device
}

// The numbers of disks and bases are above all numbers of exports: backends tell pages
// by them.
const (
	firstDiskID = 1 << 31
	firstBaseID = firstDiskID + 1<<16
)

// openDisks opens the disks of the configuration. Backends are there already, or come
// later: both are well.
func (d *Daemon) openDisks() error {
	for i, c := range d.config.Disks {
		device, err := d.openDisk(c, d.newDiskID())
		if err != nil {
			return d.config.Fault(fmt.Sprintf("disk[%d].path", i), cureDisk(err), err)
		}
		d.putDisk(len(d.disks), d.newServed(c, device))
	}
	d.openCreated()
	return nil
}

func (d *Daemon) openDisk(c config.Disk, id uint32) (*disk.Device, error) {
	var base *disk.Base
	var storage tier.Storage
	var err error
	if c.Base != "" {
		i := slices.IndexFunc(d.bases, func(s *servedBase) bool { return s.Name == c.Base })
		base = d.bases[i].base
		storage, err = d.openOverlay(c, d.bases[i])
	} else if storage, err = d.buffers.OpenImage(c.Path, c.ReadOnly); err == nil {
		storage = d.faults.storage(c.Name, storage)
	}
	if err != nil {
		return nil, err
	}
	pool, err := d.initPool(c, cleancache.FSConfig{Name: c.Name, ID: id, Pages: storage.Pages(), Mode: c.Mode})
	if err != nil {
		return nil, errors.Join(err, storage.Close())
	}
	device, err := disk.Open(disk.Config{Name: c.Name, Storage: storage, Pool: pool, ReadOnly: c.ReadOnly, Base: base})
	if err != nil {
		return nil, errors.Join(err, pool.InvalidateFS(), storage.Close())
	}
	return device, nil
}

func (d *Daemon) initPool(c config.Disk, fs cleancache.FSConfig) (*cleancache.Pool, error) {
	if c.Shared != nil {
		return d.cleancache.InitSharedFS(*c.Shared, fs)
	}
	return d.cleancache.InitFS(fs)
}

func cureDisk(err error) string {
	switch {
	case errors.Is(err, disk.ErrOtherBase), errors.Is(err, disk.ErrNoOverlay):
		return "name the base that it was made over, by its uuid; or choose a path where nothing is, for a new overlay"
	case errors.Is(err, os.ErrPermission):
		return "give this user the right to read it, and to write it unless it is read_only"
	case errors.Is(err, unix.EBUSY):
		return "it is mounted: unmount it, or choose another device"
	case errors.Is(err, tier.ErrInUse):
		return "only disks that are read_only everywhere can be served more than once"
	}
	return "its size has to be a multiple of 4096 bytes: truncate -s %4096 PATH makes a file a little longer"
}

// newServed makes one that is not on the list yet.
func (d *Daemon) newServed(c config.Disk, device *disk.Device) *servedDisk {
	content := d.identityOf("disk " + c.Name + " " + c.Path)
	return &servedDisk{Disk: c, device: device, content: hex.EncodeToString(content[:])}
}

// nbd is what is served. The description says that it is a disk, so that nobody makes
// swap of it, and which one: tmemctl attach holds a server to it when it reconnects.
func (s *servedDisk) nbd() nbd.Export {
	access, err := config.ParseAccess(s.Allow)
	if err != nil {
		access = &nbd.Access{} // checked before
	}
	return nbd.Export{
		Name: s.Name, Description: "disk through tmemd, content " + s.content, Device: s.device, ReadOnly: s.ReadOnly, Access: access, SlowZeroes: true,
	}
}

// closeDisks comes before backends are closed. What was written is synced. Bases come
// behind what lies over them.
func (d *Daemon) closeDisks() error {
	var errs []error
	for _, s := range d.listDisks() {
		if err := s.device.Close(); err != nil {
			errs = append(errs, fmt.Errorf("disk %s: %w", s.Name, err))
		}
	}
	for _, s := range d.bases {
		if err := s.base.Close(); err != nil {
			errs = append(errs, fmt.Errorf("base %s: %w", s.Name, err))
		}
	}
	d.disks, d.bases = nil, nil
	return errors.Join(errs...)
}

func (s *servedDisk) snapshot() metrics.Disk {
	size, _ := s.device.Size() // never an error
	return metrics.Disk{Name: s.Name, Size: size, Stats: s.device.Stats()}
}

func showDisks(snapshot metrics.Snapshot) []admin.Disk {
	disks := []admin.Disk{}
	for _, x := range snapshot.Disks {
		c := x.Stats.Cache
		shown := admin.Disk{
			Name: x.Name, SizeBytes: x.Size, ReadOnly: x.Stats.ReadOnly, Mode: c.Mode.String(), Backends: c.Backends,
			SuccGets: c.SuccGets, FailedGets: c.FailedGets, Puts: c.Puts, Invalidates: c.Invalidates,
			Storage: showStorage(x.Stats.Storage), Errors: map[string]uint64{},
		}
		for _, n := range snapshot.NBD.Exports {
			if n.Name != x.Name {
				continue
			}
			shown.Clients = n.Clients
			for command := range nbd.CommandCount {
				shown.Errors[command.String()] = n.Commands[command].Errors
			}
		}
		disks = append(disks, shown)
	}
	return disks
}

// Disks implements admin.Service.
func (s service) Disks() []admin.Disk { return showDisks(s.d.snapshot()) }

// SetDisk implements admin.Service.
func (s service) SetDisk(name string, settings admin.DiskSettings) (admin.Disk, error) {
	mode, err := cleancache.ParseMode(settings.Mode)
	if err != nil {
		return admin.Disk{}, &admin.Error{Status: http.StatusBadRequest, Message: "mode: " + err.Error(), Hint: config.ModeSyntax}
	}
	served := s.d.findDisk(name)
	if served == nil {
		return admin.Disk{}, noDisk(name)
	}
	served.device.SetMode(mode)
	if served.created {
		s.d.noteSettings() // for a process that takes over; not worth to fail for
	}
	return s.showDisk(name)
}

// showDisk shows the disk of that name.
func (s service) showDisk(name string) (admin.Disk, error) {
	for _, shown := range s.Disks() {
		if shown.Name == name {
			return shown, nil
		}
	}
	return admin.Disk{}, noDisk(name)
}
