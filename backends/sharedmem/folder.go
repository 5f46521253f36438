package sharedmem

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Identity names the owner of a folder: random, so that the files of two are
// never taken for each other's.
type Identity [16]byte

// NewIdentity makes one.
func NewIdentity() (id Identity) {
	_, _ = rand.Read(id[:]) // never an error
	return id
}

// String returns 32 hexadecimal digits.
func (id Identity) String() string { return hex.EncodeToString(id[:]) }

// ParseIdentity is the inverse of String.
func ParseIdentity(text string) (id Identity, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("%q is not an identity of 32 hexadecimal digits", text)
	}
	return Identity(b), nil
}

// What can be wrong with a folder.
var (
	// ErrNotMemory: the file system is not one that keeps files in memory.
	ErrNotMemory = errors.New("it is not on a tmpfs: pages would be written to disk")
	// ErrNotPrivate: others than the user could read or replace pages.
	ErrNotPrivate = errors.New("it is not a folder that only this user may enter")
	// ErrFolderInUse: another process has it open.
	ErrFolderInUse = errors.New("another process uses it")
)

// FolderConfig says which folder is opened, and by whom.
type FolderConfig struct {
	Path     string // absolute; made with mode 0700 if it is missing, but not its parents
	Identity Identity
	Boot     string // of this boot of the machine
	ReadOnly bool   // nothing is made, changed or removed; the folder has to be there
	Keep     bool   // what is in memory stays there from Open on, for who locks what he touches

	// Inherited is the lock that Folder.Lock of another process returned, for who was
	// given it by that process; nil to take one. The folder owns it then.
	Inherited *os.File
}

// Folder is a folder on memory whose regions outlive the process: each is a file.
// A nil *Folder makes regions that end with the process, and has none to open.
// Methods may be called from any goroutine.
type Folder struct {
	config FolderConfig // immutable
	lock   *os.File     // the folder itself, locked (flock)
	leave  atomic.Bool
	held   map[string]*Region // by name; written by Hold and Close only
}

// suffix is how names of region files end.
const suffix = ".mem"

// OpenFolder takes a folder for this process. Only a tmpfs will do: a disk would
// make swap of what is to be memory, and a ramfs cannot give memory back.
func OpenFolder(c FolderConfig) (*Folder, error) {
	made := false
	fail := func(err error) (*Folder, error) {
		if made {
			os.Remove(c.Path)
		}
		return nil, fmt.Errorf("memory folder %s: %w", c.Path, err)
	}
	if !c.ReadOnly {
		err := os.Mkdir(c.Path, 0o700)
		if made = err == nil; err != nil && !errors.Is(err, os.ErrExist) {
			return fail(err)
		}
	}
	// Not by way of a link: where everybody may write, others make links too.
	lock, err := os.OpenFile(c.Path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return fail(ErrNotPrivate)
	}
	if err != nil {
		return fail(err)
	}
	how := unix.LOCK_EX
	if c.ReadOnly {
		how = unix.LOCK_SH
	}
	err = checkFolder(lock)
	if err == nil && c.Inherited != nil {
		if err = sameFile(lock, c.Inherited); err == nil {
			lock.Close()
			return &Folder{config: c, lock: c.Inherited}, nil
		}
	} else if err == nil {
		err = unix.Flock(int(lock.Fd()), how|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrFolderInUse
	}
	if err != nil {
		lock.Close()
		return fail(err)
	}
	return &Folder{config: c, lock: lock}, nil
}

// sameFile refuses a lock on another folder.
func sameFile(a, b *os.File) error {
	first, err := a.Stat()
	if err != nil {
		return err
	}
	second, err := b.Stat()
	if err == nil && !os.SameFile(first, second) {
		err = errors.New("the lock that was handed over is another folder's")
	}
	return err
}

func checkFolder(f *os.File) error {
	var system unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &system); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if system.Type != unix.TMPFS_MAGIC {
		return ErrNotMemory
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return ErrNotPrivate
	}
	return nil
}

