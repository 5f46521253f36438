package daemon

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

func quiet(admin.MoveEvent) {}

// load loads a backend and fails the test if it cannot.
func (i *instance) load(name string) {
	i.t.Helper()
	_, err := i.client.Load(context.Background(), admin.LoadRequest{Kind: "zcache", Name: name, Size: "32MiB"})
	must(i.t, err)
}

// held is how many pages of the export a backend has.
func (i *instance) held(name string) int64 {
	i.t.Helper()
	return i.status().Exports[0].Pages.Backends[name]
}

// gated is a daemon whose storage holds writes up until the channel is closed.
func gated(t *testing.T, dir string) (*instance, *faultyStorage, chan struct{}) {
	t.Helper()
	storage, log := &faultyStorage{}, &logBuffer{}
	o := options(t, dir, log, "--size", "8MiB")
	o.OpenStorage = storage.open
	return run(t, o, log), storage, make(chan struct{})
}

// begin asks for a move and returns when it runs, with how it will end.
func (i *instance) begin(do func(report func(admin.MoveEvent)) error) chan error {
	i.t.Helper()
	ended, running := make(chan error, 1), make(chan struct{}, 1)
	go func() {
		ended <- do(func(admin.MoveEvent) {
			select {
			case running <- struct{}{}:
			default:
			}
		})
	}()
	select {
	case <-running:
	case err := <-ended:
		i.t.Fatalf("the move did not begin: %v", err)
	}
	return ended
}

func TestFreezeThawOrder(t *testing.T) {
	i, ctx := start(t, t.TempDir()), context.Background()
	i.load("second")
	c := i.attach()
	must(t, c.WritePages(1, 0, 30))
	b, err := i.client.Freeze(ctx, "zcache", "rehearsal")
	if err != nil || b.State != "frozen" || b.Reason != "rehearsal" || b.Pages != 20 {
		t.Fatalf("Freeze = %+v, %v", b, err)
	}
	must(t, c.WritePages(2, 30, 30))
	if i.held("zcache") != 20 || i.held("second") != 20 {
		t.Errorf("while frozen: %+v", i.status().Exports[0].Pages)
	}
	if b, err = i.client.Thaw(ctx, "zcache"); err != nil || b.State != "active" || b.Reason != "" {
		t.Fatalf("Thaw = %+v, %v", b, err)
	}
	list, err := i.client.Order(ctx, []string{"second"})
	if err != nil || len(list) != 2 || list[0].Name != "second" {
		t.Fatalf("Order = %+v, %v", list, err)
	}
	must(t, c.WritePages(3, 60, 30))
	if i.held("zcache") != 20 || i.held("second") != 40 {
		t.Errorf("in the new order: %+v", i.status().Exports[0].Pages)
	}
	must(t, c.CheckPages(1, 0, 30))
	must(t, c.CheckPages(2, 30, 30))
	must(t, c.CheckPages(3, 60, 30))
	must(t, c.Close())

	// A frozen backend is drained by a stop too.
	_, err = i.client.Freeze(ctx, "second", "")
	must(t, err)
	i.stop()
	i = run(t, options(t, i.dir, &logBuffer{}), &logBuffer{})
	c = i.attach()
	must(t, c.CheckPages(1, 0, 30))
	must(t, c.CheckPages(3, 60, 30))
	must(t, c.Close())
	i.stop()
}

// TestShrinkMigrateReplace moves pages along every way that there is.
func TestShrinkMigrateReplace(t *testing.T) {
	i, ctx := start(t, t.TempDir()), context.Background()
	i.load("second")
	c := i.attach()
	must(t, c.WritePages(4, 0, 900)) // 600 of them are for backends
	var last admin.MoveEvent
	keep := func(e admin.MoveEvent) { last = e }
	must(t, i.client.Shrink(ctx, "zcache", admin.MoveRequest{Pages: 10}, keep))
	shrunk := int64(last.Moved)
	if last.Total != 10 || shrunk < 10 || last.Left != 0 || last.Operation != admin.OperationShrink || last.Into != "" {
		t.Errorf("the last event of the shrink: %+v", last)
	}
	if i.held("zcache") != 600-shrunk || i.status().Exports[0].Pages.Storage != 300+shrunk {
		t.Errorf("after the shrink: %+v", i.status().Exports[0].Pages)
	}
	must(t, i.client.Migrate(ctx, "zcache", admin.MoveRequest{Bytes: "118KiB"}, keep))
	migrated := int64(last.Moved)
	rest := 600 - shrunk - migrated
	if last.Total != 30 || migrated < 30 || last.Into != "second" || i.held("zcache") != rest || i.held("second") != migrated {
		t.Errorf("after the migration: %+v, %+v", last, i.status().Exports[0].Pages)
	}
	must(t, i.client.Replace(ctx, "zcache", admin.LoadRequest{Kind: "zcache", Size: "64MiB"}, keep))
	if last.Into != "zcache-2" || last.Total != uint64(rest) || last.Moved != last.Total {
		t.Errorf("the last event of the replacement: %+v", last)
	}
	if s := i.status(); len(s.Backends) != 2 || s.Backends[0].Name != "zcache-2" || s.Backends[0].LimitBytes != 64<<20 || i.held("zcache-2") != rest {
		t.Errorf("after the replacement: %+v", s)
	}
	must(t, i.client.Unload(ctx, "zcache-2", keep))
	if last.Into != "second" || i.held("second") != rest+migrated {
		t.Errorf("after the unload: %+v, %+v", last, i.status().Exports[0].Pages)
	}
	must(t, c.CheckPages(4, 0, 900))
	must(t, c.Close())
	i.stop()
}

