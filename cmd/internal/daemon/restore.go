package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/saved"
	"github.com/tmemd/tmemd/cmd/internal/state"
)

// A restore fills an export that nobody can reach yet: one that is made for it, or one
// that was there before, empty and without clients. Only when the end of the file was
// seen, and with it every page, is it let go. state.json says so from before the first
// change until after the last one, so that a process that dies leaves nothing:
//
//	being restored | state.json says       | the next start
//	a new export   | restoring: "export"   | removes its storage, and there is no such export
//	an empty one   | restoring: "pages"    | makes it empty
type restore struct {
	d     *Daemon
	e     *export
	fresh bool // it is made for this
	blank bool // its storage is a file that was made for this
	end   func()
}

// RestoreExport implements admin.Service.
func (s service) RestoreExport(ctx context.Context, r admin.CreateRequest, from io.Reader) (admin.Export, error) {
	reader, err := saved.NewReader(from)
	if err != nil {
		return admin.Export{}, restoreError(r.Name, err)
	}
	size := reader.Header.Size
	r.Size = fmt.Sprint(size)
	e, err := s.newExport(r)
	if err != nil {
		return admin.Export{}, err
	}
	e.Size = size
	work := &restore{d: s.d, e: e}
	if ctx, err = work.begin(ctx, r); err != nil {
		return admin.Export{}, err
	}
	defer work.end()
	if err = work.fill(ctx, reader); err == nil {
		err = work.commit(ctx)
	}
	if err != nil {
		work.undo()
		return admin.Export{}, restoreError(r.Name, err)
	}
	totals := reader.Totals()
	s.d.log.Info("export restored", "export", r.Name, "pages", totals.Pages, "bytes", totals.Bytes)
	return s.findExport(r.Name)
}

// begin finds or makes the export. After an error everything is as it was.
func (r *restore) begin(ctx context.Context, request admin.CreateRequest) (context.Context, error) {
	d := r.d
	d.loading.Lock()
	defer d.loading.Unlock()
	if err := d.mayChange("restores no export"); err != nil {
		return nil, err
	}
	there := d.find(r.e.Name)
	if r.fresh = there == nil; r.fresh {
		if err := d.checkNew(r.e); err != nil {
			return nil, err
		}
		if err := refuseContent(r.e.Storage); err != nil {
			return nil, err
		}
	} else if err := r.checkEmpty(there, request); err != nil {
		return nil, err
	}
	ctx, end, err := d.transfers.begin(ctx, r.e.Name, "restored")
	if err != nil {
		return nil, err
	}
	r.end = end
	if r.fresh {
		err = r.make()
	} else {
		err = r.take(there)
	}
	if err != nil {
		end()
		return nil, err
	}
	return ctx, nil
}

func (r *restore) checkEmpty(there *export, request admin.CreateRequest) error {
	conflict := func(hint, format string, args ...any) error {
		return &admin.Error{Status: http.StatusConflict, Message: fmt.Sprintf(format, args...), Hint: hint}
	}
	switch {
	case request.Storage != "" || request.Writethrough != "" || request.Client != "" || request.Template != "" || len(request.Allow) > 0:
		return conflict("leave --storage, --client, --template, --allow and --writethrough out, or restore it under another name", "there is an export %s already", there.Name)
	case there.size() != r.e.Size:
		return conflict("restore it under another name, or into an export of that size",
			"export %s has %s, and what was saved %s", there.Name, cli.Bytes(uint64(there.size())), cli.Bytes(uint64(r.e.Size)))
	case there.device.Contents() > 0:
		return conflict("restore it under another name, or delete that one first", "export %s is not empty", there.Name)
	}
	return nil
}

// make makes a new export that is not served. REQUIRES: loading held.
func (r *restore) make() error {
	d, e := r.d, r.e
	e.id = d.newID()
	note := e.state()
	note.Restoring = state.RestoringExport
	d.restoring = append(d.restoring, note)
	err := d.saveState(false) // before there is anything to be removed
	if err == nil {
		err = r.open()
	}
	if err != nil {
		r.forget()
		return errors.Join(err, d.saveState(false))
	}
	return nil
}

func (r *restore) open() error {
	s, blank, err := r.d.openStorage(r.e.Export, false, false)
	if err != nil {
		return &admin.Error{Status: http.StatusConflict, Message: err.Error(), Hint: cureNewStorage(err)}
	}
	if err := r.d.openDevice(r.e, s, blank); err != nil {
		return errors.Join(err, removeNew(r.e.Storage, blank))
	}
	r.blank = blank
	if !blank {
		if err := r.e.device.Empty(); err != nil { // whatever the device has
			return errors.Join(err, r.e.device.Close())
		}
	}
	return nil
}

