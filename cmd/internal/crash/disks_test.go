package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
)

const (
	diskWorkers = 2
	diskBytes   = diskWorkers * workerPages * pageSize
	baseUUID    = "0e3a5c84-93f1-4d2e-a1b7-5f60c9d8e721"
)

// diskStory is one daemon's life after the other, with disks: one with content of its own, an overlay over a base, and one
// that is read only and shares the base's cached pages.
type diskStory struct {
	t        *testing.T
	place    place
	random   *rand.Rand
	base     []byte               // content of the base
	workers  map[string][]*worker // of the disks that are written
	kills    uint64
	inStart  int
	requests uint64
	orders   int
	hits     uint64 // pages that were verified from the cache
}

// TestDiskKills: what a disk was told is there after kills at any instant; a base is never changed; the cache starts empty.
func TestDiskKills(t *testing.T) {
	kills := number(t, "CRASH_KILLS", 8)
	seed := number(t, "CRASH_SEED", uint64(time.Now().UnixNano()))
	t.Logf("CRASH_SEED=%d", seed)
	s := &diskStory{t: t, place: newPlace(t), random: rand.New(rand.NewPCG(seed, 1)), workers: map[string][]*worker{}}
	for page := range uint64(diskBytes / pageSize) {
		s.base = append(s.base, nbdtest.Page(seed, page)...)
	}
	s.make("base.img", s.base)
	s.make("copy.img", s.base)
	s.make("data.img", make([]byte, diskBytes))
	for n := range diskWorkers {
		s.workers["data"] = append(s.workers["data"], newWorker(n, seed))
		s.workers["own"] = append(s.workers["own"], newWorker(n, seed+1))
	}
	s.renew()
	for s.kills < kills {
		if err := s.life(); err != nil {
			t.Fatalf("after %d kills of CRASH_SEED=%d: %v", s.kills, seed, err)
		}
		if s.kills%100 == 0 {
			t.Logf("%d kills so far", s.kills)
		}
	}
	p, err := s.start()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.stop(); err != nil {
		t.Fatalf("%v\n%s", err, &p.log)
	}
	for name, want := range map[string][]byte{"base.img": s.base, "copy.img": s.base, "data.img": s.content("data")} {
		if got, err := os.ReadFile(filepath.Join(s.place.dir, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has not what it should have: %v", name, err)
		}
	}
	if s.requests < kills || s.orders == 0 || s.hits == 0 {
		t.Errorf("%d requests, %d orders and %d pages from the cache are not much of a load", s.requests, s.orders, s.hits)
	}
	t.Logf("%d kills, %d of them while it started; %d requests and %d orders of operators were answered; %d pages were verified from the cache",
		s.kills, s.inStart, s.requests, s.orders, s.hits)
}

func (s *diskStory) make(name string, content []byte) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.place.dir, name), content, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// renew removes the overlay: with a new one, pages become its own once more.
func (s *diskStory) renew() {
	s.t.Helper()
	if err := os.Remove(filepath.Join(s.place.dir, "own.overlay")); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Fatal(err)
	}
	for _, w := range s.workers["own"] {
		copy(w.pages, s.base[w.first:])
		w.from, w.to = 0, 0
	}
}

// content is what a disk was told.
func (s *diskStory) content(disk string) (all []byte) {
	for _, w := range s.workers[disk] {
		all = append(all, w.pages...)
	}
	return all
}

func (s *diskStory) launch() (*process, error) {
	dir := s.place.dir
	config := fmt.Sprintf("[[backend]]\nkind = \"zcache\"\nsize = \"6MiB\"\n"+
		"[[base]]\nname = \"base\"\npath = %q\nuuid = %q\n"+
		"[[disk]]\nname = \"data\"\npath = %q\n[[disk]]\nname = \"own\"\npath = %q\nbase = \"base\"\n"+
		"[[disk]]\nname = \"copy\"\npath = %q\nread_only = true\nshared = %q\n",
		filepath.Join(dir, "base.img"), baseUUID, filepath.Join(dir, "data.img"), filepath.Join(dir, "own.overlay"),
		filepath.Join(dir, "copy.img"), baseUUID)
	s.make("tmemd.toml", []byte(config))
	return s.place.launch("--size", strconv.Itoa(exportSize), "--config", filepath.Join(dir, "tmemd.toml"))
}

