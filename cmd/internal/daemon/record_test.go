package daemon

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/frontswap"
)

// recorder is a daemon that can record, and nothing else.
func recorder(t testing.TB) (*Daemon, *zcache.Cache) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tmemd-record-")
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{log: slog.New(slog.DiscardHandler)}
	if d.memory, err = sharedmem.OpenFolder(sharedmem.FolderConfig{Path: filepath.Join(dir, "m"), Boot: "boot"}); err != nil {
		t.Fatal(err)
	}
	if d.record, err = createRecord(d.memory); err != nil {
		t.Fatal(err)
	}
	c, err := zcache.New(zcache.Config{Limit: 1 << 20, Capacity: 1 << 20, Memory: arena.Place{Folder: d.memory, Name: "z"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(c.Close(), d.closeMemory(), os.Remove(dir)); err != nil {
			t.Error(err)
		}
	})
	return d, c
}

// TestRecordIsWhole: a process that dies while it records leaves what was recorded
// before.
func TestRecordIsWhole(t *testing.T) {
	d, c := recorder(t)
	if _, err := readRecord(d.record.Bytes()); !errors.Is(err, sharedmem.ErrDamaged) {
		t.Errorf("an empty record: %v", err)
	}
	list := []frontswap.Registered{{Name: "first", Owner: 3, State: frontswap.StateActive, Backend: c}}
	if err := d.writeRecord(list); err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(d.record.Bytes())
	list[0].Name, list[0].State, list[0].Reason = "second", frontswap.StateFrozen, strings.Repeat("why? ", 50)
	if err := d.writeRecord(list); err != nil {
		t.Fatal(err)
	}
	after := bytes.Clone(d.record.Bytes())
	random := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		// Any part of what was written has arrived.
		mixed := bytes.Clone(before)
		from := random.IntN(len(mixed))
		to := from + random.IntN(len(mixed)-from+1)
		copy(mixed[from:to], after[from:to])
		r, err := readRecord(mixed)
		if err != nil || len(r.Backends) != 1 || r.Backends[0].Name != "first" && r.Backends[0].Name != "second" {
			t.Fatalf("bytes %d to %d: %+v, %v", from, to, r, err)
		}
	}
	r, err := readRecord(after)
	if err != nil || r.Backends[0].Name != "second" || r.Backends[0].state() != frontswap.StateFrozen || r.Backends[0].Owner != 3 || r.Backends[0].Files != "z" {
		t.Errorf("recorded %+v, %v", r, err)
	}
	list = nil
	for range frontswap.MaxBackends {
		list = append(list, frontswap.Registered{Name: strings.Repeat("n", 64), Reason: strings.Repeat("\x01", 256), Backend: c})
	}
	if err := d.writeRecord(list); err != nil {
		t.Errorf("the longest record there can be: %v", err)
	}
	list[0].Reason = strings.Repeat("long", recordPlace)
	if err := d.writeRecord(list); err == nil {
		t.Error("a record that is too long was written")
	}
}

// FuzzRecord: no bytes panic, and what is accepted has a version.
func FuzzRecord(f *testing.F) {
	d, c := recorder(f)
	if err := d.writeRecord([]frontswap.Registered{{Name: "zcache", Owner: 3, Backend: c}}); err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.Clone(d.record.Bytes()))
	f.Add(make([]byte, 2*recordPlace))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := readRecord(b); err == nil && r.Version != recordVersion {
			t.Errorf("accepted %+v", r)
		}
	})
}

// TestHeir: what is not a handover is an error, and the environment is clean
// afterwards.
func TestHeir(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "says nothing that is known here",
		"walk lock=3":             "says nothing that is known here",
		"run lock=three memory=4": `"lock=three" is no descriptor`,
		"run lock=2 memory=4":     `"lock=2" is no descriptor`,
		"run memory":              `"memory" is no descriptor`,
		"run child=one":           `"child=one" is no descriptor`,
		"run child=1":             `"child=1" is no descriptor`,
		"rehearse":                "the locks are missing",
	} {
		t.Setenv(heirVariable, text)
		if h, err := NewHeir(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v, want %q", text, h, err, want)
		}
		if _, there := os.LookupEnv(heirVariable); there {
			t.Errorf("%q: the variable is still there", text)
		}
	}
	if h, err := NewHeir(); h != nil || err != nil {
		t.Errorf("nothing handed over: %+v, %v", h, err)
	}
}
