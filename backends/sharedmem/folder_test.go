package sharedmem

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// memoryDir is a path on memory that is not there yet.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tmemd-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "memory")
}

var someone = Identity{1, 2, 3}

func openFolder(t *testing.T, c FolderConfig) *Folder {
	t.Helper()
	f, err := OpenFolder(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestFolder: what is in a file outlives the folder that made it, if that was
// left, and nothing is left otherwise.
func TestFolder(t *testing.T) {
	c := FolderConfig{Path: memoryDir(t), Identity: someone, Boot: "boot"}
	f := openFolder(t, c)
	r, err := f.Create("map-1", "page map", 5*page, 77)
	if err != nil {
		t.Fatal(err)
	}
	if u := r.Usage(); u.Mapped != 5*page || u.Resident != headerSize {
		t.Errorf("untouched: %+v", u)
	}
	if start, end := r.Touched(0); start != 5*page || end != 5*page {
		t.Errorf("untouched, but for %d to %d", start, end)
	}
	text(r.Bytes()[page:3*page], 1)
	if start, end := r.Touched(0); start != page || end != 3*page {
		t.Errorf("touched from %d to %d", start, end)
	}
	want := bytes.Clone(r.Bytes()) // takes memory for all of it (M4)
	if _, err := f.Create("map-1", "page map", page, 0); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second file of the name: %v", err)
	}
	f.Leave()
	if err := errors.Join(r.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}

	f = openFolder(t, c)
	r, note, err := f.Open("map-1", "page map")
	if err != nil || note != 77 || !bytes.Equal(r.Bytes(), want) {
		t.Fatalf("opened again: note %d, %v, or other bytes", note, err)
	}
	if err := r.Punch(page, page); err != nil {
		t.Fatal(err)
	}
	if start, end := r.Touched(0); start != 0 || end != page {
		t.Errorf("after Punch, touched from %d to %d", start, end)
	}
	if err := errors.Join(r.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(c.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

// TestRemoveExcept: files that nobody keeps go, and what was never finished.
func TestRemoveExcept(t *testing.T) {
	f := openFolder(t, FolderConfig{Path: memoryDir(t), Identity: someone, Boot: "boot"})
	for _, name := range []string{"a", "b"} {
		r, err := f.Create(name, "test", page, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Leave()
	}
	for _, name := range []string{"c.mem.new", "mine.txt"} {
		if err := os.WriteFile(filepath.Join(f.Path(), name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.RemoveExcept(func(name string) bool { return name == "b" }); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(f.Path() + "/*")
	if err != nil || fmt.Sprint(left) != fmt.Sprintf("[%s/b.mem %s/mine.txt]", f.Path(), f.Path()) {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestOpenRefuses: each thing that a header says is checked, with an error of its
// own.
func TestOpenRefuses(t *testing.T) {
	own := FolderConfig{Identity: someone, Boot: "boot"}
	for _, test := range []struct {
		name   string
		config FolderConfig
		damage func(t *testing.T, path string)
		want   error
		text   string
	}{
		{"other folder", FolderConfig{Identity: Identity{9}, Boot: "boot"}, nil, ErrOtherFolder, "it does not belong here: its identity is 01020300000000000000000000000000, the state folder's is 09"},
		{"other boot", FolderConfig{Identity: someone, Boot: "later"}, nil, ErrOtherBoot, "from another boot"},
		{"missing", own, func(t *testing.T, path string) { os.Remove(path) }, os.ErrNotExist, "no such file"},
		{"truncated", own, truncate(headerSize + 3*page), ErrDamaged, "it is damaged: it has 16384 bytes of 20480"},
		{"header only in part", own, truncate(100), ErrDamaged, "it is damaged: it has 100 bytes, which is less than its header"},
		{"empty", own, truncate(0), ErrDamaged, "less than its header"},
		{"other magic", own, overwrite(0, "x"), ErrDamaged, "does not begin as"},
		{"other version", own, overwrite(8, "\x02"), ErrOtherVersion, "its format has version 2, this one knows version 1"},
		{"damaged size", own, overwrite(17, "\xff"), ErrDamaged, "checksum"},
		{"damaged name", own, overwrite(160, "M"), ErrDamaged, "checksum"},
		{"another file's", own, func(t *testing.T, path string) {
			if err := os.Rename(filepath.Join(filepath.Dir(path), "other.mem"), path); err != nil {
				t.Fatal(err)
			}
		}, ErrOtherFolder, "it does not belong here: it is other (page map)"},
		{"a link", own, func(t *testing.T, path string) {
			if err := errors.Join(os.Remove(path), os.Symlink("other.mem", path)); err != nil {
				t.Fatal(err)
			}
		}, unix.ELOOP, "symbolic links"},
		{"a folder", own, func(t *testing.T, path string) {
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, unix.EISDIR, "directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := own
			c.Path = memoryDir(t)
			f := openFolder(t, c)
			for _, name := range []string{"map-1", "other"} {
				r, err := f.Create(name, "page map", 4*page, 0)
				if err != nil {
					t.Fatal(err)
				}
				if err := r.Leave(); err != nil {
					t.Fatal(err)
				}
			}
			f.Leave()
			f.Close()
			path := filepath.Join(c.Path, "map-1.mem")
			if test.damage != nil {
				test.damage(t, path)
			}
			test.config.Path = c.Path
			f = openFolder(t, test.config)
			f.Leave()
			r, _, err := f.Open("map-1", "page map")
			if err == nil {
				r.Leave()
			}
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v, want %v, with %q and the path", err, test.want, test.text)
			}
		})
	}
}

func truncate(size int64) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
}

func overwrite(at int64, text string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte(text), at); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOpenFolderRefuses: folders that pages are not put into.
func TestOpenFolderRefuses(t *testing.T) {
	make := func(change func(path string) error) func(t *testing.T) string {
		return func(t *testing.T) string {
			path := memoryDir(t)
			if err := change(path); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	for _, test := range []struct {
		name string
		path func(t *testing.T) string
		want error
	}{
		// The sources, as temporary files may be on a tmpfs.
		{"a disk", func(t *testing.T) string { return filepath.Join(workingDir(t), "memory") }, ErrNotMemory},
		{"no parent", func(t *testing.T) string { return memoryDir(t) + "/a/b" }, os.ErrNotExist},
		{"others may enter", make(func(path string) error { return errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, 0o755)) }), ErrNotPrivate},
		{"a link", make(func(path string) error { return os.Symlink(filepath.Dir(path), path) }), ErrNotPrivate},
		{"a file", make(func(path string) error { return os.WriteFile(path, nil, 0o600) }), ErrNotPrivate},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := test.path(t)
			f, err := OpenFolder(FolderConfig{Path: path})
			if err == nil {
				f.Close()
			}
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v, want %v and the path", err, test.want)
			}
		})
	}
	if _, err := os.Stat("memory"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder that was made and refused: %v", err)
	}
	c := FolderConfig{Path: memoryDir(t)}
	openFolder(t, c)
	if _, err := OpenFolder(c); !errors.Is(err, ErrFolderInUse) {
		t.Errorf("a folder that is in use: %v", err)
	}
}

func workingDir(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestForeign: another state folder's files are told from one's own.
func TestForeign(t *testing.T) {
	c := FolderConfig{Path: memoryDir(t), Identity: someone, Boot: "boot"}
	f := openFolder(t, c)
	r, err := f.Create("a", "test", page, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Leave()
	if err := f.Foreign(); err != nil {
		t.Errorf("one's own: %v", err)
	}
	f.Leave()
	f.Close()
	c.Identity = Identity{4}
	f = openFolder(t, c)
	f.Leave()
	if err := f.Foreign(); !errors.Is(err, ErrOtherFolder) || !strings.Contains(err.Error(), "a.mem") {
		t.Errorf("another's: %v", err)
	}
}

// TestClaim: memory that was claimed counts, is not touched, and is there. What a
// full tmpfs says is an error, not a fault: for that see TestFull of arena.
func TestClaim(t *testing.T) {
	f := openFolder(t, FolderConfig{Path: memoryDir(t), Identity: someone, Boot: "boot"})
	r, err := f.Create("a", "test", 64*page, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Claim(8*page, 4*page); err != nil {
		t.Fatal(err)
	}
	if u := r.Usage(); u.Resident != headerSize+4*page {
		t.Errorf("claimed 4 pages: %+v", u)
	}
	if start, _ := r.Touched(0); start != 64*page {
		t.Errorf("claimed is not touched, but page %d is", start/page)
	}
	r.Bytes()[9*page] = 1
	if start, end := r.Touched(0); start != 9*page || end != 10*page {
		t.Errorf("touched from %d to %d", start, end)
	}
	if u := r.Usage(); u.Resident != headerSize+4*page {
		t.Errorf("touched what was claimed: %+v", u)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	anonymous, err := (*Folder)(nil).Create("a", "test", 4*page, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer anonymous.Close()
	if err := anonymous.Claim(0, 4*page); err != nil {
		t.Error(err)
	}
	if _, _, err := (*Folder)(nil).Open("a", "test"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("memory that ends with the process was opened: %v", err)
	}
}

// FuzzHeader: no bytes panic, and what is accepted is what was encoded.
func FuzzHeader(f *testing.F) {
	h := header{size: 4096, note: 3, identity: someone, boot: "boot", purpose: "page map", name: "map-1"}
	f.Add(h.encode())
	f.Add([]byte(headerMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHeader(b)
		if err == nil && !bytes.Equal(h.encode(), b) {
			t.Errorf("%+v is not what was encoded", h)
		}
	})
}
