package daemon

import (
	"errors"
	"fmt"
	"net/http"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/tier"
)

// ResizeExport implements admin.Service.
func (s service) ResizeExport(name string, r admin.ResizeRequest) (admin.Export, error) {
	size, wrong := config.ExportSize(r.Size, s.d.options.RAM)
	if wrong != nil {
		return admin.Export{}, &admin.Error{Status: http.StatusBadRequest, Message: "size: " + wrong.Problem, Hint: wrong.Hint}
	}
	if err := s.d.resize(name, size, r.Discard); err != nil {
		return admin.Export{}, err
	}
	return s.findExport(name)
}

// resize changes the size of an export. After an error it has the size that it
// had; what was discarded is gone.
func (d *Daemon) resize(name string, size int64, discard bool) error {
	d.loading.Lock()
	defer d.loading.Unlock()
	if err := d.mayChange("resizes no export"); err != nil {
		return err
	}
	e := d.find(name)
	if e == nil {
		return noExport(name)
	}
	if err := d.transfers.busy(name); err != nil {
		return err
	}
	before, resized := e.size(), e.resized
	var err error
	if size < before {
		// First of all nobody may attach any more who counts on the old size. The
		// next is noted, as a process that takes over finds storage that is longer
		// than it should be, and cuts it, but refuses what is shorter.
		if err := d.resizeNBD(name, size); err != nil {
			return err
		}
		if !discard {
			err = e.device.CheckShrink(size)
		}
		if err == nil {
			e.shrinking = size
			defer func() { e.shrinking = 0 }()
			err = d.saveState(false)
		}
	}
	if err == nil {
		err = e.device.Resize(size, discard)
	}
	if err == nil {
		e.resized = !e.created
		err = d.saveState(false)
	}
	if err == nil && size > before {
		err = d.resizeNBD(name, size)
	}
	if err == nil {
		d.log.Info("export resized", "export", name, "bytes", size, "before", before)
		return nil
	}
	if err := d.undoResize(e, before, resized); err != nil {
		d.log.Error("an export that could not be resized is not as it was", "export", name, "error", err)
	}
	return resizeError(name, err)
}

// undoResize REQUIRES: loading held.
func (d *Daemon) undoResize(e *export, size int64, resized bool) error {
	e.resized, e.shrinking = resized, 0
	// What an export that grew a moment ago has beyond, nobody knows of.
	if err := e.device.Resize(size, true); err != nil {
		return err
	}
	return errors.Join(d.resizeNBD(e.Name, size), d.saveState(false))
}

func (d *Daemon) resizeNBD(name string, size int64) error {
	err := d.server().ResizeExport(name, size)
	if errors.Is(err, nbd.ErrExportInUse) {
		return &admin.Error{
			Status: http.StatusConflict, Message: fmt.Sprintf("export %s has clients attached, and cannot get smaller under them", name),
			Hint: "let them go first: swapoff, then nbd-client -d; tmemctl status shows who they are",
		}
	}
	return err
}

// resizeError adds the cure.
func resizeError(name string, err error) error {
	told := &admin.Error{Status: http.StatusConflict, Message: fmt.Sprintf("export %s keeps its size: %v", name, err)}
	var content *tier.ContentError
	switch {
	case errors.As(err, &content):
		told.Message = fmt.Sprintf("export %s keeps its size: beyond the new end, %s may have content", name, cli.Bytes(content.Pages*pageSize))
		told.Hint = "discard it on the client (blkdiscard, mkswap and swapon --discard), or give it up with --discard-pages"
	case errors.Is(err, tier.ErrTooSmall):
		told.Hint = "make the device larger first, or choose a smaller size"
	case errors.Is(err, unix.EFBIG):
		told.Hint = "choose a smaller size, or a file system that takes files of this size"
	default:
		told.Status, told.Hint = http.StatusInternalServerError, "put right what it says, then resize again"
	}
	return told
}