// start starts a daemon, and verifies every page: from storage, as the cache is empty, and from the cache.
func (s *diskStory) start() (*process, error) {
	p, err := s.launch()
	if err != nil {
		return nil, err
	}
	err = p.awaitExport("data")
	if err == nil {
		err = s.expectEmpty()
	}
	for range 2 {
		if err == nil {
			err = s.all(func(w *worker, c *nbdtest.Client) error { return w.verify(c) }, s.readCopy)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w\n%s", err, &p.log), p.kill())
	}
	disks, err := s.disks()
	for _, d := range disks {
		s.hits += d.SuccGets
	}
	return p, err
}

func (s *diskStory) disks() ([]admin.Disk, error) {
	o := newOperator(s.place, 0)
	defer o.client.Close()
	return o.client.Disks(context.Background())
}

func (s *diskStory) expectEmpty() error {
	disks, err := s.disks()
	if err == nil && (len(disks) < 4 || len(disks) > 5) {
		err = fmt.Errorf("there are %d disks and bases, want 4, and perhaps one that the operator made", len(disks))
	}
	for _, d := range disks {
		for backend, n := range d.Backends {
			if n != 0 {
				err = errors.Join(err, fmt.Errorf("disk %s begins with %d pages in %s", d.Name, n, backend))
			}
		}
	}
	return err
}

// all lets every worker do something, and a reader read the disk that is a copy of the base, at once.
func (s *diskStory) all(do func(*worker, *nbdtest.Client) error, read func(*nbdtest.Client) error) error {
	errs := make(chan error, 1+len(s.workers))
	for disk, workers := range s.workers {
		go func() { errs <- each(s.place, disk, workers, do) }()
	}
	go func() {
		c, err := nbdtest.Dial("unix", s.place.socket(), "copy")
		if err != nil {
			errs <- notAttached{err}
			return
		}
		defer c.Close() // its error is that the daemon is gone
		errs <- read(c)
	}()
	var first error
	var gone notAttached
	for range cap(errs) {
		if err := <-errs; err != nil && (first == nil || errors.As(first, &gone)) {
			first = err
		}
	}
	return first
}

// readCopy reads what has the content of the base, once.
func (s *diskStory) readCopy(c *nbdtest.Client) error {
	got := make([]byte, 64*pageSize)
	for off := 0; off < diskBytes; off += len(got) {
		if _, err := c.ReadAt(got, int64(off)); err != nil {
			return err
		}
		if !bytes.Equal(got, s.base[off:off+len(got)]) {
			return mismatch{fmt.Errorf("the copy of the base has other content from byte %d on", off)}
		}
	}
	return nil
}

// life is one daemon, from a start to a kill.
func (s *diskStory) life() error {
	if s.random.IntN(2) == 0 {
		s.renew()
	}
	if s.random.IntN(4) == 0 {
		p, err := s.launch()
		if err != nil {
			return err
		}
		time.Sleep(time.Duration(s.random.IntN(60)) * time.Millisecond)
		if err := p.kill(); err != nil {
			return fmt.Errorf("%w\n%s", err, &p.log)
		}
		s.kills++
		s.inStart++
	}
	p, err := s.start()
	if err != nil {
		return err
	}
	if err := s.load(p); err != nil {
		return fmt.Errorf("%w\n%s", err, &p.log)
	}
	return nil
}

// load lets everybody work on a daemon until it is killed.
func (s *diskStory) load(p *process) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o, modes := newOperator(s.place, s.random.Uint64()), newOperator(s.place, s.random.Uint64())
	var operators sync.WaitGroup
	operators.Go(func() { o.run(ctx) })
	operators.Go(func() { modes.switchModes(ctx, filepath.Join(s.place.dir, "extra.img")) })
	worked := make(chan error, 1)
	before := s.count()
	go func() {
		worked <- s.all(func(w *worker, c *nbdtest.Client) error { return w.work(c) }, s.readOn)
	}()
	time.Sleep(time.Duration(s.random.IntN(400)) * time.Millisecond)
	ended := p.kill()
	s.kills++
	cancel()
	operators.Wait()
	err := <-worked
	s.requests += s.count() - before
	s.orders += o.done + modes.done
	var gone notAttached
	if ended == nil && errors.As(err, &gone) {
		return nil // it was killed before somebody was there
	}
	return errors.Join(ended, err)
}

func (s *diskStory) count() (n uint64) {
	for _, workers := range s.workers {
		for _, w := range workers {
			n += w.count
		}
	}
	return n
}

// readOn reads the copy of the base until the daemon is gone.
func (s *diskStory) readOn(c *nbdtest.Client) error {
	for {
		err := s.readCopy(c)
		var answered nbdtest.Error
		var wrong mismatch
		switch {
		case errors.As(err, &answered), errors.As(err, &wrong):
			return err
		case err != nil:
			return nil // the connection is gone, with the daemon
		}
	}
}

// switchModes gives disks other modes, and makes and deletes one of its own, until ctx ends.
func (o *operator) switchModes(ctx context.Context, extra string) {
	defer o.client.Close()
	for ctx.Err() == nil {
		disk, mode := []string{"data", "own", "copy"}[o.random.IntN(3)], []string{"inclusive", "exclusive"}[o.random.IntN(2)]
		_, err := o.client.SetDisk(ctx, disk, admin.DiskSettings{Mode: mode})
		switch o.random.IntN(4) {
		case 0:
			_, err = o.client.CreateDisk(ctx, admin.DiskRequest{Name: "extra", Path: extra, Size: "1MiB"})
		case 1:
			err = o.client.DeleteDisk(ctx, "extra", admin.DeleteRequest{RemoveStorage: true})
		case 2:
			_, err = o.client.ResizeDisk(ctx, "extra", admin.DiskResizeRequest{Size: fmt.Sprintf("%dMiB", 1+o.random.IntN(4)), Discard: true})
		}
		if err == nil {
			o.done++
		}
		time.Sleep(time.Duration(o.random.IntN(20)) * time.Millisecond)
	}
}
