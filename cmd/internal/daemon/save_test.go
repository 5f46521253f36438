package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
	"github.com/tmemd/tmemd/cmd/internal/saved"
	"github.com/tmemd/tmemd/cmd/internal/state"
	"github.com/tmemd/tmemd/tier"
)

func (i *instance) dialTo(export string) *nbdtest.Client {
	i.t.Helper()
	c, err := nbdtest.Dial("unix", filepath.Join(i.dir, "nbd.sock"), export)
	if err != nil {
		i.t.Fatal(err)
	}
	return c
}

func (i *instance) save(name string) []byte {
	i.t.Helper()
	var b bytes.Buffer
	must(i.t, i.client.SaveExport(context.Background(), name, &b))
	return b.Bytes()
}

func (i *instance) restore(name string, file []byte) error {
	_, err := i.client.RestoreExport(context.Background(), admin.CreateRequest{Name: name}, bytes.NewReader(file))
	return err
}

// names lists the exports.
func (i *instance) names() (names []string) {
	for _, e := range i.status().Exports {
		names = append(names, e.Name)
	}
	return names
}

const savePages = 1024 // of an export of 4 MiB

// TestSaveRestore: one page, the first and the last, none, all, and some in backends and on
// storage; into a new export and into an empty one.
func TestSaveRestore(t *testing.T) {
	for name, pages := range map[string][][2]uint64{ // runs of pages: first, count
		"none":  {},
		"first": {{0, 1}},
		"last":  {{savePages - 1, 1}},
		"some":  {{0, 3}, {250, 20}, {511, 2}},
		"all":   {{0, savePages}},
	} {
		t.Run(name, func(t *testing.T) {
			i := start(t, t.TempDir(), "--backend", "zcache")
			c := i.attach()
			for _, run := range pages {
				must(t, c.WritePages(7, run[0], run[1]))
			}
			must(t, c.Close())
			i.await("the client to be gone", func() bool { return len(i.status().Clients) == 0 })
			file := i.save("swap")
			if _, totals, err := saved.Check(bytes.NewReader(file)); err != nil || totals.Holes != savePages-count(pages) {
				t.Fatalf("%+v, %v", totals, err)
			}
			must(t, i.restore("copy", file))
			_, err := i.client.CreateExport(context.Background(), admin.CreateRequest{Name: "empty", Size: "4MiB"})
			must(t, err)
			must(t, i.restore("empty", file))
			for _, export := range []string{"copy", "empty", "swap"} {
				c := i.dialTo(export)
				at := uint64(0)
				for _, run := range pages {
					must(t, c.CheckZeroes(at, run[0]-at))
					must(t, c.CheckPages(7, run[0], run[1]))
					at = run[0] + run[1]
				}
				must(t, c.CheckZeroes(at, savePages-at))
				must(t, c.Close())
			}
			if !slices.Equal(i.names(), []string{"swap", "copy", "empty"}) {
				t.Error(i.names())
			}
			i.stop()
		})
	}
}

func count(runs [][2]uint64) (n uint64) {
	for _, run := range runs {
		n += run[1]
	}
	return n
}

// TestSaveFromStorage: pages that storage has, after a restart, and none of its zeros.
func TestSaveFromStorage(t *testing.T) {
	dir := t.TempDir()
	i := start(t, dir)
	c := i.attach()
	must(t, c.WritePages(3, 0, 40))
	must(t, c.Close())
	i.stop()
	i = start(t, dir)
	file := i.save("swap")
	if _, totals, err := saved.Check(bytes.NewReader(file)); err != nil || totals.Pages != 40 {
		t.Errorf("%+v, %v", totals, err)
	}
	must(t, i.restore("copy", file))
	c = i.dialTo("copy")
	must(t, c.CheckPages(3, 0, 40))
	must(t, c.CheckZeroes(40, savePages-40))
	must(t, c.Close())
	i.stop()
	i = start(t, dir) // a restored export is one like any other
	c = i.dialTo("copy")
	must(t, c.CheckPages(3, 0, 40))
	must(t, c.Close())
	i.stop()
}

