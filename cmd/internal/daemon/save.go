package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/saved"
	"github.com/tmemd/tmemd/nbd"
)

// SaveExport implements admin.Service. Clients are kept out meanwhile, so the picture is
// of one moment.
func (s service) SaveExport(ctx context.Context, name string, to io.Writer) error {
	d := s.d
	e, ctx, end, err := d.beginSave(ctx, name)
	if err != nil {
		return err
	}
	defer end()
	header := saved.Header{Name: name, Size: e.size()}
	if _, err := hex.Decode(header.Content[:], []byte(e.content)); err != nil {
		return fmt.Errorf("save export %s: its content has no name: %w", name, err)
	}
	w, err := saved.NewWriter(to, header)
	if err != nil {
		return fmt.Errorf("save export %s: %w", name, err)
	}
	if err := e.device.Save(ctx, w.Page); err != nil {
		return saveError(name, err)
	}
	totals, err := w.Close()
	if err != nil {
		return fmt.Errorf("save export %s: %w", name, err)
	}
	d.log.Info("export saved", "export", name, "pages", totals.Pages, "bytes", totals.Bytes)
	return nil
}

func (d *Daemon) beginSave(ctx context.Context, name string) (*export, context.Context, func(), error) {
	d.loading.Lock()
	defer d.loading.Unlock()
	if err := d.mayChange("saves no export"); err != nil {
		return nil, nil, nil, err
	}
	e := d.find(name)
	if e == nil {
		return nil, nil, nil, noExport(name)
	}
	ctx, end, err := d.transfers.begin(ctx, name, "saved")
	if err != nil {
		return nil, nil, nil, err
	}
	if err := d.closeToClients(name, "being saved"); err != nil {
		end()
		return nil, nil, nil, err
	}
	return e, ctx, func() {
		d.openToClients(name)
		end()
	}, nil
}

// closeToClients keeps clients out of an export that has none.
func (d *Daemon) closeToClients(name, doing string) error {
	err := d.server().CloseExport(name, fmt.Sprintf("export %s is %s: try again later", name, doing))
	if errors.Is(err, nbd.ErrExportInUse) {
		return &admin.Error{
			Status: http.StatusConflict, Message: fmt.Sprintf("export %s has clients attached, and %s it has to stay as it is", name, doing),
			Hint: "let them go first: stop the virtual machine, or tmemctl detach; tmemctl status shows who they are",
		}
	}
	return err
}

// openToClients lets clients in again. That there is no such export is a server that
// was made anew meanwhile: it has no closed ones.
func (d *Daemon) openToClients(name string) {
	if err := d.server().OpenExport(name); err != nil {
		d.log.Warn("an export stays closed", "export", name, "error", err)
	}
}

func saveError(name string, err error) error {
	told := &admin.Error{Status: http.StatusInternalServerError, Message: fmt.Sprintf("export %s is not saved: %v", name, err)}
	if errors.Is(err, backends.ErrCorrupt) {
		told.Hint = "the page is damaged in memory, and reading it is an I/O error: what is saved without it would be no copy"
	}
	return told
}
