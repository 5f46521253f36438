package tier

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/frontswap"
)

// watched is storage that calls before each write.
type watched struct {
	Storage
	before func()
}

func (w *watched) WritePages(first uint64, p []byte) error {
	w.before()
	return w.Storage.WritePages(first, p)
}

// TestWordBeforeStorage: on storage that was empty, a process that dies in the
// middle of a write leaves a word that says that storage may have something.
// Without it the page would read as zeros until a stop, and as what was written
// half from then on.
func TestWordBeforeStorage(t *testing.T) {
	file, err := OpenFile(filepath.Join(t.TempDir(), "swap.img"), 64*pageSize)
	if err != nil {
		t.Fatal(err)
	}
	var d *Device
	writes := 0
	s := &watched{Storage: file, before: func() {
		writes++
		if first, _ := d.area.NextTouched(0); first != 0 || d.area.Stats().Hole == 0 {
			t.Errorf("the map is untouched up to page %d, with %d words for holes", first, d.area.Stats().Hole)
		}
	}}
	d, err = Open(Config{Name: "swap", ID: 1, Storage: s, Empty: true, Frontswap: frontswap.New(quiet()), Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt(make([]byte, pageSize), 5*pageSize); err != nil || writes != 1 {
		t.Errorf("%d writes, %v", writes, err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// TestTakeoverPunches: space of holes that an earlier process had no time to give
// back is given back, and its storage is synced.
func TestTakeoverPunches(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "tmemd-tier-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := sharedmem.FolderConfig{Path: filepath.Join(dir, "m"), Boot: "boot"}
	path := filepath.Join(t.TempDir(), "swap.img")
	open := func(takeover bool) (*Device, *frontswap.Frontswap, *sharedmem.Folder) {
		t.Helper()
		folder, err := sharedmem.OpenFolder(config)
		if err != nil {
			t.Fatal(err)
		}
		file, err := OpenFile(path, 1024*pageSize)
		if err != nil {
			t.Fatal(err)
		}
		f := frontswap.Open(frontswap.Config{Log: quiet(), Memory: folder})
		d, err := Open(Config{Name: "swap", ID: 1, Storage: file, Takeover: takeover, Frontswap: f, Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		return d, f, folder
	}
	d, _, folder := open(false)
	data := make([]byte, 600*pageSize)
	for i := range data {
		data[i] = byte(i>>3) | 1
	}
	if _, err := d.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	d.puncher.sweeper.stop() // it has no time
	if err := d.Trim(0, 300*pageSize); err != nil {
		t.Fatal(err)
	}
	d.puncher.sweeper.start(d.area.Pages())
	folder.Leave()
	if err := errors.Join(d.Close(), folder.Close()); err != nil {
		t.Fatal(err)
	}

	d, f, folder := open(true)
	if _, err := f.Resume(); err != nil {
		t.Fatal(err)
	}
	d.Resume()
	for deadline := time.Now().Add(20 * time.Second); d.Stats().Storage.PagesPunched < 300; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not punched: %+v", d.Stats().Storage)
		}
	}
	got := make([]byte, pageSize)
	for page, want := range map[int64]byte{299: 0, 300: data[300*pageSize+9]} {
		if _, err := d.ReadAt(got, page*pageSize); err != nil || got[9] != want {
			t.Errorf("page %d: %v, %d, want %d", page, err, got[9], want)
		}
	}
	if err := errors.Join(d.Close(), folder.Close()); err != nil {
		t.Error(err)
	}
}
