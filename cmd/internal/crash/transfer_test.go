package crash

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
)

const (
	vmPages = 1024
	vmSize  = "4MiB"
)

// daemonOf is a daemon that is killed and started again.
type daemonOf struct {
	t      *testing.T
	place  place
	p      *process
	client *admin.Client
}

func launchAt(t *testing.T, at place) *daemonOf {
	d := &daemonOf{t: t, place: at, client: admin.NewClient(filepath.Join(at.dir, "admin.sock"))}
	t.Cleanup(d.client.Close)
	t.Cleanup(func() {
		if d.p != nil {
			d.p.Process.Kill()
			<-d.p.exited
		}
	})
	d.start()
	return d
}

func (d *daemonOf) start() {
	d.t.Helper()
	p, err := d.place.launch("--size", "4MiB")
	if err == nil {
		d.p = p
		err = p.awaitReady()
	}
	if err != nil {
		d.t.Fatalf("%v\n%s", err, &p.log)
	}
}

// killAndStart kills it, has what it left examined, and starts it again.
func (d *daemonOf) killAndStart() {
	d.t.Helper()
	if err := d.p.kill(); err != nil {
		d.t.Fatalf("%v\n%s", err, &d.p.log)
	}
	if text, err := d.place.check(); err != nil {
		d.t.Fatalf("%v\n%s", err, text)
	}
	d.start()
}

func (d *daemonOf) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatalf("%v\n%s", err, &d.p.log)
	}
}

func (d *daemonOf) create(name string) {
	d.t.Helper()
	_, err := d.client.CreateExport(context.Background(), admin.CreateRequest{Name: name, Size: vmSize})
	d.must(err)
}

func (d *daemonOf) delete(name string) {
	d.t.Helper()
	d.must(d.client.DeleteExport(context.Background(), name, admin.DeleteRequest{RemoveStorage: true}))
}

// find returns an export, if there is one.
func (d *daemonOf) find(name string) (admin.Export, bool) {
	d.t.Helper()
	list, err := d.client.Exports(context.Background())
	d.must(err)
	for _, e := range list {
		if e.Name == name {
			return e, true
		}
	}
	return admin.Export{}, false
}

// fill writes two thirds of an export's pages, in a shape that the seed decides, and verify
// reads all of them.
func (d *daemonOf) fill(name string, seed uint64) {
	d.t.Helper()
	d.each(name, func(c *nbdtest.Client, page uint64) error {
		if page*seed%3 == 1 {
			return c.Trim(int64(page)*nbdtest.PageSize, nbdtest.PageSize)
		}
		return c.WritePages(seed, page, 1)
	})
}

func (d *daemonOf) verify(name string, seed uint64) {
	d.t.Helper()
	d.each(name, func(c *nbdtest.Client, page uint64) error {
		if seed == 0 || page*seed%3 == 1 {
			return c.CheckZeroes(page, 1)
		}
		return c.CheckPages(seed, page, 1)
	})
}

func (d *daemonOf) each(name string, do func(*nbdtest.Client, uint64) error) {
	d.t.Helper()
	c, err := nbdtest.Dial("unix", d.place.socket(), name)
	d.must(err)
	for page := range uint64(vmPages) {
		d.must(do(c, page))
	}
	d.must(c.Close())
	d.idle()
}

// idle waits until it has no client.
func (d *daemonOf) idle() {
	d.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		s, err := d.client.Status(context.Background())
		d.must(err)
		if len(s.Clients) == 0 {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatal("clients do not leave")
		}
	}
}

