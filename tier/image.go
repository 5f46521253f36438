package tier

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OpenImage opens storage that is there and is the truth: a file or a block device
// with content of its own, of a length that is a multiple of the page size. Read only,
// others may have it open read only too. It has buffers of its own.
func OpenImage(path string, readOnly bool) (*File, error) {
	s, err := new(Buffers).OpenImage(path, readOnly)
	if err == nil {
		s.own = true
	}
	return s, err
}

// OpenImage is the function of that name, for files that share buffers.
func (b *Buffers) OpenImage(path string, readOnly bool) (*File, error) {
	s, err := b.openImage(path, readOnly)
	if err != nil {
		return nil, fmt.Errorf("open image %s: %w", path, err)
	}
	return s, nil
}

func (b *Buffers) openImage(path string, readOnly bool) (_ *File, err error) {
	flags, lock := os.O_RDWR, unix.LOCK_EX
	if readOnly {
		flags, lock = os.O_RDONLY, unix.LOCK_SH
	}
	f, direct, err := openExisting(path, flags)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := unix.Flock(int(f.Fd()), lock|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrInUse
	} else if err != nil {
		return nil, fmt.Errorf("lock it: %w", err)
	}
	size, err := imageSize(f)
	if err != nil {
		return nil, err
	}
	s := &File{path: path, file: f, direct: direct, buffers: b}
	s.pages.Store(uint64(size / pageSize))
	s.dirty.Store(true) // an earlier process may have written and not synced
	if direct {
		return s, s.makeBounce()
	}
	return s, nil
}

// openExisting is openDirect for what is not to be made.
func openExisting(path string, flags int) (f *os.File, direct bool, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, false, err
	}
	if st.Mode().Type() == os.ModeDevice && flags == os.O_RDWR {
		flags |= unix.O_EXCL
	}
	f, err = os.OpenFile(path, flags|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		f, err = os.OpenFile(path, flags, 0)
		return f, false, err
	}
	return f, true, err
}

func imageSize(f *os.File) (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if st.Mode().Type() != os.ModeDevice && !st.Mode().IsRegular() {
		return 0, errors.New("neither a file nor a block device")
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if size <= 0 || size%pageSize != 0 {
		return 0, fmt.Errorf("its size of %d bytes is not a positive multiple of %d", size, pageSize)
	}
	return size, nil
}

// makeBounce makes ready for bounce buffers.
func (s *File) makeBounce() error {
	s.bounce = make(chan struct{}, bounceCount)
	return s.buffers.join()
}

// Allocated returns the first run of pages from page on that have space on the file
// system: which were written, and not punched since. first is the number of pages if
// there is none. It fails for a device, and where space is given in more than pages.
func (s *File) Allocated(page uint64) (first, last uint64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(s.file.Fd()), &st); err != nil {
		return 0, 0, os.NewSyscallError("fstat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Blksize > pageSize {
		return 0, 0, errors.New("it has to be a file on a file system with blocks of 4096 bytes or less")
	}
	start, err := unix.Seek(int(s.file.Fd()), int64(page)*pageSize, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return s.Pages(), s.Pages(), nil
	}
	if err != nil {
		return 0, 0, os.NewSyscallError("lseek", err)
	}
	end, err := unix.Seek(int(s.file.Fd()), start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, os.NewSyscallError("lseek", err)
	}
	return uint64(start / pageSize), uint64((end + pageSize - 1) / pageSize), nil
}

// CreateImage makes a file of so many pages of zeros that is there after a power cut. It
// fails if the file is there.
func CreateImage(path string, pages uint64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("create image: %w", err)
	}
	err = errors.Join(f.Truncate(int64(pages)*pageSize), f.Sync(), f.Close())
	if err == nil {
		err = SyncFolder(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("create image %s: %w", path, errors.Join(err, os.Remove(path)))
	}
	return nil
}

// SyncFolder makes the names in a folder outlive a power cut.
func SyncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
