package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/state"
)

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
		err = d.memory.RemoveExcept(d.isLent)
	}
	if err == nil {
		d.record, err = createRecord(d.memory)
	}
	if err != nil {
		d.memory.Leave() // it may be another's
		return d.config.Fault("memory_dir", cureMemory(err, d.config.Memory), err)
	}
	d.warnOfRoom()
	if last.Identity == "" || last.Memory != d.memory.Path() {
		last.Identity, last.Memory, last.NextID = d.identity.String(), d.memory.Path(), d.nextID
		if last.BootID == "" { // there was no run
			last.BootID, last.Clean = d.options.BootID, true
		}
		return d.folder.Save(last)
	}
	return nil
}

// warnOfRoom says if backends will refuse pages long before their limits.
func (d *Daemon) warnOfRoom() {
	wanted := int64(0)
	for _, b := range d.config.Backends {
		wanted += b.Memory
	}
	if room, err := d.memory.Room(); err == nil && room < wanted {
		d.log.Warn("the memory folder has less room than the backends may take: they refuse pages when it is full",
			"memory_dir", d.memory.Path(), "room", cli.Bytes(uint64(room)), "backends", cli.Bytes(uint64(wanted)))
	}
}

func (d *Daemon) openFolder(path string) (*sharedmem.Folder, error) {
	return sharedmem.OpenFolder(sharedmem.FolderConfig{
		Path: path, Identity: d.identity, Boot: d.options.BootID, Inherited: d.options.Heir.take("memory"),
		// What the program before had locked, and its child holds for us. Not of a process
		// that was killed: that may be swapped out by now, to ourselves.
		Keep: d.options.Heir.runs() && d.options.Protection.Locked(),
	})
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
			err = f.RemoveExcept(func(string) bool { return false })
		}
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		d.log.Warn("memory files of an earlier run stay", "memory_dir", path, "error", err)
	}
}

// closeMemory removes the folder, unless it is left for another process, or other hosts
// have pages in it.
func (d *Daemon) closeMemory() error {
	if d.memory == nil {
		return d.closeLent()
	}
	var errs []error
	if d.record != nil {
		errs = append(errs, d.record.Close())
	}
	if !d.memory.Left() {
		errs = append(errs, d.memory.RemoveExcept(d.isLent))
	}
	errs = append(errs, d.closeLent())
	return errors.Join(append(errs, d.memory.Close())...)
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
