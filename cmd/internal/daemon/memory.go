package daemon

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/fault"
	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/state"
	"github.com/tmemd/tmemd/frontswap"
)

// recordFile is a file in the memory folder that says which backends the page maps
// name.
const recordFile = "backends.json"

// recordVersion is the format of the record and of what it describes.
const recordVersion = 1

// record is what recordFile holds.
type record struct {
	Version  int               `json:"version"`
	Identity string            `json:"identity"`
	Complete bool              `json:"complete"` // the backends of the configuration were loaded
	Backends []recordedBackend `json:"backends"`
}

// recordedBackend is one backend that words of a page map may name.
type recordedBackend struct {
	Name     string          `json:"name"`
	Kind     string          `json:"kind"`
	Owner    frontswap.Owner `json:"owner"`
	Order    int             `json:"order"`
	State    string          `json:"state"`
	Reason   string          `json:"reason,omitempty"`
	Files    string          `json:"files"` // how the names of its memory files begin
	Settings json.RawMessage `json:"settings"`
}

const noMemoryWarning = "pages in memory end with this process, however it ends: there is no folder for them that outlives it"

// openMemory opens the memory folder and notes it in the state folder, so that a
// file with its identity is never there without a state that knows it.
func (d *Daemon) openMemory(p plan, last state.State) error {
	var err error
	if d.identity, err = sharedmem.ParseIdentity(last.Identity); err != nil {
		d.identity = sharedmem.NewIdentity()
	}
	if p.takeover {
		d.memory, err = d.openFolder(last.Memory)
		if err != nil {
			return d.takeoverError(err)
		}
		if d.config.Memory != last.Memory {
			d.log.Info("the memory folder stays where it is until a stop", "memory_dir", last.Memory)
		}
		return nil
	}
	if last.Memory != "" && last.Memory != d.config.Memory {
		d.forgetMemory(last.Memory)
	}
	if d.config.Memory == "" {
		d.log.Warn(noMemoryWarning, "reason", "memory_dir is off")
		return nil
	}
	d.memory, err = d.openFolder(d.config.Memory)
	if err != nil && !d.config.MemoryChosen && !errors.Is(err, sharedmem.ErrFolderInUse) {
		d.log.Warn(noMemoryWarning, "reason", err)
		return nil
	}
	if err == nil && !d.config.Fresh {
		err = d.memory.Foreign()
	}
	if err == nil {
		err = d.emptyFolder(d.memory)
	}
	if err != nil {
		return d.config.Fault("memory_dir", cureMemory(err, d.config.Memory), err)
	}
	if last.Identity == "" || last.Memory != d.memory.Path() {
		last.Identity, last.Memory, last.NextID = d.identity.String(), d.memory.Path(), d.nextID
		if last.BootID == "" { // there was no run
			last.BootID, last.Clean = d.options.BootID, true
		}
		return d.folder.Save(last)
	}
	return nil
}

func (d *Daemon) openFolder(path string) (*sharedmem.Folder, error) {
	return sharedmem.OpenFolder(sharedmem.FolderConfig{
		Path: path, Identity: d.identity, Boot: d.options.BootID, Inherited: d.options.Heir.take("memory"),
	})
}

// emptyFolder removes what a run that needs it no more has left.
func (d *Daemon) emptyFolder(f *sharedmem.Folder) error {
	return errors.Join(f.RemoveFile(recordFile), f.RemoveExcept(func(string) bool { return false }))
}

