package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// State is what state.json holds.
type State struct {
	Version int    `json:"version"`
	BootID  string `json:"boot_id"` // of the boot in which it was written
	Clean   bool   `json:"clean"`

	// Identity is in every memory file of the folder: 32 hexadecimal digits, random.
	Identity string `json:"identity,omitempty"`
	// Memory is the folder of the memory files, or empty if there are none.
	Memory string `json:"memory,omitempty"`
	// NextID is above every export's ID that there ever was.
	NextID uint32 `json:"next_id,omitempty"`

	Exports []Export `json:"exports"`
	Clients []Client `json:"clients,omitempty"`

	// Disks are those that requests made, not the configuration: the next run serves
	// them too.
	Disks []Disk `json:"disks,omitempty"`
}

// Client is one client as it was. Created and Changed say that a request made it, or
// changed it against the configuration.
type Client struct {
	Name        string `json:"name"`
	Weight      uint32 `json:"weight"`
	Cap         uint64 `json:"cap,omitempty"`
	Reservation uint64 `json:"reservation,omitempty"`
	Dedup       bool   `json:"dedup,omitempty"`
	Frozen      bool   `json:"frozen,omitempty"`
	Created     bool   `json:"created,omitempty"`
	Changed     bool   `json:"changed,omitempty"`
}

// Disk is one disk as it was served. Its content is in its file or device only.
type Disk struct {
	Name     string   `json:"name"`
	Path     string   `json:"path"`
	Made     bool     `json:"made,omitempty"` // the file was made for it
	ReadOnly bool     `json:"read_only,omitempty"`
	Base     string   `json:"base,omitempty"`
	Shared   string   `json:"shared,omitempty"`
	Mode     string   `json:"mode,omitempty"` // that it had
	Allow    []string `json:"allow,omitempty"`
}

// Export is one export as it was served.
type Export struct {
	Name    string `json:"name"`
	ID      uint32 `json:"id"`   // stays the same; in its memory files
	Size    int64  `json:"size"` // bytes
	Storage string `json:"storage"`

	// Content names the content: it is made anew when the storage is emptied.
	// Clients that reconnect tell by it that their pages are gone.
	Content string `json:"content,omitempty"`

	// Created says that the export was made by a request, not by the
	// configuration: the next run serves it too.
	Created      bool     `json:"created,omitempty"`
	Writethrough string   `json:"writethrough,omitempty"` // the mode that it had
	Allow        []string `json:"allow,omitempty"`        // of a created one: who may open it
	Client       string   `json:"client,omitempty"`       // whom it belongs to

	// Resized says that the size of an export of the configuration was changed by
	// a request: it stands against the one that is configured.
	Resized bool `json:"resized,omitempty"`

	// Deleted says that the export is gone and its storage is left, with content
	// that is not whole: whoever uses it under this name again empties it.
	Deleted bool `json:"deleted,omitempty"`

	// Restoring says that a process is filling the export with saved pages, and that
	// nothing of that counts if it does not come to its end; see RestoringExport.
	Restoring string `json:"restoring,omitempty"`

	// Moved is where another daemon has the export now. Nothing of it is here any more.
	Moved string `json:"moved,omitempty"`
}

// What of an export is being restored, and is dropped if the process dies.
const (
	RestoringExport = "export" // it is not served yet, and its storage was made for it
	RestoringPages  = "pages"  // it was there before, and empty
)

// FileName is the name of the state in its folder.
const FileName = "state.json"

// version is the format of state.json. Another one is refused.
const version = 1

// InUseError says that another process has the folder.
type InUseError struct {
	Dir string
	PID int // 0 if it is not known
}

// Error implements error.
func (e *InUseError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("the folder %s is in use by another tmemd", e.Dir)
	}
	return fmt.Sprintf("the folder %s is in use by another tmemd, process %d", e.Dir, e.PID)
}

