//go:build interop

package interop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// mount mounts a file system for the test and returns its folder. Whoever uses
// it is started later, so that its cleanup comes first.
func mount(t *testing.T, args ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", append(args, dir)...)
	t.Cleanup(func() { runLater(t, "umount", dir) })
	return dir
}

// image makes a sparse file to put a disk into.
func image(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// slowDisk is an ext4 that can be stopped: while it is frozen, writes wait and
// cannot be interrupted, reads work.
type slowDisk struct {
	t   *testing.T
	dir string

	mu     sync.Mutex
	frozen bool // guarded by mu
}

func newSlowDisk(t *testing.T, size int64) *slowDisk {
	t.Helper()
	file := image(t, size)
	run(t, "mkfs.ext4", "-q", file)
	return &slowDisk{t: t, dir: mount(t, "-o", "loop", file)}
}

// freeze stops all writes until thaw. Cleanup thaws too, before whoever hangs
// on the disk is waited for: freeze is to be called after that one was started.
func (s *slowDisk) freeze() {
	s.t.Helper()
	s.t.Cleanup(func() {
		if err := s.set(false); err != nil {
			s.t.Error(err)
		}
	})
	if err := s.set(true); err != nil {
		s.t.Fatal(err)
	}
}

func (s *slowDisk) thaw() {
	s.t.Helper()
	if err := s.set(false); err != nil {
		s.t.Fatal(err)
	}
}

func (s *slowDisk) set(frozen bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen == frozen {
		return nil
	}
	flag := map[bool]string{true: "--freeze", false: "--unfreeze"}[frozen]
	if r := try(context.Background(), "fsfreeze", flag, s.dir); r.err != nil {
		return errors.New(r.String())
	}
	s.frozen = frozen
	return nil
}

// crawl lets writes through for a moment at a time, until stop is called, which
// leaves the disk thawed.
func (s *slowDisk) crawl() (stop func()) {
	quit, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			err = s.set(false)
			time.Sleep(time.Millisecond)
			select {
			case <-quit:
				ended <- err
				return
			default:
			}
			err = errors.Join(err, s.set(true))
			time.Sleep(20 * time.Millisecond)
		}
		ended <- err
	}()
	return func() {
		s.t.Helper()
		close(quit)
		if err := <-ended; err != nil {
			s.t.Fatal(err)
		}
	}
}

// smallDisk is a tmpfs that can be filled and made larger.
type smallDisk struct {
	t   *testing.T
	dir string
}

func newSmallDisk(t *testing.T, size int64) *smallDisk {
	t.Helper()
	return &smallDisk{t: t, dir: mount(t, "-t", "tmpfs", "-o", fmt.Sprintf("size=%d", size), "tmemd-interop")}
}

// fill takes all the room that is left.
func (s *smallDisk) fill() {
	s.t.Helper()
	ballast, err := os.Create(filepath.Join(s.dir, "ballast"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer ballast.Close()
	for err == nil {
		_, err = ballast.WriteString(strings.Repeat(words, 64))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		s.t.Fatal(err)
	}
}

// grow makes room: the size is the new one of the whole disk.
func (s *smallDisk) grow(size int64) {
	s.t.Helper()
	run(s.t, "mount", "-o", fmt.Sprintf("remount,size=%d", size), s.dir)
}
