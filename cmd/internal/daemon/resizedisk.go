package daemon

import (
	"errors"
	"fmt"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

// ResizeDisk implements admin.Service.
func (s service) ResizeDisk(name string, to admin.DiskResizeRequest) (admin.Disk, error) {
	var size int64
	if to.Size != "" {
		var wrong *cli.Error
		if size, wrong = config.ExportSize(to.Size, s.d.options.RAM); wrong != nil {
			return admin.Disk{}, badDisk("size: ", wrong)
		}
	}
	if err := s.d.resizeDisk(name, size, to.Discard); err != nil {
		return admin.Disk{}, err
	}
	return s.showDisk(name)
}

// resizeDisk gives a disk that no client has another size, or that which its file or
// device has by now if size is 0. NBD cannot tell clients in any case, and without them
// the device is simply opened anew: locks and index need not grow under requests.
func (d *Daemon) resizeDisk(name string, size int64, discard bool) error {
	d.loading.Lock()
	defer d.loading.Unlock()
	if err := d.mayChange("resizes no disk"); err != nil {
		return err
	}
	s := d.findDisk(name)
	if s == nil {
		return noDisk(name)
	}
	before, _ := s.device.Size() // never an error
	cut, err := s.mayResize(before, size, discard)
	if err != nil {
		return err
	}
	if err := d.hideDisk(s); err != nil {
		return err
	}
	at := d.takeDisk(s)
	err = s.device.Close()
	if err == nil && cut {
		err = truncate(s.Path, size)
	}
	opened, again := d.reopenDisk(s, at)
	if again != nil && cut && err == nil && size > before {
		// The new size is of no use: what was gained has no content yet.
		err, again = again, truncate(s.Path, before)
		if again == nil {
			opened, again = d.reopenDisk(s, at)
		}
	}
	if again != nil {
		d.log.Error("a disk that was to be resized is not served any more", "disk", name, "error", again)
		if s.created {
			d.absent = append(d.absent, s.state())
		}
	}
	if err = errors.Join(err, again); err != nil {
		return &admin.Error{
			Status: http.StatusInternalServerError, Message: fmt.Sprintf("resize disk %s: %v", name, err),
			Hint: "put right what it says, then resize again; a disk that is not listed any more comes back with the next start of tmemd",
		}
	}
	now, _ := opened.device.Size() // never an error
	d.log.Info("disk resized", "disk", name, "bytes", now, "before", before)
	return nil
}

// mayResize refuses what cannot be; cut says that the file is to be given the size.
func (s *servedDisk) mayResize(before, size int64, discard bool) (cut bool, err error) {
	refuse := func(hint, format string, args ...any) (bool, error) {
		return false, &admin.Error{
			Status: http.StatusConflict, Message: fmt.Sprintf("disk %s keeps its size: ", s.Name) + fmt.Sprintf(format, args...), Hint: hint,
		}
	}
	if s.Base != "" {
		return refuse("make an overlay over a larger base", "an overlay is as long as its base")
	}
	st, err := os.Stat(s.Path)
	if err != nil {
		return refuse("bring its storage back", "%v", err)
	}
	isDevice := st.Mode().Type() == os.ModeDevice
	switch {
	case size == 0:
		return false, nil
	case isDevice:
		return refuse("resize the device, then leave the size out: tmemctl disk resize "+s.Name, "a block device has the size that it has")
	case s.ReadOnly:
		return refuse("resize its file, then leave the size out: tmemctl disk resize "+s.Name, "it is read only")
	case size < before && !discard:
		return refuse("make its file system smaller first, then give up what is beyond with --discard", "beyond the new end it has %s, which may be content",
			cli.Bytes(uint64(before-size)))
	}
	return true, nil
}

// reopenDisk opens a disk that was closed, with the size that it has now, and serves it.
func (d *Daemon) reopenDisk(s *servedDisk, at int) (*servedDisk, error) {
	device, err := d.openDisk(s.Disk, d.newDiskID())
	if err != nil {
		return nil, err
	}
	device.SetMode(s.device.Mode())
	opened := d.newServed(s.Disk, device)
	opened.created, opened.made = s.created, s.made
	d.putDisk(at, opened)
	if err := d.server().AddExport(opened.nbd()); err != nil {
		d.takeDisk(opened)
		return nil, errors.Join(err, device.Close())
	}
	return opened, nil
}

// truncate gives a file a length that outlives a power cut.
func truncate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync(), f.Close())
}