// Lock is the lock that keeps others out, to be handed over to another process
// with the folder. It is the folder's.
func (f *Folder) Lock() *os.File { return f.lock }

// Room is how many bytes its tmpfs still takes, as far as the file system says.
func (f *Folder) Room() (int64, error) {
	var system unix.Statfs_t
	if err := unix.Fstatfs(int(f.lock.Fd()), &system); err != nil {
		return 0, fmt.Errorf("memory folder %s: %w", f.config.Path, os.NewSyscallError("fstatfs", err))
	}
	return int64(system.Bavail) * system.Bsize, nil
}

// Path is where the folder is.
func (f *Folder) Path() string { return f.config.Path }

func (f *Folder) path(name string) string { return filepath.Join(f.config.Path, name+suffix) }

// Create maps a new region of size bytes, all zero, which takes memory where it
// is claimed or touched. note comes back from Open. The file has its name when it
// is whole, and not before; a name that is taken is an error.
func (f *Folder) Create(name, purpose string, size int64, note uint64) (*Region, error) {
	if f == nil {
		return NewFile(purpose, size)
	}
	r, err := f.create(name, purpose, size, note)
	if err != nil {
		return nil, fmt.Errorf("create a memory file for the %s: %w", purpose, err)
	}
	return r, nil
}

func (f *Folder) create(name, purpose string, size int64, note uint64) (_ *Region, err error) {
	h := header{size: size, note: note, identity: f.config.Identity, boot: f.config.Boot, purpose: purpose, name: name}
	if size <= 0 || !h.fits() || strings.ContainsRune(name, '/') {
		return nil, fmt.Errorf("%q of %d bytes is out of range", name, size)
	}
	beside := f.path(name) + ".new"
	if err := os.Remove(beside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	fd, err := unix.Open(beside, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: beside, Err: err}
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
			os.Remove(beside)
		}
	}()
	if _, err := unix.Pwrite(fd, h.encode(), 0); err != nil {
		return nil, &os.PathError{Op: "write", Path: beside, Err: err}
	}
	if err := unix.Ftruncate(fd, headerSize+size); err != nil {
		return nil, &os.PathError{Op: "truncate", Path: beside, Err: err}
	}
	data, err := unix.Mmap(fd, headerSize, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, beside, unix.AT_FDCWD, f.path(name), unix.RENAME_NOREPLACE); err != nil {
		return nil, errors.Join(&os.PathError{Op: "rename", Path: beside, Err: err}, unix.Munmap(data))
	}
	return &Region{purpose: purpose, folder: f, name: name, header: h, start: headerSize, data: data, fd: fd}, nil
}

// Open maps the region that Create made under that name and for that purpose,
// with the size and the note that it was given. Everything that the header says
// is checked first; the data is the owner's to check.
func (f *Folder) Open(name, purpose string) (r *Region, note uint64, err error) {
	if f == nil {
		return nil, 0, fmt.Errorf("open the memory file of the %s: %w", purpose, os.ErrNotExist)
	}
	path := f.path(name)
	flags, protection := unix.O_RDWR, unix.PROT_READ|unix.PROT_WRITE
	if f.config.ReadOnly {
		flags, protection = unix.O_RDONLY, unix.PROT_READ
	}
	fail := func(err error) (*Region, uint64, error) {
		return nil, 0, fmt.Errorf("memory file %s (%s): %w", path, purpose, err)
	}
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fail(err)
	}
	h, err := f.check(fd, name)
	if err == nil && h.purpose != purpose && purpose != anyPurpose {
		err = fmt.Errorf("%w: it is %s (%s)", ErrOtherFolder, h.name, h.purpose)
	}
	if err != nil {
		unix.Close(fd)
		return fail(err)
	}
	r = &Region{purpose: h.purpose, folder: f, name: name, header: h, start: headerSize, fd: fd}
	if held := f.held[name]; held != nil && held.header.size == h.size {
		r.data, r.lent = held.data, true
		return r, h.note, nil
	}
	if r.data, err = unix.Mmap(fd, headerSize, int(h.size), protection, unix.MAP_SHARED); err != nil {
		unix.Close(fd)
		return fail(os.NewSyscallError("mmap", err))
	}
	if f.config.Keep {
		if err := r.keep(); err != nil {
			return fail(errors.Join(err, r.Leave()))
		}
	}
	return r, h.note, nil
}

