package tier

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/latency"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

const pageSize = backends.PageSize

// Storage is where the pages of an export are that no backend has. The device
// that owns it never has a write and any other operation on one page under way
// at once. Lengths are multiples of the page size. Tests put faults between.
type Storage interface {
	// Pages is the length. Only Resize changes it.
	Pages() uint64
	// Resize changes the length, and says whether the pages that are gained read
	// as zeros. Beside it there may be operations on pages that stay, but no other
	// Resize. On an error nothing has changed.
	Resize(pages uint64) (zeros bool, err error)
	// ReadPages fills p from page first.
	ReadPages(first uint64, p []byte) error
	// WritePages writes p at page first. On an error any part may be written.
	WritePages(first uint64, p []byte) error
	// PunchPages makes n pages read as zero and gives their space back.
	// ErrNoPunch if it cannot.
	PunchPages(first, n uint64) error
	// Sync returns when everything written is on the medium.
	Sync() error
	// Stats returns a snapshot.
	Stats() StorageStats
	Close() error
}

// ErrInUse says that storage belongs to another export, of this or another
// process.
var ErrInUse = errors.New("another export uses it")

// ErrTooSmall says that a block device ends before the export would.
var ErrTooSmall = errors.New("the device is too small")

// ErrNoPunch says that storage cannot give space back.
var ErrNoPunch = errors.New("storage cannot punch holes")

// StorageStats is a storage's account of itself.
type StorageStats struct {
	Path          string
	Direct        bool   // O_DIRECT: the page cache is not involved
	PagesRead     uint64 // since it was opened
	PagesWritten  uint64
	PagesPunched  uint64
	ReadErrors    uint64
	WriteErrors   uint64
	PunchErrors   uint64
	AllocatedSize int64 // bytes that the file takes on its file system; the size for a block device

	// How long operations took; with the page cache, which answers in a microsecond, reads
	// and writes at the pages that latency.Sampled picks.
	Reads, Writes, Syncs latency.Snapshot

	Memory []sharedmem.Usage
}

// File is storage in a sparse file or a block device. Reads and writes may run
// at once from any goroutine.
type File struct {
	path   string        // immutable
	file   *os.File      // immutable
	pages  atomic.Uint64 // changed by Resize
	direct bool          // immutable

	buffers *Buffers      // where bounce buffers come from
	own     bool          // immutable: buffers are this file's alone
	bounce  chan struct{} // a token for each buffer that may be in use at once; nil unless direct

	syncMu sync.Mutex  // one Sync at a time: a second one must not overtake the first
	dirty  atomic.Bool // written since the last Sync

	pagesRead, pagesWritten, pagesPunched atomic.Uint64
	readErrors, writeErrors, punchErrors  atomic.Uint64

	reads, writes, syncs latency.Histogram
}

// OpenFile opens size bytes of storage at path: a block device of at least that
// size, or a file, which is created and made that long if needed (sparse: it
// takes space as pages are written). size is a multiple of the page size.
// A file that is longer is refused: what it holds beyond size would be lost.
// It has buffers of its own.
func OpenFile(path string, size int64) (*File, error) {
	s, err := new(Buffers).OpenFile(path, size)
	if err == nil {
		s.own = true
	}
	return s, err
}

// OpenFile is the function of that name, for files that share buffers.
func (b *Buffers) OpenFile(path string, size int64) (*File, error) {
	if size <= 0 || size%pageSize != 0 {
		return nil, fmt.Errorf("open storage %s: size %d is not a positive multiple of %d", path, size, pageSize)
	}
	f, direct, err := openDirect(path)
	if err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	// Not for a process, for an open file: two exports of one daemon collide too.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("open storage %s: %w", path, ErrInUse)
		}
		return nil, fmt.Errorf("open storage %s: lock it: %w", path, err)
	}
	s := &File{path: path, file: f, direct: direct, buffers: b}
	s.pages.Store(uint64(size / pageSize))
	s.dirty.Store(true) // an earlier process may have written and not synced
	if err := s.fit(size); err != nil {
		f.Close()
		return nil, fmt.Errorf("open storage %s: %w", path, err)
	}
	if direct {
		if err := s.makeBounce(); err != nil {
			f.Close()
			return nil, fmt.Errorf("open storage %s: %w", path, err)
		}
	}
	return s, nil
}

// openDirect opens path without the page cache, or with it where the file
// system knows no O_DIRECT. A block device is opened exclusively, so that one
// that is mounted or in use for swap is refused.
func openDirect(path string) (f *os.File, direct bool, err error) {
	flags := os.O_RDWR | os.O_CREATE
	if st, err := os.Stat(path); err == nil && st.Mode().Type() == os.ModeDevice {
		flags = os.O_RDWR | unix.O_EXCL
	}
	f, err = os.OpenFile(path, flags|unix.O_DIRECT, 0o600)
	if errors.Is(err, unix.EINVAL) {
		f, err = os.OpenFile(path, flags, 0o600)
		return f, false, err
	}
	return f, true, err
}

func (s *File) fit(size int64) error {
	st, err := s.file.Stat()
	if err != nil {
		return err
	}
	if st.Mode().Type() == os.ModeDevice {
		return s.fitDevice(size)
	}
	if !st.Mode().IsRegular() {
		return errors.New("neither a file nor a block device")
	}
	if st.Size() > size {
		return fmt.Errorf("the file has %d bytes, more than the %d of the export", st.Size(), size)
	}
	return s.file.Truncate(size)
}

