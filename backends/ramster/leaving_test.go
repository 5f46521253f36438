package ramster

import (
	"errors"
	"os"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/sharedmem"
)

// TestLeavingOutlivesProcess has the owner die after a donor was removed that has the only copies: the next process, which is told
// of the other donors only, still has the pages, moves them, and tells the donor to forget them.
func TestLeavingOutlivesProcess(t *testing.T) {
	path, err := os.MkdirTemp("/dev/shm", "tmemd-leaving-") // a tmpfs
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(path) })
	folder := openFolder(t, path)
	n := newNetwork("a", "b")
	config := testConfig("a")
	config.Copies, config.Memory = 1, arena.Place{Folder: folder, Name: "ramster"}
	c := newTest(t, config, n)
	host := &backendtest.Host{Backend: c}
	if err := host.Open(1, testPages); err != nil {
		t.Fatal(err)
	}
	const pages = 300
	content := map[uint64][]byte{}
	for page := range uint64(pages) {
		content[page] = backendtest.Mixed(page)
		if _, err := host.Write(key(page), content[page]); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "the staging area to be empty", func() bool { return c.Remote().Staged == 0 && n.donors["a"].count() > 0 })
	n.donors["a"].set(func() { n.donors["a"].down = true }) // so that nothing moves yet
	if err := c.RemoveDonor("a", false); err != nil {
		t.Fatal(err)
	}
	config = c.Config() // what is recorded
	if len(config.Donors) != 0 {
		t.Fatalf("donors are %v, after the only one was removed", config.Donors)
	}
	folder.Leave()
	if err := errors.Join(c.Close(), folder.Close()); err != nil {
		t.Fatal(err)
	}

	n.donors["a"].set(func() { n.donors["a"].down = false })
	folder = openFolder(t, path)
	config.Donors, config.Memory.Folder = []Donor{{"b", "b"}}, folder
	next, err := reopen(config, n.connect)
	if err != nil {
		t.Fatal(err)
	}
	held := map[uint64]backends.Handle{}
	for page := range content {
		handle, ok := host.Held(key(page))
		if !ok {
			continue
		}
		if held[page] = handle; !next.Adopt(key(page), handle) {
			t.Fatalf("page %d was not adopted", page)
		}
	}
	if _, err := next.Adopted(); err != nil {
		t.Fatal(err)
	}
	host = &backendtest.Host{Backend: next}
	if err := host.Open(1, testPages); err != nil {
		t.Fatal(err)
	}
	for page, handle := range held {
		host.Adopted(key(page), handle, content[page])
	}
	if err := host.Check(1); err != nil {
		t.Error(err)
	}
	await(t, "the donor to leave", func() bool { return len(next.Donors()) == 1 })
	// It is told to destroy its pools when it is not shown any more.
	await(t, "the donor that left to have nothing", func() bool { return n.donors["a"].count() == 0 })
	if err := host.Check(1); err != nil {
		t.Error(err)
	}
	host.Close(1)
	if err := errors.Join(next.Close(), folder.Close()); err != nil {
		t.Error(err)
	}
}

func openFolder(t *testing.T, path string) *sharedmem.Folder {
	t.Helper()
	folder, err := sharedmem.OpenFolder(sharedmem.FolderConfig{Path: path, Boot: "boot"})
	if err != nil {
		t.Fatal(err)
	}
	return folder
}
