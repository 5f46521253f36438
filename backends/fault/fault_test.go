package fault

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

func rules(t *testing.T, lines ...string) []Rule {
	t.Helper()
	var list []Rule
	for _, line := range lines {
		r, err := Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		if again := r.String(); again != line {
			t.Errorf("%q is written as %q", line, again)
		}
		list = append(list, r)
	}
	return list
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "needs an operation and an action",
		"load":                            "needs an operation and an action",
		"load every=3":                    "the action is missing",
		"load refuse":                     "load cannot refuse: it goes with [store]",
		"lod error":                       "lod cannot error",
		"store corrupt":                   "store cannot corrupt",
		"store gone":                      "store cannot gone: it goes with [load]",
		"load every=0 error":              "\"0\" is not a number from 1",
		"load pages=9-3 error":            "\"3\" is not a number from 9",
		"load pages=-3 error":             "\"\" is not a number",
		"load every=x error":              "\"x\" is not a number",
		"load error every=3":              "follows the action",
		"load delay":                      "\"delay\" is not known",
		"load delay=fast":                 "invalid duration",
		"load delay=2h":                   "between 0 and 1h",
		"load sometimes=3 error":          "\"sometimes\" is not known",
		"load times=99999999999999 error": "is not a number",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q in it", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"load every=3 corrupt", "any pages=1-5 times=2 delay=10ms", "write full", "load every=10 gone"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(r.String()); err != nil || again != r {
			t.Errorf("%q became %q: %+v, %v", text, r, again, err)
		}
	})
}

func TestNext(t *testing.T) {
	var r Rules
	if a := r.Next(Load, 1, 1); a != "" {
		t.Errorf("without rules: %q", a)
	}
	r.Set(rules(t, "load every=3 corrupt", "load pages=10-19 times=2 error", "any pages=12-12 delay=1µs", "sync error"))
	steps := []struct {
		o        Operation
		first, n uint64
		want     Action
	}{
		{Load, 1, 1, ""}, {Load, 1, 1, ""}, {Load, 1, 1, Corrupt}, // the third load
		{Store, 10, 1, ""},     // another operation
		{Load, 10, 1, Error},   // the fourth
		{Load, 9, 1, ""},       // the fifth, beside the range
		{Load, 19, 1, Corrupt}, // the sixth; the second rule is not asked
		{Load, 5, 6, Error},    // a range that overlaps
		{Load, 15, 1, ""},      // twice is enough
		{Store, 12, 1, ""},     // a delay only
		{Sync, 0, 0, Error}, {Sync, 0, 0, Error},
	}
	for i, s := range steps {
		if got := r.Next(s.o, s.first, s.n); got != s.want {
			t.Errorf("step %d, %s of %d pages at %d: got %q, want %q", i, s.o, s.n, s.first, got, s.want)
		}
	}
	var fired []string
	for _, s := range r.Status() {
		fired = append(fired, fmt.Sprint(s.Fired))
	}
	if got := strings.Join(fired, " "); got != "2 2 1 2" {
		t.Errorf("rules fired %s times", got)
	}
	r.Set(nil)
	if a := r.Next(Sync, 0, 0); a != "" || len(r.Status()) != 0 {
		t.Errorf("after the rules were taken away: %q", a)
	}
}

func TestDelay(t *testing.T) {
	var r Rules
	r.Set(rules(t, "store delay=2ms", "store delay=3ms", "store refuse"))
	start := time.Now()
	if a := r.Next(Store, 1, 1); a != Refuse {
		t.Errorf("got %q after the delays", a)
	}
	if took := time.Since(start); took < 5*time.Millisecond { // sleeping is never shorter
		t.Errorf("two delays of 5 ms together took %v", took)
	}
}

// TestConforms: without rules it is the backend behind it.
func TestConforms(t *testing.T) {
	backendtest.Run(t, func(*testing.T) backends.Backend { return New(&backendtest.Map{}) })
}

func TestBackend(t *testing.T) {
	b := New(&backendtest.Map{})
	if err := b.Init(backends.Export{ID: 1, Name: "e", Pages: 100}); err != nil {
		t.Fatal(err)
	}
	key := backends.Key{Export: 1, Page: 7}
	page, dst := backendtest.Page(backendtest.Text, 1), make([]byte, backends.PageSize)
	handle, refusal, err := b.Store(key, page)
	if refusal != backends.Accepted || err != nil {
		t.Fatal(refusal, err)
	}
	b.Rules.Set(rules(t, "store times=1 refuse", "store times=1 error", "store transient", "load times=1 corrupt", "load times=1 transient"))
	if _, refusal, err := b.Store(key, page); refusal != backends.RefusedFault || err != nil {
		t.Errorf("refuse: %v, %v", refusal, err)
	}
	if _, _, err := b.Store(key, page); !errors.Is(err, unix.EIO) || errors.Is(err, backends.ErrTransient) {
		t.Errorf("error: %v", err)
	}
	if _, _, err := b.Store(key, page); !errors.Is(err, backends.ErrTransient) {
		t.Errorf("transient: %v", err)
	}
	if err := b.Load(key, handle, dst); !errors.Is(err, backends.ErrCorrupt) {
		t.Errorf("corrupt: %v", err)
	}
	if err := b.Load(key, handle, dst); !errors.Is(err, backends.ErrTransient) {
		t.Errorf("transient load: %v", err)
	}
	if err := b.Load(key, handle, dst); err != nil || string(dst) != string(page) {
		t.Errorf("after the rules are used up: %v", err)
	}
	b.Invalidate(key, handle)
	b.InvalidateArea(1)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// TestGone: cached pages of disks vanish, pages of swap never do.
func TestGone(t *testing.T) {
	b := New(&backendtest.Map{})
	for _, e := range []backends.Export{{ID: 1, Name: "swap", Pages: 100}, {ID: 2, Name: "disk", Pages: 100, Ephemeral: true}} {
		if err := b.Init(e); err != nil {
			t.Fatal(err)
		}
	}
	page, dst := backendtest.Page(backendtest.Text, 1), make([]byte, backends.PageSize)
	handles := map[backends.Key]backends.Handle{{Export: 1, Page: 7}: 0, {Export: 2, Page: 7}: 0}
	for key := range handles {
		handle, refusal, err := b.Store(key, page)
		if refusal != backends.Accepted || err != nil {
			t.Fatal(refusal, err)
		}
		handles[key] = handle
	}
	b.Rules.Set(rules(t, "load gone"))
	for key, handle := range handles {
		switch err := b.Load(key, handle, dst); {
		case key.Export == 1 && (err != nil || !bytes.Equal(dst, page)):
			t.Errorf("a page of swap: %v", err)
		case key.Export == 2 && !errors.Is(err, backends.ErrGone):
			t.Errorf("a page of a disk: %v, want ErrGone", err)
		}
	}
	b.Rules.Set(nil)
	for key, handle := range handles {
		if err := b.Load(key, handle, dst); err != nil || !bytes.Equal(dst, page) {
			t.Errorf("%v without rules: %v", key, err)
		}
	}
}