// ErrDamaged is in the chain of an error from Load if state.json is there and
// says nothing that can be used.
var ErrDamaged = errors.New("it cannot be used")

// Folder is a state folder that this process has for itself.
type Folder struct {
	dir  string
	lock *os.File
}

// Open makes the folder if it is missing, its parents too, with mode 0700, and
// takes it. The error is an *InUseError if somebody else has it.
func Open(dir string) (*Folder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the state folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("take the state folder: %w", err)
	}
	if err := takeLock(lock); err != nil {
		defer lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &InUseError{Dir: dir, PID: lockHolder(lock)}
		}
		return nil, fmt.Errorf("take the state folder: %w", err)
	}
	return &Folder{dir: dir, lock: lock}, nil
}

// Inherit opens a folder with the lock that Folder.Lock returned in another
// process, which handed it over. The folder owns it then.
func Inherit(dir string, lock *os.File) (*Folder, error) {
	here, err := os.Stat(filepath.Join(dir, "lock"))
	if err == nil {
		var there os.FileInfo
		if there, err = lock.Stat(); err == nil && !os.SameFile(here, there) {
			err = errors.New("the lock that was handed over is another folder's")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("take the state folder over: %w", err)
	}
	return &Folder{dir: dir, lock: lock}, nil
}

// Lock is the lock that keeps others out. It is the folder's.
func (f *Folder) Lock() *os.File { return f.lock }

// OpenToLook opens a folder that nobody uses, without changing anything in it.
func OpenToLook(dir string) (*Folder, error) {
	lock, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("look at the state folder: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		defer lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &InUseError{Dir: dir, PID: lockHolder(lock)}
		}
		return nil, fmt.Errorf("look at the state folder: %w", os.NewSyscallError("flock", err))
	}
	return &Folder{dir: dir, lock: lock}, nil
}

func takeLock(lock *os.File) error {
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return os.NewSyscallError("flock", err)
	}
	if err := lock.Truncate(0); err != nil {
		return err
	}
	_, err := lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// lockHolder reads who has the lock: 0 in the moment before it is written.
func lockHolder(lock *os.File) int {
	text := make([]byte, 32)
	n, _ := lock.ReadAt(text, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if err != nil {
		return 0
	}
	return pid
}

// Path is the path of a file in the folder.
func (f *Folder) Path(name string) string { return filepath.Join(f.dir, name) }

// Load returns the state that was saved last; found is false if none was.
func (f *Folder) Load() (s State, found bool, err error) {
	path := f.Path(FileName)
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return State{}, false, nil
	}
	if err != nil {
		return State{}, false, fmt.Errorf("read the state of the last run: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return State{}, true, fmt.Errorf("read %s: %w: %v", path, ErrDamaged, err)
	}
	if s.Version != version {
		return State{}, true, fmt.Errorf("read %s: %w: it has version %d, this tmemd knows version %d", path, ErrDamaged, s.Version, version)
	}
	return s, true, nil
}

// Save replaces the state. When it returns nil the new one is on the medium,
// else one of the two is.
func (f *Folder) Save(s State) error {
	s.Version = version
	if s.Exports == nil {
		s.Exports = []Export{}
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the state: %w", err)
	}
	if err := f.replace(f.Path(FileName), append(text, '\n')); err != nil {
		return fmt.Errorf("save the state: %w", err)
	}
	return nil
}

func (f *Folder) replace(path string, text []byte) error {
	beside := path + ".new"
	if err := writeSynced(beside, text); err != nil {
		return err
	}
	if err := os.Rename(beside, path); err != nil {
		return err
	}
	dir, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

func writeSynced(path string, text []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Sync(), file.Close())
}

// Close gives the folder to whoever wants it next.
func (f *Folder) Close() error {
	if err := f.lock.Close(); err != nil {
		return fmt.Errorf("give the state folder back: %w", err)
	}
	return nil
}

// BootID names this boot of the machine.
func BootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("find out which boot this is: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}
