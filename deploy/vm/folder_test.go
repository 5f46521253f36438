//go:build e2e

package vm

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

const memoryFolders = "/dev/shm/tmemd-vmtest-"

// memoryFolder makes a folder in memory that is gone at the end of the test. It is locked for as long as the process lives: those that
// nobody has locked are of tests that were killed, and are removed, as what daemons left there is memory of this machine.
func memoryFolder(t *testing.T) string {
	t.Helper()
	left, err := filepath.Glob(memoryFolders + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range left {
		if lock := lockFolder(path); lock != nil {
			os.RemoveAll(path) // what cannot be removed stays
			lock.Close()
		}
	}
	for {
		path, err := os.MkdirTemp(filepath.Dir(memoryFolders), filepath.Base(memoryFolders))
		if err != nil {
			t.Fatal(err)
		}
		lock := lockFolder(path)
		if lock == nil {
			continue // another test was quicker, and removes it
		}
		t.Cleanup(func() {
			os.RemoveAll(path)
			lock.Close()
		})
		return path
	}
}

// lockFolder returns what keeps the lock, or nil if somebody else has it, or the folder is gone.
func lockFolder(path string) *os.File {
	folder, err := os.Open(path)
	if err != nil {
		return nil
	}
	if syscall.Flock(int(folder.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		if _, err := os.Stat(path); err == nil { // it may have been removed before it was locked
			return folder
		}
	}
	folder.Close()
	return nil
}

// A folder of a test that was killed is gone when the next test makes one, and only that.
func TestMemoryFolders(t *testing.T) {
	killed, err := os.MkdirTemp(filepath.Dir(memoryFolders), filepath.Base(memoryFolders))
	if err != nil {
		t.Fatal(err)
	}
	first, second := memoryFolder(t), memoryFolder(t)
	if _, err := os.Stat(killed); err == nil {
		t.Errorf("%s is there still, and nobody uses it", killed)
	}
	for _, path := range []string{first, second} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("a folder that is in use: %v", err)
		}
	}
}