// TestKillsOfRestore: a daemon is killed in the middle of restores, into new exports and
// into an empty one. The export is there, whole, or everything is as it was.
func TestKillsOfRestore(t *testing.T) {
	kills := number(t, "CRASH_KILLS", 20) / 4
	seed := number(t, "CRASH_SEED", uint64(time.Now().UnixNano()))
	t.Logf("CRASH_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	d := launchAt(t, newPlace(t))
	d.create("vm1")
	d.fill("vm1", 5)
	var file bytes.Buffer
	d.must(d.client.SaveExport(context.Background(), "vm1", &file))
	d.delete("vm1")
	d.create("empty")
	began := time.Now()
	_, err := d.client.RestoreExport(context.Background(), admin.CreateRequest{Name: "copy"}, bytes.NewReader(file.Bytes()))
	d.must(err)
	takes := time.Since(began)
	d.verify("copy", 5)
	d.delete("copy")
	whole := 0
	for n := range kills {
		into := [...]string{"copy", "empty"}[n%2]
		ended := make(chan error, 1)
		go func() {
			_, err := d.client.RestoreExport(context.Background(), admin.CreateRequest{Name: into}, bytes.NewReader(file.Bytes()))
			ended <- err
		}()
		time.Sleep(time.Duration(random.Int64N(int64(takes) * 5 / 4)))
		d.killAndStart()
		told := <-ended
		e, there := d.find(into)
		switch {
		case told == nil || into == "copy" && there || into == "empty" && e.Pages.Backends["zcache"]+e.Pages.Storage > 0:
			whole++
			d.verify(into, 5)
			d.delete(into)
			if into == "empty" {
				d.create(into)
			}
		case into == "empty":
			d.verify(into, 0)
		default:
			if _, err := os.Stat(filepath.Join(d.place.dir, "copy.img")); !errors.Is(err, os.ErrNotExist) {
				t.Fatalf("storage is left: %v", err)
			}
		}
	}
	t.Logf("%d kills, %d restores were done by then", kills, whole)
	d.must(d.p.stop())
}

// TestKillsOfMove: either side is killed in the middle of moves. The export is at one of the
// two, whole, and the other one does not serve it.
func TestKillsOfMove(t *testing.T) {
	kills := number(t, "CRASH_KILLS", 20) / 4
	seed := number(t, "CRASH_SEED", uint64(time.Now().UnixNano()))
	t.Logf("CRASH_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 2))
	from, to := launchAt(t, newPlace(t)), launchAt(t, newPlace(t))
	from.create("vm1")
	from.fill("vm1", 1)
	to.create("vm1")
	began := time.Now()
	order := func(to *daemonOf) admin.MoveExportRequest {
		return admin.MoveExportRequest{To: "unix://" + to.place.socket(), MaxPauseMS: 2000}
	}
	_, err := from.client.MoveExport(context.Background(), "vm1", order(to), func(admin.ExportMove) {})
	from.must(err)
	takes := time.Since(began)
	from.must(from.client.DeleteExport(context.Background(), "vm1", admin.DeleteRequest{}))
	from, to = to, from
	from.verify("vm1", 1)
	content, moved := uint64(1), 0
	for n := range kills {
		to.create("vm1")
		ended := make(chan error, 1)
		client, order := from.client, order(to)
		go func() {
			_, err := client.MoveExport(context.Background(), "vm1", order, func(admin.ExportMove) {})
			ended <- err
		}()
		time.Sleep(time.Duration(random.Int64N(int64(takes) * 5 / 4)))
		killed := [...]*daemonOf{from, to}[n%2]
		killed.killAndStart()
		told := <-ended
		e, there := from.find("vm1")
		if !there {
			t.Fatalf("the old side knows nothing of the export; the move ended with %v", told)
		}
		if e.MovedTo == "" {
			if told == nil {
				t.Fatal("a move was told to be done, and is not")
			}
			from.verify("vm1", content)
			to.idle()
			to.delete("vm1")
		} else {
			moved++
			if _, err := nbdtest.Dial("unix", from.place.socket(), "vm1"); err == nil {
				t.Fatal("both sides serve the export")
			}
			from.must(from.client.DeleteExport(context.Background(), "vm1", admin.DeleteRequest{}))
			from, to = to, from
			from.verify("vm1", content)
		}
		content++
		from.fill("vm1", content)
	}
	t.Logf("%d kills, %d moves were done by then", kills, moved)
	from.must(from.p.stop())
	to.must(to.p.stop())
}
