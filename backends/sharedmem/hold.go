package sharedmem

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// anyPurpose is for who opens a file without knowing what it is for.
const anyPurpose = ""

// Hold maps every region file and has what it has in memory stay there, beside the
// process that they belong to, until Close: a tmpfs is swapped out where nobody has
// it locked. Another call takes in what came since. It is for a process that has its
// memory locked as it is touched, and for a folder that is opened to be read only:
// what Open returns from then on is the same mapping, so that nothing has to be
// faulted in again. REQUIRES: no file is made, grown or removed meanwhile, and
// nothing else of the folder is in use.
func (f *Folder) Hold() error {
	paths, err := f.files()
	if err != nil {
		return fmt.Errorf("hold the memory folder: %w", err)
	}
	for _, path := range paths {
		name, whole := strings.CutSuffix(filepath.Base(path), suffix)
		if !whole {
			continue // nobody's
		}
		r := f.held[name]
		if r == nil {
			if r, _, err = f.Open(name, anyPurpose); err != nil {
				return err
			}
			if f.held == nil {
				f.held = map[string]*Region{}
			}
			f.held[name] = r
			if err := r.keepHeader(); err != nil {
				return err
			}
		}
		if err := r.keep(); err != nil {
			return err
		}
	}
	return nil
}

// keepHeader maps the header too, which Open reads, until Leave.
func (r *Region) keepHeader() error {
	head, err := unix.Mmap(r.fd, 0, headerSize, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("keep the header of the %s in memory: %w", r.purpose, os.NewSyscallError("mmap", err))
	}
	r.past = append(r.past, head)
	_, err = decodeHeader(head) // which touches it
	return err
}

// keep touches what the region has in memory, and nothing else (M4), by reading. The
// bytes may be changed and punched meanwhile.
func (r *Region) keep() error {
	// What is punched between the look and the touch takes memory again, and a
	// short piece makes that unlikely.
	const most = 1 << 20
	for start, end := r.Touched(0); start < end; start, end = r.Touched(end) {
		end = min(end, start+most)
		err := unix.Madvise(r.data[start:end], unix.MADV_POPULATE_READ)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			end = start
		case errors.Is(err, unix.EFAULT): // punched meanwhile, and the tmpfs is full
		case errors.Is(err, unix.EINVAL): // before Linux 5.14: faults will do it
			return nil
		case err != nil:
			return fmt.Errorf("keep the %s in memory: %w", r.purpose, err)
		}
	}
	return nil
}
