package sharedmem

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Usage is what one region costs.
type Usage struct {
	Purpose  string // what it is for: "page map", "zcache arena", …
	Mapped   int64  // bytes of address space
	Resident int64  // bytes of memory taken, of any kind (RAM or swap)
}

// Region is mapped memory. Its bytes may be used by any goroutine; Punch is
// safe at any time before Close, Usage at any time at all, Grow beside anything
// but Bytes and Close.
type Region struct {
	purpose string // immutable

	// What a file of a Folder has beside; immutable.
	folder *Folder
	name   string
	header header // what the file says of itself; its size is guarded by mu
	start  int64  // of the data in the file: behind the header
	lent   bool   // the mapping is that of a region that the folder holds

	mu   sync.RWMutex // keeps Usage and Punch off a file that Close has closed
	data []byte       // nil after Close; written under mu
	past [][]byte     // the mappings from before the region grew; guarded by mu
	fd   int          // memory file, or -1 for private memory or after Close; written under mu
}

// NewFile maps a new shared memory file of size bytes, all zero, which takes
// memory only where it is touched.
func NewFile(purpose string, size int64) (*Region, error) {
	fd, err := unix.MemfdCreate("tmemd "+purpose, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create shared memory for the %s: %w", purpose, os.NewSyscallError("memfd_create", err))
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("size shared memory for the %s to %d bytes: %w", purpose, size, err)
	}
	data, err := mapFile(fd, 0, size)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("map %d bytes for the %s: %w", size, purpose, err)
	}
	return &Region{purpose: purpose, data: data, fd: fd}, nil
}

func mapFile(fd int, start, size int64) ([]byte, error) {
	return unix.Mmap(fd, start, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// Grow makes the region size bytes long; what is new is zero. Bytes returns
// another slice then, and the old one stays good: it is the same memory (M1).
// Each growth costs address space until Close. Only for shared memory files; in a
// folder the memory is claimed if claim says so, see Claim, and the file says how long
// it is before anybody can use what is new.
func (r *Region) Grow(size int64, claim bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := int64(len(r.data))
	if size <= old {
		return nil
	}
	if err := unix.Ftruncate(r.fd, r.start+size); err != nil {
		return fmt.Errorf("grow the %s to %d bytes: %w", r.purpose, size, os.NewSyscallError("ftruncate", err))
	}
	if r.folder != nil {
		if claim {
			if err := r.claimLocked(old, size-old); err != nil {
				// What was claimed until then goes back: nobody has it mapped.
				return errors.Join(fmt.Errorf("grow the %s to %d bytes: %w", r.purpose, size, err), unix.Ftruncate(r.fd, r.start+old))
			}
		}
		longer := r.header
		longer.size = size
		if _, err := unix.Pwrite(r.fd, longer.encode(), 0); err != nil {
			return fmt.Errorf("grow the %s to %d bytes: %w", r.purpose, size, os.NewSyscallError("pwrite", err))
		}
		r.header = longer
	}
	// Not mremap: it may have to move the mapping, which others use.
	data, err := mapFile(r.fd, r.start, size)
	if err != nil {
		return fmt.Errorf("map %d bytes for the %s: %w", size, r.purpose, err)
	}
	r.past = append(r.past, r.data)
	r.data = data
	return nil
}

// NewPrivate maps size bytes of private memory, touched beforehand, so that
// using it faults nothing in.
func NewPrivate(purpose string, size int64) (*Region, error) {
	data, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes for the %s: %w", size, purpose, err)
	}
	// Not MAP_POPULATE, which does nothing where memory is locked on fault.
	if err := touch(data); err != nil {
		return nil, errors.Join(fmt.Errorf("take %d bytes for the %s: %w", size, purpose, err), unix.Munmap(data))
	}
	return &Region{purpose: purpose, data: data, fd: -1}, nil
}

// Bytes returns the region's memory, page aligned. It is dead after Close.
func (r *Region) Bytes() []byte { return r.data }

// Punch gives the memory of [offset, offset+length) back to the system; the
// bytes read as zero afterwards. Both must be multiples of the system's page
// size. Only for shared memory files.
func (r *Region) Punch(offset, length int64) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	if offset < 0 {
		return fmt.Errorf("give back %d bytes of the %s: offset %d is negative", length, r.purpose, offset)
	}
	if err := fallocate(r.fd, mode, r.start+offset, length); err != nil {
		return fmt.Errorf("give back %d bytes of the %s: %w", length, r.purpose, err)
	}
	return nil
}

