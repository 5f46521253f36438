package state

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func open(t *testing.T, dir string) *Folder {
	t.Helper()
	f, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestOneDaemonForEachFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "parent", "tmemd")
	first := open(t, dir)
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v", st.Mode(), err)
	}
	_, err := Open(dir)
	var inUse *InUseError
	if !errors.As(err, &inUse) || inUse.PID != os.Getpid() || inUse.Dir != dir {
		t.Errorf("a second Open: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSaveAndLoad(t *testing.T) {
	f := open(t, t.TempDir())
	defer f.Close()
	if _, found, err := f.Load(); found || err != nil {
		t.Errorf("Load of a new folder: found %v, %v", found, err)
	}
	states := []State{
		{BootID: "b0a8c1de", Exports: []Export{{Name: "swap", Size: 8 << 30, Storage: "/var/lib/tmemd/swap.img"}}},
		{BootID: "b0a8c1de", Clean: true, Exports: []Export{}},
	}
	for _, want := range states {
		if err := f.Save(want); err != nil {
			t.Fatal(err)
		}
		want.Version = 1
		if got, found, err := f.Load(); !found || err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Load = %+v, %v, %v, want %+v", got, found, err, want)
		}
	}
	if names, err := filepath.Glob(f.Path("*.new")); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

func TestLoadDamaged(t *testing.T) {
	f := open(t, t.TempDir())
	defer f.Close()
	for _, text := range []string{"", "{", `{"version":2}`, `{"version":1,"colour":"red"}`, `{"version":1,"clean":"yes"}`, `[]`} {
		if err := os.WriteFile(f.Path("state.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, found, err := f.Load(); !errors.Is(err, ErrDamaged) || !found {
			t.Errorf("Load of %q = %+v, %v, %v", text, got, found, err)
		}
	}
}

// TestSaveFails: the old state stays, whole.
func TestSaveFails(t *testing.T) {
	f := open(t, t.TempDir())
	defer f.Close()
	if err := f.Save(State{BootID: "one", Clean: true}); err != nil {
		t.Fatal(err)
	}
	// A folder in the way stops the writing of the new file, for root too.
	if err := os.Mkdir(f.Path("state.json.new"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.Save(State{BootID: "two"}); err == nil || !strings.HasPrefix(err.Error(), "save the state: ") {
		t.Errorf("Save = %v", err)
	}
	if got, _, err := f.Load(); err != nil || got.BootID != "one" || !got.Clean {
		t.Errorf("Load = %+v, %v", got, err)
	}
}

func TestBootID(t *testing.T) {
	id, err := BootID()
	if err != nil || len(id) != 36 {
		t.Errorf("BootID = %q, %v", id, err)
	}
}