// forgetMemory removes what an earlier run left in another folder and nobody needs
// any more.
func (d *Daemon) forgetMemory(path string) {
	if _, err := os.Stat(path); err != nil {
		return
	}
	f, err := d.openFolder(path)
	if err == nil {
		err = f.Foreign()
		if err == nil {
			err = d.emptyFolder(f)
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		d.log.Warn("memory files of an earlier run stay", "memory_dir", path, "error", err)
	}
}

// closeMemory removes the folder, unless it is left for another process.
func (d *Daemon) closeMemory() error {
	if d.memory == nil {
		return nil
	}
	var err error
	if !d.memory.Left() {
		err = d.emptyFolder(d.memory)
	}
	return errors.Join(err, d.memory.Close())
}

func cureMemory(err error, path string) string {
	switch {
	case errors.Is(err, sharedmem.ErrNotMemory):
		return "give --memory-dir a folder on a tmpfs, such as one below /dev/shm, or off"
	case errors.Is(err, sharedmem.ErrNotPrivate):
		return "give --memory-dir a folder of this user's own, with mode 0700"
	case errors.Is(err, sharedmem.ErrOtherFolder):
		return "give each tmemd a memory folder of its own; if nobody needs these pages any more, --fresh or rm -r " + path + " removes them"
	case errors.Is(err, sharedmem.ErrFolderInUse):
		return "stop the other one, or give this one a folder of its own with --memory-dir"
	case errors.Is(err, os.ErrPermission), errors.Is(err, unix.EROFS):
		return "give --memory-dir a folder that this user may write to, or off"
	case errors.Is(err, unix.ENOSPC):
		return "make the tmpfs larger (mount -o remount,size=…), or the export or backend smaller"
	}
	return "choose another folder with --memory-dir, or off"
}

// memoryError adds the cure if the memory folder is full.
func (d *Daemon) memoryError(err error) error {
	if d.memory == nil || !errors.Is(err, unix.ENOSPC) {
		return err
	}
	return cli.Failure(cureMemory(err, d.memory.Path()), "%v", err)
}

// newPlace is where a new backend keeps its memory: names are never used again, as
// one of the same name may be on its way out.
func (d *Daemon) newPlace(name string) arena.Place {
	if d.memory == nil {
		return arena.Place{}
	}
	var tag [4]byte
	_, _ = rand.Read(tag[:]) // never an error
	return arena.Place{Folder: d.memory, Name: fmt.Sprintf("%s-%x", name, tag)}
}

// writeRecord is frontswap's Config.Record.
func (d *Daemon) writeRecord(list []frontswap.Registered) error {
	if d.memory.Left() {
		return nil // another process's business
	}
	r := record{Version: recordVersion, Identity: d.identity.String(), Complete: d.complete.Load(), Backends: []recordedBackend{}}
	for _, b := range list {
		inner := behindRules(b.Backend)
		files, settings := kinds[inner.Kind()].describe(inner)
		text, err := json.Marshal(settings)
		if err != nil {
			return fmt.Errorf("record the settings of backend %s: %w", b.Name, err)
		}
		r.Backends = append(r.Backends, recordedBackend{
			Name: b.Name, Kind: inner.Kind(), Owner: b.Owner, Order: b.Order, State: b.State.String(), Reason: b.Reason, Files: files, Settings: text,
		})
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("record the backends: %w", err)
	}
	if err := d.memory.WriteFile(recordFile, append(text, '\n')); err != nil {
		return fmt.Errorf("record the backends: %w", err)
	}
	return nil
}

// recordComplete notes that the backends of the configuration were loaded.
func (d *Daemon) recordComplete() error {
	d.complete.Store(true)
	if d.memory == nil {
		return nil
	}
	return d.frontswap.RecordAgain()
}

// readRecord reads what writeRecord wrote.
func readRecord(f *sharedmem.Folder, identity sharedmem.Identity) (r record, err error) {
	fail := func(reason error, detail any) (record, error) {
		return record{}, fmt.Errorf("memory file %s/%s: %w: %v", f.Path(), recordFile, reason, detail)
	}
	text, err := f.ReadFile(recordFile)
	if err != nil {
		return record{}, fmt.Errorf("memory file: %w", err)
	}
	// The version first: the rest is another version's business.
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return fail(sharedmem.ErrDamaged, err)
	}
	if v.Version != recordVersion {
		return fail(sharedmem.ErrOtherVersion, fmt.Sprintf("it has version %d, this one knows version %d", v.Version, recordVersion))
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return fail(sharedmem.ErrDamaged, err)
	}
	if r.Identity != identity.String() {
		return fail(sharedmem.ErrOtherFolder, fmt.Sprintf("its identity is %s, the state folder's is %s", r.Identity, identity))
	}
	return r, nil
}

// reopen makes the backend that is recorded of its memory files.
func (b recordedBackend) reopen(f *sharedmem.Folder, o Options) (backends.Backend, error) {
	k, known := kinds[b.Kind]
	if !known {
		return nil, fmt.Errorf("backend %s: %w: there is no kind %s here", b.Name, sharedmem.ErrOtherVersion, b.Kind)
	}
	made, err := k.reopen(b.Settings, arena.Place{Folder: f, Name: b.Files}, o.Log)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", b.Name, err)
	}
	return made, nil
}

// state is the state that is recorded; one that is not known is frozen.
func (b recordedBackend) state() frontswap.State {
	known := []frontswap.State{frontswap.StateActive, frontswap.StateDraining, frontswap.StateFrozen, frontswap.StateFailed}
	i := slices.IndexFunc(known, func(s frontswap.State) bool { return s.String() == b.State })
	if i < 0 {
		return frontswap.StateFrozen
	}
	return known[i]
}

// behindRules is the backend that fault injection is before.
func behindRules(b backends.Backend) backends.Backend {
	if wrapped, ok := b.(*fault.Backend); ok {
		return wrapped.Backend
	}
	return b
}