// Claim takes memory for [offset, offset+length), so that touching it cannot fail:
// a tmpfs may be full, and that is a fault (SIGBUS) where a mapping is touched.
// The error has ENOSPC in its chain then. Both must be multiples of the system's
// page size. Memory that ends with the process has no such bound, and nothing to
// claim.
func (r *Region) Claim(offset, length int64) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.claimLocked(offset, length)
}

// claimLocked REQUIRES: mu held, for reading at least.
func (r *Region) claimLocked(offset, length int64) error {
	if r.folder == nil {
		return nil
	}
	const piece = 64 << 20 // a signal undoes the piece that is under way
	for end := offset + length; offset < end; offset += piece {
		if err := fallocate(r.fd, unix.FALLOC_FL_KEEP_SIZE, r.start+offset, min(piece, end-offset)); err != nil {
			return fmt.Errorf("claim %d bytes for the %s in %s: %w", length, r.purpose, r.folder.config.Path, err)
		}
	}
	return nil
}

// Touch takes the memory of [offset, offset+length) now, if it has none yet, so
// that using it later faults nothing in. Both must be multiples of the system's
// page size. The bytes stay as they are.
func (r *Region) Touch(offset, length int64) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if err := touch(r.data[offset : offset+length]); err != nil {
		return fmt.Errorf("take %d bytes for the %s: %w", length, r.purpose, err)
	}
	return nil
}

// touch takes the memory of b, which is mapped and starts at a page.
func touch(b []byte) error {
	// In pieces, as a signal of the runtime's own ends the call without a hint how
	// far it got. Touching what has memory costs little.
	for len(b) > 0 {
		piece := b[:min(len(b), 64<<20)]
		err := unix.Madvise(piece, unix.MADV_POPULATE_WRITE)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case errors.Is(err, unix.EINVAL): // before Linux 5.14
			for at := 0; at < len(piece); at += os.Getpagesize() {
				atomic.AddUint32((*uint32)(unsafe.Pointer(&piece[at])), 0)
			}
		case err != nil:
			return os.NewSyscallError("madvise", err)
		}
		b = b[len(piece):]
	}
	return nil
}

func fallocate(fd int, mode uint32, offset, length int64) error {
	err := unix.Fallocate(fd, mode, offset, length)
	for errors.Is(err, unix.EINTR) { // the runtime's own signals
		err = unix.Fallocate(fd, mode, offset, length)
	}
	return err
}

// Touched returns the first range of bytes at or after from that has memory,
// in whole pages of the system; start is the region's length if there is none.
// What lies outside has never been touched, or was punched, and reads as zeros:
// looking there would take memory (M4). Only for shared memory files.
func (r *Region) Touched(from int64) (start, end int64) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	size := int64(len(r.data))
	at, err := unix.Seek(r.fd, r.start+from, unix.SEEK_DATA)
	start = at - r.start
	if errors.Is(err, unix.ENXIO) || err == nil && start >= size {
		return size, size
	}
	if err != nil {
		return from, size // it cannot tell: all of it then
	}
	end, err = unix.Seek(r.fd, at, unix.SEEK_HOLE)
	if err != nil {
		return start, size
	}
	return start, min(end-r.start, size)
}

// Usage reports what the region costs now: nothing after Close.
func (r *Region) Usage() Usage {
	r.mu.RLock()
	defer r.mu.RUnlock()
	u := Usage{Purpose: r.purpose, Mapped: int64(len(r.data)), Resident: int64(len(r.data))}
	for _, old := range r.past {
		u.Mapped += int64(len(old))
	}
	if r.fd >= 0 {
		var st unix.Stat_t
		if unix.Fstat(r.fd, &st) == nil {
			u.Resident = st.Blocks * 512 // the header of a file in a Folder included
		}
	}
	return u
}

// Close unmaps the region and gives everything back. A file of a [Folder] is
// removed, unless the folder is left as it is; see Folder.Leave.
func (r *Region) Close() error {
	err := r.Leave()
	if r.folder != nil && !r.folder.left() {
		if e := os.Remove(r.folder.path(r.name)); err == nil && e != nil {
			err = fmt.Errorf("release the %s: %w", r.purpose, e)
		}
	}
	return err
}

// Leave is Close, but for a file of a [Folder], which stays.
func (r *Region) Leave() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	if !r.lent {
		err = unix.Munmap(r.data)
	}
	for _, old := range r.past {
		err = errors.Join(err, unix.Munmap(old))
	}
	r.data, r.past = nil, nil
	if r.fd >= 0 {
		if e := unix.Close(r.fd); err == nil {
			err = e
		}
		r.fd = -1
	}
	if err != nil {
		return fmt.Errorf("release the %s: %w", r.purpose, err)
	}
	return nil
}