// take takes an export out of service that is there. REQUIRES: loading held.
func (r *restore) take(there *export) error {
	d := r.d
	if err := d.closeToClients(there.Name, "being restored"); err != nil {
		return err
	}
	r.e = there
	there.restoring = true
	// Again, now that nobody can write any more.
	err := error(nil)
	if there.device.Contents() > 0 {
		err = &admin.Error{Status: http.StatusConflict, Message: "export " + there.Name + " is not empty", Hint: "restore it under another name"}
	}
	if err == nil {
		err = d.saveState(false)
	}
	if err != nil {
		there.restoring = false
		d.openToClients(there.Name)
		return errors.Join(err, d.saveState(false))
	}
	return nil
}

func (r *restore) fill(ctx context.Context, from *saved.Reader) error {
	to, err := r.e.device.NewRestorer()
	if err != nil {
		return err
	}
	for {
		page, p, err := from.Next()
		if errors.Is(err, io.EOF) {
			return r.e.device.Sync()
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err == nil {
			err = to.Page(page, p)
		}
		if err != nil {
			return err
		}
	}
}

// commit lets the export go, with all its pages.
func (r *restore) commit(ctx context.Context) error {
	d := r.d
	d.loading.Lock()
	defer d.loading.Unlock()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := d.mayChange("restores no export"); err != nil {
		return err
	}
	if r.fresh {
		r.forget()
		if err := d.publish(r.e); err != nil {
			r.remember()
			return err
		}
		return nil
	}
	r.e.restoring = false
	if err := d.saveState(false); err != nil {
		r.e.restoring = true
		return err
	}
	d.openToClients(r.e.Name)
	return nil
}

// remember and forget note a new export as one that does not count. REQUIRES: loading
// held.
func (r *restore) remember() {
	note := r.e.state()
	note.Restoring = state.RestoringExport
	r.d.restoring = append(r.d.restoring, note)
}

func (r *restore) forget() {
	r.d.restoring = slices.DeleteFunc(slices.Clone(r.d.restoring), func(s state.Export) bool { return s.Name == r.e.Name })
}

// undo makes everything as it was.
func (r *restore) undo() {
	d, e := r.d, r.e
	d.loading.Lock()
	defer d.loading.Unlock()
	if !r.fresh {
		err := e.device.Empty()
		e.restoring = false
		if err = errors.Join(err, d.saveState(false)); err != nil {
			d.log.Error("an export that could not be restored is empty again, and that is not noted", "export", e.Name, "error", err)
		}
		d.openToClients(e.Name)
		return
	}
	err := e.device.Close()
	if r.blank {
		err = errors.Join(err, os.Remove(e.Storage))
	}
	r.forget()
	if err = errors.Join(err, d.saveState(false)); err != nil {
		d.log.Error("an export that could not be restored is gone, not without trouble", "export", e.Name, "error", err)
	}
}

// dropRestored removes what is left of exports whose restore did not come to its end.
func (d *Daemon) dropRestored(last *state.State) error {
	exports := last.Exports
	last.Exports = nil
	for _, e := range exports {
		if e.Restoring != state.RestoringExport {
			last.Exports = append(last.Exports, e)
			continue
		}
		st, err := os.Lstat(e.Storage)
		if err == nil && st.Mode().IsRegular() {
			err = os.Remove(e.Storage)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return cli.Failure("remove it, and start again", "the restore of export %s did not come to its end, and its storage cannot be removed: %v", e.Name, err)
		}
		d.log.Warn("a restore did not come to its end: there is no such export", "export", e.Name)
	}
	return nil
}

// restoreError adds the cure.
func restoreError(name string, err error) error {
	var told *admin.Error
	if errors.As(err, &told) {
		return err
	}
	told = &admin.Error{Status: http.StatusInternalServerError, Message: fmt.Sprintf("export %s is not restored, and nothing has changed: %v", name, err)}
	var format saved.FormatError
	switch {
	case errors.As(err, &format), errors.Is(err, backends.ErrCorrupt):
		told.Status, told.Hint = http.StatusUnprocessableEntity, "it is of no use; take another copy of the file, or save the export anew"
	default:
		told.Hint = "put right what it says, then restore again"
	}
	return told
}
