package daemon

import (
	"errors"
	"fmt"
	"os"

	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/metrics"
	"github.com/tmemd/tmemd/tier"
	"github.com/tmemd/tmemd/tier/disk"
)

// servedBase is an image that disks lie over, or share their cached pages with.
type servedBase struct {
	config.Base            // immutable
	base        *disk.Base // immutable
}

// openBases opens the bases of the configuration, before the disks. Naming one is what
// authorises others to share its pages.
func (d *Daemon) openBases() error {
	for i, c := range d.config.Bases {
		base, err := d.openBase(c, firstBaseID+uint32(i))
		if err != nil {
			return d.config.Fault(fmt.Sprintf("base[%d].path", i), cureDisk(err), err)
		}
		d.bases = append(d.bases, &servedBase{Base: c, base: base})
	}
	return nil
}

func (d *Daemon) openBase(c config.Base, id uint32) (*disk.Base, error) {
	image, err := d.buffers.OpenImage(c.Path, true)
	if err != nil {
		return nil, err
	}
	storage := d.faults.storage(c.Name, image)
	d.cleancache.Authorise(c.UUID)
	pool, err := d.cleancache.InitSharedFS(c.UUID, cleancache.FSConfig{Name: c.Name, ID: id, Pages: storage.Pages()})
	if err != nil {
		return nil, errors.Join(err, storage.Close())
	}
	base, err := disk.NewBase(storage, pool)
	if err != nil {
		return nil, errors.Join(err, pool.InvalidateFS(), storage.Close())
	}
	return base, nil
}

// openOverlay opens the overlay of a disk, and makes it first if it is not there.
func (d *Daemon) openOverlay(c config.Disk, over *servedBase) (tier.Storage, error) {
	pages := over.base.Pages()
	if _, err := os.Stat(c.Path); errors.Is(err, os.ErrNotExist) {
		if err := disk.CreateOverlay(c.Path, over.UUID, pages); err != nil {
			return nil, err
		}
		d.log.Info("overlay made", "disk", c.Name, "base", over.Name, "path", c.Path)
	}
	file, err := d.buffers.OpenImage(c.Path, false)
	if err != nil {
		return nil, err
	}
	overlay, err := disk.OpenOverlay(faultyImage{d.faults.storage(c.Name, file), file}, over.UUID, pages, d.options.BootID)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return overlay, nil
}

// faultyImage is an image with rules before it, see faults.
type faultyImage struct {
	tier.Storage
	image disk.Image
}

// Allocated implements [disk.Image].
func (f faultyImage) Allocated(page uint64) (first, last uint64, err error) {
	return f.image.Allocated(page)
}

func (s *servedBase) snapshot() metrics.Disk {
	stats := s.base.Stats()
	return metrics.Disk{
		Name: s.Name, Size: int64(s.base.Pages()) * pageSize,
		Stats: disk.Stats{Cache: stats.Cache, Storage: stats.Storage, ReadOnly: true, Memory: stats.Memory},
	}
}
