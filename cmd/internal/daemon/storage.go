package daemon

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/tier"
)

// openStorage opens the storage of an export, emptied first if empty is set.
// blank says that it reads as zeros throughout.
// With cut, what a file has beyond the export's size is dropped: a process that
// died while it resized the export left that, and told nobody of it.
func (d *Daemon) openStorage(e config.Export, empty, cut bool) (s tier.Storage, blank bool, err error) {
	if empty {
		if err := emptyFile(e.Storage); err != nil {
			return nil, false, fmt.Errorf("empty storage: %w", err)
		}
	}
	if cut {
		if err := cutFile(e.Storage, e.Size); err != nil {
			return nil, false, fmt.Errorf("storage that was being resized: %w", err)
		}
	}
	blank = empty || isNew(e.Storage)
	if s, err = d.options.OpenStorage(e); err != nil {
		return nil, false, err
	}
	if empty {
		if err := zeroStorage(s); err != nil {
			return nil, false, errors.Join(fmt.Errorf("empty storage %s: %w", e.Storage, err), s.Close())
		}
	}
	return s, blank, nil
}

// isNew says whether opening storage makes the file, or all of its content.
func isNew(path string) bool {
	st, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist) || err == nil && st.Mode().IsRegular() && st.Size() == 0
}

// cutFile makes a file shorter that is too long.
func cutFile(path string, size int64) error {
	st, err := os.Stat(path)
	if err != nil || !st.Mode().IsRegular() || st.Size() <= size {
		return err
	}
	return os.Truncate(path, size)
}

func (d *Daemon) openFile(e config.Export) (tier.Storage, error) {
	return d.buffers.OpenFile(e.Storage, e.Size)
}

// emptyFile takes all content from a file, so that it may get another size too.
// Devices have to be emptied by writing.
func emptyFile(path string) error {
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !st.Mode().IsRegular() {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Truncate(path, 0)
}

// zeroStorage makes storage read as zeros: a moment for a file, which is empty,
// and for a device that can do it itself.
func zeroStorage(s tier.Storage) error {
	const piece = 1 << 18 // pages: 1 GiB, so that no system call takes for ever
	for first := uint64(0); first < s.Pages(); first += piece {
		n := min(piece, s.Pages()-first)
		err := s.PunchPages(first, n)
		if errors.Is(err, tier.ErrNoPunch) {
			err = writeZeroes(s, first, n)
		}
		if err != nil {
			return err
		}
	}
	return s.Sync()
}

func writeZeroes(s tier.Storage, first, n uint64) error {
	const piece = 256 // pages
	zeroes := make([]byte, piece*pageSize)
	for end := first + n; first < end; {
		count := min(piece, end-first)
		if err := s.WritePages(first, zeroes[:count*pageSize]); err != nil {
			return err
		}
		first += count
	}
	return nil
}

// cureStorage is what can be done about storage that cannot be opened.
func cureStorage(err error) string {
	switch {
	case errors.Is(err, os.ErrPermission):
		return "give this user the right to read and write it"
	case errors.Is(err, unix.EFBIG):
		return "choose a smaller size, or a file system that takes files of this size"
	case errors.Is(err, unix.EBUSY):
		return "it is mounted or used for swap itself: choose another device"
	case errors.Is(err, unix.ENOSPC):
		return "make room on it"
	}
	return "choose other storage or another size; --fresh makes a file anew"
}