// TestRestoreRefused: whatever is wrong with a file, or where it is to go, nothing changes.
func TestRestoreRefused(t *testing.T) {
	i := start(t, t.TempDir())
	c := i.attach()
	must(t, c.WritePages(7, 0, 600))
	if err := i.client.SaveExport(context.Background(), "swap", io.Discard); err == nil || !strings.Contains(err.Error(), "clients attached") {
		t.Errorf("saved under a client: %v", err)
	}
	must(t, c.Close())
	i.await("the client to be gone", func() bool { return len(i.status().Clients) == 0 })
	file := i.save("swap")
	ctx := context.Background()
	_, err := i.client.CreateExport(ctx, admin.CreateRequest{Name: "empty", Size: "4MiB"})
	must(t, err)
	_, err = i.client.CreateExport(ctx, admin.CreateRequest{Name: "small", Size: "2MiB"})
	must(t, err)
	damaged := bytes.Clone(file)
	damaged[len(damaged)/2] ^= 1
	version := bytes.Clone(file)
	version[8]++
	for what, test := range map[string]struct {
		into string
		file []byte
		want string
	}{
		"damaged, new":       {"copy", damaged, "is damaged"},
		"damaged, empty":     {"empty", damaged, "is damaged"},
		"cut short, new":     {"copy", file[:len(file)-10], "it is not whole"},
		"cut short, empty":   {"empty", file[:len(file)/2], "it is not whole"},
		"appended":           {"empty", append(bytes.Clone(file), 1), "something comes after its end"},
		"another version":    {"copy", version, "version 2"},
		"nothing":            {"copy", nil, "not a saved export"},
		"another size":       {"small", file, "has 2 MiB"},
		"into one with data": {"swap", file, "is not empty"},
	} {
		if err := i.restore(test.into, test.file); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", what, err, test.want)
		}
		if names := i.names(); !slices.Equal(names, []string{"swap", "empty", "small"}) {
			t.Errorf("%s: exports are %v", what, names)
		}
		if _, err := os.Stat(filepath.Join(i.dir, "copy.img")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: storage is left: %v", what, err)
		}
		c := i.dialTo("empty")
		must(t, c.CheckZeroes(0, savePages))
		must(t, c.Close())
		i.await("the client to be gone", func() bool { return len(i.status().Clients) == 0 })
		if n := i.status().Exports[1].Pages; n.Hole+n.None != savePages {
			t.Errorf("%s: the empty export has %+v", what, n)
		}
	}
	held := i.dialTo("empty")
	if err := i.restore("empty", file); err == nil || !strings.Contains(err.Error(), "clients attached") {
		t.Errorf("restored under a client: %v", err)
	}
	must(t, held.Close())
	c = i.attach()
	must(t, c.CheckPages(7, 0, 600))
	must(t, c.Close())
	i.stop()
}

// TestRestoreFullDisk: storage that has no room ends a restore, and leaves nothing.
func TestRestoreFullDisk(t *testing.T) {
	from := start(t, t.TempDir())
	c := from.attach()
	must(t, c.WritePages(7, 0, 600))
	must(t, c.Close())
	from.await("the client to be gone", func() bool { return len(from.status().Clients) == 0 })
	file := from.save("swap")
	from.stop()

	log := &logBuffer{}
	o := options(t, t.TempDir(), log, "--size", "4MiB", "--backend", "none")
	o.OpenStorage = func(e config.Export) (tier.Storage, error) {
		s, err := tier.OpenFile(e.Storage, e.Size)
		if err != nil || e.Name != "copy" {
			return s, err
		}
		return fullAfter{s, 300}, nil
	}
	i := run(t, o, log)
	if err := i.restore("copy", file); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("restored on a full disk: %v", err)
	}
	if names := i.names(); !slices.Equal(names, []string{"swap"}) {
		t.Error(names)
	}
	if _, err := os.Stat(filepath.Join(i.dir, "copy.img")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("storage is left: %v", err)
	}
	i.stop()
}

// fullAfter is storage that has room up to a page.
type fullAfter struct {
	tier.Storage
	pages uint64
}

func (s fullAfter) WritePages(first uint64, p []byte) error {
	if first >= s.pages {
		return unix.ENOSPC
	}
	return s.Storage.WritePages(first, p)
}

