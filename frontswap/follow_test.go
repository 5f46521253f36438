package frontswap

import (
	"context"
	"slices"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

// follower keeps a page of its own area in each backend that is active, and gives it
// back when it has to leave.
type follower struct {
	t       *testing.T
	active  []string
	inited  map[backends.Backend]backends.Handle
	leaving []string
}

const followed = 1 << 31 // its area

func (f *follower) Follow(active []backends.Named) {
	f.active = nil
	for _, b := range active {
		f.active = append(f.active, b.Name)
		if _, ok := f.inited[b.Backend]; ok {
			continue
		}
		if err := b.Backend.Init(backends.Export{ID: followed, Pages: 10, Ephemeral: true}); err != nil {
			f.t.Error(err)
		}
		handle, refusal, err := b.Backend.Store(backends.Key{Export: followed}, backendtest.Mixed(1))
		if err != nil || refusal != backends.Accepted {
			f.t.Errorf("Store: %v, %v", refusal, err)
		}
		f.inited[b.Backend] = handle
	}
}

func (f *follower) Leave(b backends.Backend) {
	f.leaving = append(f.leaving, b.Kind())
	b.Invalidate(backends.Key{Export: followed}, f.inited[b])
	b.InvalidateArea(followed)
	delete(f.inited, b)
}

// TestFollower: it knows the active backends, in their order, and is told to leave one
// before that is closed. The backends report misuse if it is told too late.
func TestFollower(t *testing.T) {
	followed := &follower{t: t, inited: map[backends.Backend]backends.Handle{}}
	f := Open(Config{Log: quiet(), Follower: followed})
	a, b, c := &backendtest.Map{Name: "a"}, &backendtest.Map{Name: "b"}, &backendtest.Map{Name: "c"}
	check := func(what string, active ...string) {
		t.Helper()
		if !slices.Equal(followed.active, active) {
			t.Errorf("after %s the follower knows %v, want %v", what, followed.active, active)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(f.Register("a", a))
	must(f.Register("b", b))
	check("two loads", "a", "b")
	must(f.Order([]string{"b", "a"}))
	check("a new order", "b", "a")
	must(f.Freeze("b", "why not"))
	check("a freeze", "a")
	must(f.Thaw("b"))
	check("a thaw", "b", "a")
	_, err := f.Replace(context.Background(), "b", "c", c)
	must(err)
	check("a replacement", "c", "a")
	for _, name := range []string{"a", "c"} {
		_, err := f.Unregister(context.Background(), name)
		must(err)
	}
	check("all were unloaded")
	if !slices.Equal(followed.leaving, []string{"b", "a", "c"}) {
		t.Errorf("it left %v", followed.leaving)
	}
	for _, m := range []*backendtest.Map{a, b, c} {
		if err := m.Misuse(); err != nil {
			t.Errorf("%s: %v", m.Name, err)
		}
	}
}
