package tier

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/frontswap"
)

// These tests meet each kind of move of a page with each kind of request for it,
// at the worst moment: the page's copy is made, and not committed yet; or the
// other way round, the request has the page's lock, and the move has seen the
// page and waits for it.

// gate stops whoever comes first, once it is closed, until it is opened.
type gate struct {
	closed  chan struct{} // by whoever comes first
	arrived chan struct{}
	goOn    chan struct{}
	once    sync.Once
}

func newGate() *gate {
	return &gate{closed: make(chan struct{}), arrived: make(chan struct{}), goOn: make(chan struct{})}
}

func (g *gate) close() { close(g.closed) }
func (g *gate) open()  { close(g.goOn) }

func (g *gate) pass() {
	select {
	case <-g.closed:
		g.once.Do(func() { close(g.arrived); <-g.goOn })
	default:
	}
}

// movable is a backend that can give its pages new handles.
type movable struct {
	backendtest.Map
	host    backends.Host
	mu      sync.Mutex
	handles map[uint64]backends.Handle // the newest of each page; guarded by mu
}

func (m *movable) Init(e backends.Export) error {
	m.host, m.handles = e.Host, map[uint64]backends.Handle{}
	return m.Map.Init(e)
}

func (m *movable) Store(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
	handle, refusal, err := m.Map.Store(key, data)
	if err == nil && refusal == backends.Accepted {
		m.mu.Lock()
		m.handles[key.Page] = handle
		m.mu.Unlock()
	}
	return handle, refusal, err
}

// recompress copies a page within the backend, as zcache does.
func (m *movable) recompress(page uint64, copied func()) bool {
	key := backends.Key{Export: 1, Page: page}
	m.mu.Lock()
	old := m.handles[page]
	m.mu.Unlock()
	return m.host.Rehandle(key, old, func() (backends.Handle, bool) {
		data := make([]byte, pageSize)
		if m.Load(key, old, data) != nil {
			return 0, false
		}
		copied()
		handle, refusal, err := m.Store(key, data)
		if err != nil || refusal != backends.Accepted {
			return 0, false
		}
		m.Invalidate(key, old)
		return handle, true
	})
}

// meeting is a device with pages in a backend, of which one is to be moved.
type meeting struct {
	t       *testing.T
	f       *frontswap.Frontswap
	d       *Device
	storage *memoryStorage
	from    *movable
	next    *backendtest.Map // where some moves go to
	want    []byte

	onStorage, inFrom, inNext *gate // stop a write to storage, a store in one of the backends
	refuse                    bool  // backends refuse what they are offered by requests
}

const (
	meetingPages = 10
	meetingPage  = 5 // its neighbours are moved with it
)