func TestLifecycleErrors(t *testing.T) {
	i, ctx := start(t, t.TempDir()), context.Background()
	backend := func(_ admin.Backend, err error) error { return err }
	for _, test := range []struct {
		name string
		err  error
		text string
		code int
	}{
		{"freeze", backend(i.client.Freeze(ctx, "tape", "")), "error: no backend tape is loaded\nhint: " + listHint + "\n", cli.ExitFailed},
		{"long reason", backend(i.client.Freeze(ctx, "zcache", strings.Repeat("x", 257))),
			"error: the reason has 257 bytes, the limit is 256\nhint: be brief\n", cli.ExitUsage},
		{"thaw what is active", backend(i.client.Thaw(ctx, "zcache")),
			"error: thaw: backend zcache is active and cannot become active\nhint: it is what you want it to be already: " + listHint + "\n", cli.ExitFailed},
		{"cancel", backend(i.client.Cancel(ctx, "zcache")),
			"error: cancel: no pages of backend zcache are being moved\nhint: tmemctl backend list shows what is being moved\n", cli.ExitFailed},
		{"shrink by nothing", i.client.Shrink(ctx, "zcache", admin.MoveRequest{}, quiet), "error: neither pages nor bytes are given\n" +
			"hint: say how much with --pages 1000 or --bytes 512MiB, which counts pages before compression\n", cli.ExitUsage},
		{"shrink by a share", i.client.Shrink(ctx, "zcache", admin.MoveRequest{Bytes: "5%"}, quiet), "error: bytes: \"5%\" is a percentage\n" +
			"hint: say how much with --pages 1000 or --bytes 512MiB, which counts pages before compression\n", cli.ExitUsage},
		{"shrink", i.client.Shrink(ctx, "tape", admin.MoveRequest{Pages: 1}, quiet), "error: no backend tape is loaded\nhint: " + listHint + "\n", cli.ExitFailed},
		{"migrate to nobody", i.client.Migrate(ctx, "zcache", admin.MoveRequest{Pages: 1}, quiet), "error: no backend that takes pages comes after zcache\n" +
			"hint: load another one or change the order (tmemctl backend order); tmemctl backend shrink moves pages to storage\n", cli.ExitFailed},
		{"replace", i.client.Replace(ctx, "tape", admin.LoadRequest{Kind: "zcache", Name: "b"}, quiet),
			"error: no backend tape is loaded\nhint: " + listHint + "\n", cli.ExitFailed},
		{"replace by what is loaded", i.client.Replace(ctx, "zcache", admin.LoadRequest{Kind: "zcache", Name: "zcache"}, quiet),
			"error: unload backend zcache: load backend zcache: a backend of that name is loaded\n" +
				"hint: choose another name with --name, or unload that one first\n", cli.ExitFailed},
	} {
		var out strings.Builder
		if code := cli.Report(&out, test.err); out.String() != test.text || code != test.code {
			t.Errorf("%s: exit status %d and\n%swant %d and\n%s", test.name, code, out.String(), test.code, test.text)
		}
	}
	if _, err := i.client.Order(ctx, []string{"zcache", "zcache"}); err == nil || err.Error() != "order backends: zcache is named twice" {
		t.Errorf("Order: %v", err)
	}
	if _, err := i.client.Order(ctx, []string{"tape"}); err == nil || !strings.HasSuffix(err.Error(), "no backend of that name is loaded") {
		t.Errorf("Order: %v", err)
	}
	i.stop()
}

