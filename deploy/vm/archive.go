package vm

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
)

// archive is the content of an initramfs: a path without a leading slash, and the file there.
type archive map[string]archiveFile

type archiveFile struct {
	content    []byte
	executable bool
}

// Modes as in stat.h: the kind of file and its permissions.
const (
	modeDirectory  = 0o040755
	modeFile       = 0o100644
	modeExecutable = 0o100755
)

// write writes the archive in the "newc" form of cpio: files in the order of their names, each folder before what is
// in it, all owned by root, all of the same time. The same content gives the same bytes (V5).
//
// The form is the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
func (a archive) write(to io.Writer) error {
	w := &archiveWriter{to: bufio.NewWriter(to)}
	made := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(a)) {
		for _, dir := range parents(name) {
			if !made[dir] {
				made[dir] = true
				w.entry(dir, modeDirectory, nil)
			}
		}
		mode := uint32(modeFile)
		if a[name].executable {
			mode = modeExecutable
		}
		w.entry(name, mode, a[name].content)
	}
	w.inode = 0 // the end mark is no file
	w.entry("TRAILER!!!", 0, nil)
	if w.err != nil {
		return fmt.Errorf("write initramfs: %w", w.err)
	}
	if err := w.to.Flush(); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return nil
}

// parents returns the folders above a path, outermost first.
func parents(name string) []string {
	var dirs []string
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		dirs = append(dirs, dir)
	}
	slices.Reverse(dirs)
	return dirs
}

type archiveWriter struct {
	to    *bufio.Writer
	inode uint32
	err   error // the first error; nothing is written after it
}

func (w *archiveWriter) entry(name string, mode uint32, content []byte) {
	w.inode++
	// Inode, mode, uid, gid, links, time, size, device (2), device of a special file (2), length of the name with its NUL, checksum.
	header := "070701"
	for _, field := range []uint32{w.inode, mode, 0, 0, 1, 0, uint32(len(content)), 0, 0, 0, 0, uint32(len(name) + 1), 0} {
		header += fmt.Sprintf("%08X", field)
	}
	w.padded([]byte(header + name + "\x00"))
	w.padded(content)
}

// padded writes b and the zeros up to the next multiple of four bytes; it starts at one, always.
func (w *archiveWriter) padded(b []byte) {
	zeros := make([]byte, (4-len(b)%4)%4)
	for _, part := range [][]byte{b, zeros} {
		if w.err == nil {
			_, w.err = w.to.Write(part)
		}
	}
}