func (s *File) fitDevice(size int64) error {
	end, err := s.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if end < size {
		return fmt.Errorf("the device has %d bytes, %d are needed: %w", end, size, ErrTooSmall)
	}
	return nil
}

// Pages implements [Storage].
func (s *File) Pages() uint64 { return s.pages.Load() }

// Resize implements [Storage]. A file gets longer or shorter, of a device more
// or less is used.
func (s *File) Resize(pages uint64) (zeros bool, err error) {
	size := int64(pages) * pageSize
	st, err := s.file.Stat()
	if err == nil && st.Mode().IsRegular() {
		zeros, err = true, s.file.Truncate(size)
		s.dirty.Store(true)
	} else if err == nil {
		err = s.fitDevice(size)
	}
	if err != nil {
		return false, fmt.Errorf("resize storage %s to %d bytes: %w", s.path, size, err)
	}
	s.pages.Store(pages)
	return zeros, nil
}

// ReadPages implements [Storage].
func (s *File) ReadPages(first uint64, p []byte) error {
	start := s.begin(first)
	err := s.transfer(first, p, func(b []byte, off int64) error {
		_, err := s.file.ReadAt(b, off)
		return err
	}, true)
	end(&s.reads, start)
	if err != nil {
		s.readErrors.Add(1)
		return fmt.Errorf("read %d pages at page %d: %w", len(p)/pageSize, first, err)
	}
	s.pagesRead.Add(uint64(len(p) / pageSize))
	return nil
}

// WritePages implements [Storage].
func (s *File) WritePages(first uint64, p []byte) error {
	start := s.begin(first)
	err := s.transfer(first, p, func(b []byte, off int64) error {
		_, err := s.file.WriteAt(b, off)
		return err
	}, false)
	end(&s.writes, start)
	// After the write, so that no Sync can clear it too early.
	s.dirty.Store(true)
	if err != nil {
		s.writeErrors.Add(1)
		return fmt.Errorf("write %d pages at page %d: %w", len(p)/pageSize, first, err)
	}
	s.pagesWritten.Add(uint64(len(p) / pageSize))
	return nil
}

// begin reads the clock if the operation at that page is to be timed.
func (s *File) begin(page uint64) (start time.Time) {
	if s.direct || latency.Sampled(page) {
		start = time.Now()
	}
	return start
}

func end(h *latency.Histogram, start time.Time) {
	if !start.IsZero() {
		h.Observe(time.Since(start))
	}
}

// transfer does the I/O straight on p if it may, else by way of a bounce buffer.
func (s *File) transfer(first uint64, p []byte, do func([]byte, int64) error, reading bool) error {
	off := int64(first) * pageSize
	aligned := uintptr(unsafe.Pointer(unsafe.SliceData(p)))%pageSize == 0
	if !s.direct || aligned {
		return do(p, off)
	}
	s.bounce <- struct{}{}
	defer func() { <-s.bounce }()
	buffer, err := s.buffers.get()
	if err != nil {
		return err
	}
	defer s.buffers.put(buffer)
	b := buffer.Bytes()
	for len(p) > 0 {
		n := min(len(p), len(b))
		if !reading {
			copy(b, p[:n])
		}
		if err := do(b[:n], off); err != nil {
			return err
		}
		if reading {
			copy(p, b[:n])
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// PunchPages implements [Storage].
func (s *File) PunchPages(first, n uint64) error {
	err := unix.Fallocate(int(s.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
		int64(first)*pageSize, int64(n)*pageSize)
	s.dirty.Store(true)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return ErrNoPunch
	}
	if err != nil {
		s.punchErrors.Add(1)
		return fmt.Errorf("punch %d pages at page %d: %w", n, first, os.NewSyscallError("fallocate", err))
	}
	s.pagesPunched.Add(n)
	return nil
}

// Sync implements [Storage].
func (s *File) Sync() error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	if !s.dirty.Swap(false) {
		return nil
	}
	start := time.Now()
	err := unix.Fdatasync(int(s.file.Fd()))
	s.syncs.Observe(time.Since(start))
	if err != nil {
		s.dirty.Store(true)
		s.writeErrors.Add(1)
		return fmt.Errorf("sync storage: %w", os.NewSyscallError("fdatasync", err))
	}
	return nil
}

// Stats implements [Storage].
func (s *File) Stats() StorageStats {
	st := StorageStats{
		Path: s.path, Direct: s.direct,
		PagesRead: s.pagesRead.Load(), PagesWritten: s.pagesWritten.Load(), PagesPunched: s.pagesPunched.Load(),
		ReadErrors: s.readErrors.Load(), WriteErrors: s.writeErrors.Load(), PunchErrors: s.punchErrors.Load(),
		AllocatedSize: int64(s.Pages()) * pageSize,
		Reads:         s.reads.Snapshot(), Writes: s.writes.Snapshot(), Syncs: s.syncs.Snapshot(),
	}
	var info unix.Stat_t
	if unix.Fstat(int(s.file.Fd()), &info) == nil && info.Mode&unix.S_IFMT == unix.S_IFREG {
		st.AllocatedSize = info.Blocks * 512
	}
	if s.own && s.direct {
		st.Memory = append(st.Memory, s.buffers.Usage())
	}
	return st
}

// Close implements [Storage].
func (s *File) Close() error {
	err := s.file.Close()
	if s.direct {
		err = errors.Join(err, s.buffers.leave())
	}
	if err != nil {
		return fmt.Errorf("close storage %s: %w", s.path, err)
	}
	return nil
}
