package admin

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"testing"
)

func (u *fakeUnload) Operation() string { return OperationUnload }
func (u *fakeUnload) Into() string      { return "" }

// fakeMove is a move that is over at once.
type fakeMove struct {
	operation, into string
	left            uint64
}

func (m fakeMove) Operation() string  { return m.operation }
func (m fakeMove) Into() string       { return m.into }
func (m fakeMove) Progress() Progress { return Progress{Total: m.left, Moved: m.left} }
func (m fakeMove) Err() error         { return nil }
func (m fakeMove) Done() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

// The fake answers with what it was asked for.
func (s *fakeService) Freeze(name, reason string) (Backend, error) {
	return Backend{Name: name, State: "frozen", Reason: reason}, nil
}

func (s *fakeService) SetBackend(name string, settings []Setting) (Backend, error) {
	if name != "zcache" {
		return Backend{}, &Error{Status: http.StatusNotFound, Message: "no backend " + name, Hint: "see tmemctl backend list"}
	}
	return Backend{Name: name, Settings: settings}, nil
}

func (s *fakeService) Thaw(name string) (Backend, error) {
	return Backend{Name: name, State: "active"}, nil
}

func (s *fakeService) Cancel(name string) (Backend, error) {
	return Backend{}, &Error{Status: http.StatusConflict, Message: "nothing moves in " + name}
}

func (s *fakeService) Order(names []string) (b []Backend, err error) {
	for _, name := range names {
		b = append(b, Backend{Name: name})
	}
	return b, nil
}

func (s *fakeService) Replace(name string, with LoadRequest) (Move, error) {
	return fakeMove{OperationReplace, fmt.Sprint(with), 3}, nil
}

func (s *fakeService) Shrink(name string, by MoveRequest) (Move, error) {
	return fakeMove{OperationShrink, by.Bytes, by.Pages}, nil
}

func (s *fakeService) Migrate(name string, by MoveRequest) (Move, error) {
	return fakeMove{OperationMigrate, by.Bytes, by.Pages}, nil
}

func TestLifecycle(t *testing.T) {
	c := startClient(t, &fakeService{})
	ctx := context.Background()
	if b, err := c.Freeze(ctx, "a/b", "why not"); err != nil || b.Name != "a/b" || b.State != "frozen" || b.Reason != "why not" {
		t.Errorf("Freeze = %+v, %v", b, err)
	}
	settings := []Setting{{"codec", "zstd"}, {"max_pool", "1GiB"}}
	if b, err := c.SetBackend(ctx, "zcache", settings); err != nil || !reflect.DeepEqual(b.Settings, settings) {
		t.Errorf("SetBackend = %+v, %v", b, err)
	}
	if _, err := c.SetBackend(ctx, "a/b", settings); err == nil || err.Error() != "no backend a/b" {
		t.Errorf("SetBackend of another: %v", err)
	}
	if b, err := c.Thaw(ctx, "order"); err != nil || b.Name != "order" || b.State != "active" {
		t.Errorf("Thaw = %+v, %v", b, err)
	}
	if _, err := c.Cancel(ctx, "zcache"); err == nil || err.Error() != "nothing moves in zcache" {
		t.Errorf("Cancel: %v", err)
	}
	if b, err := c.Order(ctx, []string{"x", "y"}); err != nil || !reflect.DeepEqual(b, []Backend{{Name: "x"}, {Name: "y"}}) {
		t.Errorf("Order = %+v, %v", b, err)
	}
}