// check reads and checks the header of an open file.
func (f *Folder) check(fd int, name string) (header, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return header{}, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return header{}, fmt.Errorf("%w: it is not a file", ErrDamaged)
	}
	b := make([]byte, headerSize)
	if n, err := unix.Pread(fd, b, 0); err != nil {
		return header{}, os.NewSyscallError("pread", err)
	} else if n < headerSize {
		return header{}, fmt.Errorf("%w: it has %d bytes, which is less than its header", ErrDamaged, n)
	}
	h, err := decodeHeader(b)
	switch {
	case err != nil:
		return h, err
	case h.identity != f.config.Identity:
		return h, fmt.Errorf("%w: its identity is %s, the state folder's is %s", ErrOtherFolder, h.identity, f.config.Identity)
	case h.boot != f.config.Boot:
		return h, ErrOtherBoot
	case h.name != name:
		return h, fmt.Errorf("%w: it is %s (%s)", ErrOtherFolder, h.name, h.purpose)
	case h.size <= 0 || st.Size < headerSize+h.size:
		return h, fmt.Errorf("%w: it has %d bytes of %d", ErrDamaged, st.Size, headerSize+h.size)
	}
	return h, nil
}

// Foreign returns an error that names a file in the folder that does not belong to
// this identity and boot, or nil. What begins as no memory file does is nobody's.
func (f *Folder) Foreign() error {
	files, err := f.files()
	if err != nil {
		return err
	}
	for _, path := range files {
		b, err := readHeader(path)
		if err != nil {
			return err
		}
		if h, err := decodeHeader(b); err == nil && h.boot == f.config.Boot && h.identity != f.config.Identity {
			return fmt.Errorf("memory file %s: %w: its identity is %s, the state folder's is %s", path, ErrOtherFolder, h.identity, f.config.Identity)
		}
	}
	return nil
}

func readHeader(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b := make([]byte, headerSize)
	n, _ := file.Read(b) // what is too short is found out
	return b[:n], nil
}

// files lists the region files, and what was to become one.
func (f *Folder) files() (paths []string, err error) {
	for _, pattern := range []string{"*" + suffix, "*.new"} {
		found, err := filepath.Glob(filepath.Join(f.config.Path, pattern))
		if err != nil {
			return nil, err
		}
		paths = append(paths, found...)
	}
	return paths, nil
}

// RemoveExcept removes the region files whose names keep does not say to keep, and
// what was never finished.
func (f *Folder) RemoveExcept(keep func(name string) bool) error {
	files, err := f.files()
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range files {
		name, whole := strings.CutSuffix(filepath.Base(path), suffix)
		if whole && keep(name) {
			continue
		}
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

// Leave makes every Close from now on leave the files as they are, for a process
// that takes over.
func (f *Folder) Leave() {
	if f != nil {
		f.leave.Store(true)
	}
}

func (f *Folder) left() bool { return f.leave.Load() || f.config.ReadOnly }

// Left says whether Leave was called, or nothing may be changed in any case.
func (f *Folder) Left() bool { return f != nil && f.left() }

// Close lets others have the folder, and removes it if it is empty. Regions may
// stay in use.
func (f *Folder) Close() error {
	if f == nil {
		return nil
	}
	if !f.left() {
		// Its error is that something is left in it, or that others may not remove it.
		_ = os.Remove(f.config.Path)
	}
	var errs []error
	for _, r := range f.held {
		errs = append(errs, r.Leave())
	}
	f.held = nil
	if err := errors.Join(append(errs, f.lock.Close())...); err != nil {
		return fmt.Errorf("give the memory folder back: %w", err)
	}
	return nil
}
