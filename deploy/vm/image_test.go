package vm

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Folders come with their regular files, but for those of names that are left out.
func TestArchiveAddFolder(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.py", "sub/b.py", "sub/test/c.py", "test/d.py"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a.py", filepath.Join(dir, "link.py")); err != nil {
		t.Fatal(err)
	}
	contents := archive{}
	if err := contents.addFolder(t.Context(), dir, map[string]bool{"test": true}); err != nil {
		t.Fatal(err)
	}
	in := strings.TrimPrefix(dir, "/")
	got := slices.Sorted(maps.Keys(contents))
	if want := []string{in + "/a.py", in + "/sub/b.py"}; !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	if err := contents.addFolder(t.Context(), filepath.Join(dir, "gone"), nil); err == nil {
		t.Error("a folder that is not there was added")
	}
}

// A program comes with its libraries, at their own places.
func TestArchiveAddLinked(t *testing.T) {
	shell, err := findTool("sh")
	if err != nil {
		t.Fatal(err)
	}
	contents := archive{}
	if err := contents.addLinked(t.Context(), shell); err != nil {
		t.Fatal(err)
	}
	names := strings.Join(slices.Sorted(maps.Keys(contents)), " ")
	if !strings.Contains(names, strings.TrimPrefix(shell, "/")) || !strings.Contains(names, "libc.so") {
		t.Errorf("%s came with %q", shell, names)
	}
}