func newMeeting(t *testing.T) *meeting {
	m := &meeting{t: t, f: newFrontswap(), onStorage: newGate(), inFrom: newGate(), inNext: newGate()}
	m.storage = newMemoryStorage(meetingPages)
	m.storage.fault = func(op string, _, _ uint64) error {
		if op == "write" {
			m.onStorage.pass()
		}
		return nil
	}
	var err error
	m.d, err = Open(Config{Name: "meeting", ID: 1, Storage: m.storage, Frontswap: m.f, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	m.from = &movable{}
	m.from.OnStore = func(_ backends.Key, data []byte) (backends.Refusal, error) {
		m.inFrom.pass()
		return m.refusal(data)
	}
	register(t, m.f, "from", m.from)
	m.next = &backendtest.Map{OnStore: func(_ backends.Key, data []byte) (backends.Refusal, error) {
		m.inNext.pass()
		return m.refusal(data)
	}}
	m.want = make([]byte, meetingPages*pageSize)
	old := pages(3, 1)
	mustWrite(t, m.d, old, (meetingPage-1)*pageSize)
	copy(m.want[(meetingPage-1)*pageSize:], old)
	return m
}

// refusal lets what is moved pass: it is what was there at first.
func (m *meeting) refusal(data []byte) (backends.Refusal, error) {
	if m.refuse && !bytes.Contains(m.want[(meetingPage-1)*pageSize:(meetingPage+2)*pageSize], data) {
		return backends.RefusedPoor, nil
	}
	return backends.Accepted, nil
}

// moveKind is one way in which a page is moved.
type moveKind struct {
	chain bool                   // there is a backend after the one that the page is in
	stop  func(m *meeting) *gate // where it stops between copy and commit
	locks bool                   // reads wait for it as well
	run   func(m *meeting) error
}

var moveKinds = map[string]moveKind{
	"drain": {stop: storageGate, run: func(m *meeting) error {
		_, err := m.f.Unregister(context.Background(), "from")
		return err
	}},
	"drain into a backend": {chain: true, stop: nextGate, run: func(m *meeting) error {
		_, err := m.f.Unregister(context.Background(), "from")
		return err
	}},
	"shrink": {chain: true, stop: storageGate, run: func(m *meeting) error {
		_, err := m.f.Shrink(context.Background(), "from", meetingPages)
		return err
	}},
	"writeback": {stop: storageGate, run: func(m *meeting) error {
		_, err := m.from.host.Evict(context.Background(), meetingPages)
		return err
	}},
	"migrate": {chain: true, stop: nextGate, run: func(m *meeting) error {
		_, err := m.f.Migrate(context.Background(), "from", meetingPages)
		return err
	}},
	"replace": {stop: nextGate, run: func(m *meeting) error {
		_, err := m.f.Replace(context.Background(), "from", "next", m.next)
		return err
	}},
	"recompress": {locks: true, stop: nextGate, run: func(m *meeting) error {
		m.from.recompress(meetingPage, m.inNext.pass)
		return nil
	}},
	"writethrough": {stop: storageGate, run: func(m *meeting) error {
		m.d.SetWritethrough(WritethroughAsync)
		return nil
	}},
}

func storageGate(m *meeting) *gate { return m.onStorage }
func nextGate(m *meeting) *gate    { return m.inNext }

// requestKind is one way in which a request changes a page.
type requestKind func(d *Device, want []byte) error

const meetingOffset = meetingPage * pageSize

var requestKinds = map[string]requestKind{
	"write": func(d *Device, want []byte) error {
		_, err := d.WriteAt(pages(1, 99), meetingOffset)
		copy(want[meetingOffset:], pages(1, 99))
		return err
	},
	"part": func(d *Device, want []byte) error {
		_, err := d.WriteAt([]byte("a part of a page"), meetingOffset+1000)
		copy(want[meetingOffset+1000:], "a part of a page")
		return err
	},
	"zero part": func(d *Device, want []byte) error {
		clear(want[meetingOffset+1000:][:2000])
		return d.WriteZeroes(meetingOffset+1000, 2000, true)
	},
	"trim": func(d *Device, want []byte) error {
		clear(want[meetingOffset:][:pageSize])
		return d.Trim(meetingOffset, pageSize)
	},
	"zero": func(d *Device, want []byte) error {
		clear(want[meetingOffset:][:pageSize])
		return d.WriteZeroes(meetingOffset, pageSize, false)
	},
	"zero and punch": func(d *Device, want []byte) error {
		clear(want[meetingOffset:][:pageSize])
		return d.WriteZeroes(meetingOffset, pageSize, true)
	},
}

// eachMeeting runs a test for each move, request, and whether backends take
// what the request writes.
func eachMeeting(t *testing.T, test func(t *testing.T, kind moveKind, request requestKind, refuse bool)) {
	for moveName, kind := range moveKinds {
		for requestName, request := range requestKinds {
			for takes, refuse := range map[string]bool{"taken": false, "refused": true} {
				t.Run(moveName+", "+requestName+", "+takes, func(t *testing.T) { test(t, kind, request, refuse) })
			}
		}
	}
}

// TestRequestBetweenCopyAndCommit: a request that comes while a page is copied
// and not committed waits, and what it did is what stays. A move must not
// undo it, neither in a backend nor on storage.
func TestRequestBetweenCopyAndCommit(t *testing.T) {
	eachMeeting(t, func(t *testing.T, kind moveKind, request requestKind, refuse bool) {
		for round := range 4 { // a gap between two locks is not found each time
			m := newMeeting(t)
			if kind.chain {
				register(t, m.f, "next", m.next)
			}
			stop := kind.stop(m)
			stop.close()
			moved, requested := make(chan error, 1), make(chan error, 1)
			go func() { moved <- kind.run(m) }()
			<-stop.arrived
			if !kind.locks {
				if got := mustRead(t, m.d, len(m.want), 0); !bytes.Equal(got, m.want) {
					t.Fatal("wrong content during the move")
				}
			}
			if n := m.d.TryWriteAt(pages(1, 77), meetingOffset); n != 0 {
				t.Fatal("a write that does not wait got in between copy and commit")
			}
			m.refuse = refuse
			want := bytes.Clone(m.want)
			go func() { requested <- request(m.d, want) }()
			if round == 0 {
				select {
				case err := <-requested:
					t.Errorf("the request did not wait for the commit: %v", err)
					requested <- err
				case <-time.After(3 * time.Millisecond): // long enough to go wrong in most runs
				}
			}
			stop.open()
			if err := errors.Join(<-moved, <-requested); err != nil {
				t.Fatal(err)
			}
			m.end(want)
		}
	})
}

// TestMoveDuringRequest: a request that has the page's lock, when a move has
// seen that the page is the backend's, and waits. The move must look again.
func TestMoveDuringRequest(t *testing.T) {
	eachMeeting(t, func(t *testing.T, kind moveKind, request requestKind, refuse bool) {
		m := newMeeting(t)
		if kind.chain {
			register(t, m.f, "next", m.next)
		}
		want := bytes.Clone(m.want)
		moved, requested := make(chan error, 1), make(chan error, 1)
		// The neighbour is held up by the test: a move takes locks in ascending
		// order, so it is not past the page yet.
		m.d.area.Lock(meetingPage - 1)
		stop := m.inFrom
		if m.refuse = refuse; refuse {
			stop = m.onStorage
		}
		stop.close()
		go func() { requested <- request(m.d, want) }()
		select {
		case <-stop.arrived: // the request is at work, under the page's lock
		case err := <-requested: // a trim: there is nothing that it waits for
			requested <- err
		}
		go func() { moved <- kind.run(m) }()
		time.Sleep(time.Millisecond) // for the move to look, and to wait
		m.d.area.Unlock(meetingPage - 1)
		time.Sleep(time.Millisecond)
		stop.open()
		if err := errors.Join(<-moved, <-requested); err != nil {
			t.Fatal(err)
		}
		m.end(want)
	})
}

// TestGapBetweenCopyAndCommit has a request that tries for the page's lock
// without a pause, to slip into any gap between the locks of a move.
func TestGapBetweenCopyAndCommit(t *testing.T) {
	for name, kind := range moveKinds {
		for _, drop := range []bool{true, false} {
			for round := range 24 {
				m := newMeeting(t)
				if kind.chain {
					register(t, m.f, "next", m.next)
				}
				stop := kind.stop(m)
				stop.close()
				want := bytes.Clone(m.want)
				moved, requested, trying := make(chan error, 1), make(chan error, 1), make(chan struct{})
				go func() { moved <- kind.run(m) }()
				<-stop.arrived
				go func() {
					if m.d.area.TryLock(meetingPage) {
						t.Errorf("%s: a lock was to be had between copy and commit", name)
						m.d.area.Unlock(meetingPage)
					}
					close(trying)
					for !m.d.area.TryLock(meetingPage) {
					}
					defer m.d.area.Unlock(meetingPage)
					if drop {
						m.d.area.InvalidatePage(meetingPage)
						clear(want[meetingOffset:][:pageSize])
						requested <- nil
						return
					}
					copy(want[meetingOffset:], pages(1, 60))
					requested <- m.d.storePages(meetingPage, meetingPage+1, pages(1, 60))
				}()
				<-trying
				// In every other round a reader makes the move wait where it wants to
				// commit: long enough for the request to be there, if the move has let go of
				// anything.
				read := !kind.locks && round%2 == 0
				if read {
					m.d.area.RLock(meetingPage)
				}
				stop.open()
				if read {
					time.Sleep(200 * time.Microsecond)
					m.d.area.RUnlock(meetingPage)
				}
				if err := errors.Join(<-moved, <-requested); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				m.end(want)
			}
		}
	}
}

// TestMoveMeetsDrop is the same for pages that are dropped or written to storage
// under a lock that the move waits for, whatever request does it.
func TestMoveMeetsDrop(t *testing.T) {
	for name, kind := range moveKinds {
		for _, drop := range []bool{true, false} {
			m := newMeeting(t)
			if kind.chain {
				register(t, m.f, "next", m.next)
			}
			moved := make(chan error, 1)
			m.d.area.Lock(meetingPage)
			go func() { moved <- kind.run(m) }()
			time.Sleep(2 * time.Millisecond) // for the move to look, and to wait
			want := bytes.Clone(m.want)
			if drop {
				m.d.area.InvalidatePage(meetingPage)
				clear(want[meetingOffset:][:pageSize])
			} else if err := m.d.writeStorage(meetingPage, pages(1, 50)); err != nil {
				t.Fatal(err)
			}
			if !drop {
				copy(want[meetingOffset:], pages(1, 50))
			}
			m.d.area.Unlock(meetingPage)
			if err := <-moved; err != nil {
				t.Errorf("%s: %v", name, err)
			}
			m.end(want)
		}
	}
}

// end checks that every page is what it should be, wherever it is, and at last
// on storage.
func (m *meeting) end(want []byte) {
	m.t.Helper()
	if m.d.Writethrough() != WritethroughOff {
		synced(m.t, m.d)
		m.d.SetWritethrough(WritethroughOff)
	}
	if got := mustRead(m.t, m.d, len(want), 0); !bytes.Equal(got, want) {
		m.t.Error("wrong content after the move and the request")
	}
	for _, b := range m.f.Backends() {
		if _, err := m.f.Unregister(m.t.Context(), b.Name); err != nil {
			m.t.Errorf("unload: %v", err)
		}
	}
	if err := m.d.Settle(); err != nil {
		m.t.Error(err)
	}
	if !bytes.Equal(m.storage.data, want) {
		m.t.Error("wrong content on storage in the end")
	}
	if err := errors.Join(m.d.Close(), m.from.Misuse(), m.next.Misuse()); err != nil {
		m.t.Error(err)
	}
}