// stalled is a file that stops in its middle until it is let go, and then fails.
type stalled struct {
	rest    *bytes.Reader
	reached chan struct{}
	let     chan struct{}
}

func (s *stalled) Read(p []byte) (int, error) {
	if s.rest.Len() > 0 {
		return s.rest.Read(p)
	}
	select {
	case <-s.reached:
	default:
		close(s.reached)
	}
	<-s.let
	return 0, errors.New("killed")
}

// TestRestoreInterrupted: a tmemctl that dies in the middle, and a daemon that is stopped
// then. Meanwhile nobody sees the export, nor gets into one that is being filled.
func TestRestoreInterrupted(t *testing.T) {
	for _, into := range []string{"copy", "empty"} {
		i := start(t, t.TempDir())
		c := i.attach()
		must(t, c.WritePages(7, 0, 900))
		must(t, c.Close())
		i.await("the client to be gone", func() bool { return len(i.status().Clients) == 0 })
		file := i.save("swap")
		_, err := i.client.CreateExport(context.Background(), admin.CreateRequest{Name: "empty", Size: "4MiB"})
		must(t, err)
		half := &stalled{bytes.NewReader(file[:len(file)*3/4]), make(chan struct{}), make(chan struct{})}
		ended := make(chan error, 1)
		go func() {
			_, err := i.client.RestoreExport(context.Background(), admin.CreateRequest{Name: into}, half)
			ended <- err
		}()
		<-half.reached
		i.await("the restore to be noted", func() bool {
			s, found, err := (&peeked{i.dir}).load()
			return err == nil && found && slices.ContainsFunc(s.Exports, func(e state.Export) bool { return e.Name == into && e.Restoring != "" })
		})
		if _, err := nbdtest.Dial("unix", filepath.Join(i.dir, "nbd.sock"), into); err == nil {
			t.Errorf("somebody got into %s, which is being restored", into)
		}
		if err := i.client.DeleteExport(context.Background(), into, admin.DeleteRequest{}); err == nil {
			t.Errorf("%s was deleted while it is being restored", into)
		}
		if err := i.restore(into, file); err == nil {
			t.Errorf("%s was restored twice at once", into)
		}
		close(half.let)
		if err := <-ended; err == nil {
			t.Error("half a file was restored")
		}
		i.await("the restore to be undone", func() bool {
			s, _, err := (&peeked{i.dir}).load()
			return err == nil && !slices.ContainsFunc(s.Exports, func(e state.Export) bool { return e.Restoring != "" })
		})
		if names := i.names(); !slices.Equal(names, []string{"swap", "empty"}) {
			t.Error(names)
		}
		must(t, i.restore(into, file)) // nothing is in the way
		c = i.dialTo(into)
		must(t, c.CheckPages(7, 0, 900))
		must(t, c.Close())

		// Once more, ended by a stop.
		half = &stalled{bytes.NewReader(file[:len(file)*3/4]), make(chan struct{}), make(chan struct{})}
		go func() {
			_, err := i.client.RestoreExport(context.Background(), admin.CreateRequest{Name: "late"}, half)
			ended <- err
		}()
		<-half.reached
		i.await("the restore to begin", func() bool {
			_, err := os.Stat(filepath.Join(i.dir, "late.img"))
			return err == nil
		})
		i.signal()
		close(half.let)
		if err := i.awaitEnd(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err == nil {
			t.Error("half a file was restored")
		}
		if _, err := os.Stat(filepath.Join(i.dir, "late.img")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("storage is left: %v", err)
		}
	}
}

// peeked reads the state of a daemon that runs.
type peeked struct{ dir string }

func (p *peeked) load() (state.State, bool, error) {
	text, err := os.ReadFile(filepath.Join(p.dir, state.FileName))
	if err != nil {
		return state.State{}, false, err
	}
	dir, err := os.MkdirTemp("", "tmemd-state-")
	if err != nil {
		return state.State{}, false, err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, state.FileName), text, 0o600); err != nil {
		return state.State{}, false, err
	}
	f, err := state.Open(dir)
	if err != nil {
		return state.State{}, false, err
	}
	defer f.Close()
	return f.Load()
}