// TestCancelUnload: the backend stays, frozen, with what did not move, and can
// be thawed or unloaded.
func TestCancelUnload(t *testing.T) {
	i, storage, gate := gated(t, t.TempDir())
	ctx, c := context.Background(), i.attach()
	must(t, c.WritePages(5, 0, 1900)) // more blocks than a drain has in hand
	storage.gate.Store(&gate)
	ended := i.begin(func(report func(admin.MoveEvent)) error { return i.client.Unload(ctx, "zcache", report) })
	i.awaitLog("backend draining")
	if err := i.client.Shrink(ctx, "zcache", admin.MoveRequest{Pages: 5}, quiet); err == nil ||
		err.Error() != "backend zcache: its pages are being moved already (unload)" {
		t.Errorf("Shrink during an unload: %v", err)
	}
	if err := i.client.Replace(ctx, "zcache", admin.LoadRequest{Kind: "zcache"}, quiet); err == nil ||
		err.Error() != "backend zcache: its pages are being moved already (unload)" {
		t.Errorf("Replace during an unload: %v", err)
	}
	if _, err := i.client.Freeze(ctx, "zcache", ""); err == nil || !strings.Contains(err.Error(), "is being unloaded already") {
		t.Errorf("Freeze during an unload: %v", err)
	}
	_, err := i.client.Cancel(ctx, "zcache")
	must(t, err)
	storage.gate.Store(nil)
	close(gate)
	var out strings.Builder
	cli.Report(&out, <-ended)
	if !strings.HasSuffix(out.String(), ": cancelled\nhint: nothing is lost: tmemctl backend thaw lets it take pages again, tmemctl backend unload goes on\n") {
		t.Errorf("the unload said %q", out.String())
	}
	if b := i.status().Backends[0]; b.State != "frozen" || b.Pages == 0 {
		t.Errorf("after the cancel: %+v", b)
	}
	_, err = i.client.Thaw(ctx, "zcache")
	must(t, err)
	must(t, c.CheckPages(5, 0, 900))
	must(t, c.Close())
	i.stop()
}

// TestStopDuringMoves: a stop waits for a replacement and unloads what it
// loads, and cancels a shrink.
func TestStopDuringMoves(t *testing.T) {
	dir := t.TempDir()
	tests := map[string]func(*instance, func(admin.MoveEvent)) error{
		"shrink": func(i *instance, report func(admin.MoveEvent)) error {
			return i.client.Shrink(context.Background(), "zcache", admin.MoveRequest{Pages: 600}, report)
		},
		"replace": func(i *instance, report func(admin.MoveEvent)) error {
			// Too small for all of them, so that the move writes to storage.
			return i.client.Replace(context.Background(), "zcache", admin.LoadRequest{Kind: "zcache", Size: "1MiB"}, report)
		},
	}
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			i, storage, gate := gated(t, dir)
			c := i.attach()
			must(t, c.WritePages(6, 0, 900))
			must(t, c.Close())
			storage.gate.Store(&gate)
			ended := i.begin(func(report func(admin.MoveEvent)) error { return do(i, report) })
			i.await("the move", func() bool {
				for _, b := range i.status().Backends {
					if b.Drain != nil && b.Drain.Running {
						return true
					}
				}
				return false
			})
			i.signal()
			i.await("the draining phase", func() bool { return i.status().Phase == admin.PhaseDraining })
			if _, err := i.client.Cancel(context.Background(), "zcache"); err == nil || !strings.HasPrefix(err.Error(), "tmemd is being stopped") {
				t.Errorf("Cancel during a stop: %v", err)
			}
			if err := i.client.Replace(context.Background(), "zcache", admin.LoadRequest{Kind: "zcache", Name: "b"}, quiet); err == nil ||
				err.Error() != "tmemd is being stopped, and replaces no backend any more" {
				t.Errorf("Replace during a stop: %v", err)
			}
			storage.gate.Store(nil)
			close(gate)
			if err := <-ended; name == "replace" && err != nil {
				t.Errorf("the replacement: %v", err)
			}
			must(t, i.awaitEnd())
			i = start(t, dir, "--backend", "none", "--size", "8MiB")
			c = i.attach()
			must(t, c.CheckPages(6, 0, 900))
			must(t, c.Close())
			i.stop()
		})
	}
}

// TestMoveOrders: who joins whom.
func TestMoveOrders(t *testing.T) {
	unload := moveOrder{operation: admin.OperationUnload}
	replace := moveOrder{operation: admin.OperationReplace, with: "zcache"}
	other := moveOrder{operation: admin.OperationReplace, with: "zcache b"}
	shrink := moveOrder{operation: admin.OperationShrink, most: 5}
	tests := []struct {
		running, wanted moveOrder
		joins, refused  bool
	}{
		{running: unload, wanted: unload, joins: true},
		{running: replace, wanted: replace, joins: true},
		{running: replace, wanted: unload, joins: true},
		{running: shrink, wanted: shrink, joins: true},
		{running: replace, wanted: other, refused: true},
		{running: unload, wanted: replace, refused: true},
		{running: unload, wanted: shrink, refused: true},
		{running: shrink, wanted: moveOrder{operation: admin.OperationMigrate, most: 5}, refused: true},
	}
	for _, test := range tests {
		ms := newMoves(nil)
		running := &move{order: test.running, done: make(chan struct{})}
		ms.running["zcache"] = running
		m, err := ms.joinLocked("zcache", test.wanted)
		if (m == running) != test.joins || (err != nil) != test.refused {
			t.Errorf("%+v while %+v: joins %v, error %v", test.wanted, test.running, m == running, err)
		}
		if err != nil && err.Status != http.StatusConflict {
			t.Errorf("status %d", err.Status)
		}
	}
}