func TestMoves(t *testing.T) {
	c := startClient(t, &fakeService{})
	with := LoadRequest{Kind: "zcache", Name: "new", Size: "1GiB"}
	by := MoveRequest{Pages: 12, Bytes: "1MiB"}
	tests := []struct {
		want MoveEvent
		do   func(func(MoveEvent)) error
	}{
		{MoveEvent{Operation: OperationReplace, Into: "{zcache new 1GiB []}", Progress: Progress{Total: 3, Moved: 3}},
			func(r func(MoveEvent)) error { return c.Replace(context.Background(), "old", with, r) }},
		{MoveEvent{Operation: OperationShrink, Into: "1MiB", Progress: Progress{Total: 12, Moved: 12}},
			func(r func(MoveEvent)) error { return c.Shrink(context.Background(), "old", by, r) }},
		{MoveEvent{Operation: OperationMigrate, Into: "1MiB", Progress: Progress{Total: 12, Moved: 12}},
			func(r func(MoveEvent)) error { return c.Migrate(context.Background(), "old", by, r) }},
	}
	for _, test := range tests {
		test.want.Backend, test.want.Done = "old", true
		var last MoveEvent
		if err := test.do(func(e MoveEvent) { last = e }); err != nil || !reflect.DeepEqual(last, test.want) {
			t.Errorf("got %+v, %v, want %+v", last, err, test.want)
		}
	}
}

func (s *fakeService) SetExport(name string, settings ExportSettings) (Export, error) {
	return Export{Name: name, Writethrough: settings.Writethrough}, nil
}

func TestSetExport(t *testing.T) {
	c := startClient(t, &fakeService{})
	e, err := c.SetExport(context.Background(), "a/b", ExportSettings{Writethrough: "sync"})
	if err != nil || e.Name != "a/b" || e.Writethrough != "sync" {
		t.Errorf("SetExport = %+v, %v", e, err)
	}
}

func (s *fakeService) CreateExport(r CreateRequest) (Export, error) {
	return Export{Name: r.Name, Writethrough: r.Writethrough, Storage: Storage{Path: r.Storage}}, nil
}

func (s *fakeService) DeleteExport(name string, removeStorage bool) error {
	return &Error{Status: http.StatusConflict, Message: fmt.Sprint(name, " ", removeStorage)}
}

func (s *fakeService) ResizeExport(name string, r ResizeRequest) (Export, error) {
	if r.Discard {
		return Export{Name: name, Storage: Storage{Path: r.Size}}, nil
	}
	return Export{}, &Error{Status: http.StatusConflict, Message: name + " " + r.Size}
}

func TestCreateDelete(t *testing.T) {
	c, ctx := startClient(t, &fakeService{}), context.Background()
	resized, err := c.ResizeExport(ctx, "a/b", ResizeRequest{Size: "1GiB", Discard: true})
	if err != nil || resized.Name != "a/b" || resized.Storage.Path != "1GiB" {
		t.Errorf("ResizeExport = %+v, %v", resized, err)
	}
	if _, err := c.ResizeExport(ctx, "a/b", ResizeRequest{Size: "1GiB"}); err == nil || err.Error() != "a/b 1GiB" {
		t.Errorf("ResizeExport: %v", err)
	}
	e, err := c.CreateExport(ctx, CreateRequest{Name: "x", Size: "1GiB", Storage: "/s", Writethrough: "sync"})
	if err != nil || e.Name != "x" || e.Writethrough != "sync" || e.Storage.Path != "/s" {
		t.Errorf("CreateExport = %+v, %v", e, err)
	}
	if err := c.DeleteExport(ctx, "a/b", DeleteRequest{RemoveStorage: true}); err == nil || err.Error() != "a/b true" {
		t.Errorf("DeleteExport: %v", err)
	}
}

func (s *fakeService) Faults() ([]Fault, error) {
	return []Fault{{Target: "zcache", Part: "backend", Rules: []FaultRule{{Rule: "load error", Fired: 2}}}}, nil
}

func (s *fakeService) SetFaults(target string, rules []string) (Fault, error) {
	if target == "" || len(rules) == 0 {
		return Fault{Target: target, Rules: []FaultRule{}}, nil
	}
	return Fault{Target: target, Rules: []FaultRule{{Rule: rules[0]}}}, nil
}

func TestFaults(t *testing.T) {
	service := &fakeService{}
	c, ctx := startClient(t, service), context.Background()
	want, _ := service.Faults()
	if got, err := c.Faults(ctx); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Faults = %+v, %v", got, err)
	}
	got, err := c.SetFaults(ctx, "storage:swap", []string{"write full"})
	if err != nil || got.Target != "storage:swap" || len(got.Rules) != 1 || got.Rules[0].Rule != "write full" {
		t.Errorf("SetFaults = %+v, %v", got, err)
	}
}
