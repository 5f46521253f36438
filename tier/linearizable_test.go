package tier

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/frontswap"
)

// A register is half a page, so that writes of parts of pages count as well: a
// write of a page is a write of both its halves.
const half = pageSize / 2

// fillHalf writes the content that id stands for: the id, then data that
// follows from it. Id 0 is zeros.
func fillHalf(p []byte, id uint32) {
	if id == 0 {
		clear(p)
		return
	}
	var page [pageSize]byte
	backendtest.FillMixed(page[:], uint64(id))
	copy(p, page[:half])
	binary.LittleEndian.PutUint32(p, id)
}

// idOf is the inverse; ok is false if p is no id's content.
func idOf(p []byte) (id uint32, ok bool) {
	id = binary.LittleEndian.Uint32(p)
	var want [half]byte
	fillHalf(want[:], id)
	return id, bytes.Equal(p, want[:])
}

// access is what one request did to one register.
type access struct {
	register int
	write    bool
	id       uint32 // written, or read
	failed   bool   // the request failed: a write may or may not have happened
}

// halfPage is porcupine's model: what a register may hold after an access.
var halfPage = porcupine.NondeterministicModel{
	Init: func() []any { return []any{uint32(0)} },
	Step: func(state, input, _ any) []any {
		switch in := input.(access); {
		case in.write && in.failed:
			return []any{state, in.id}
		case in.write:
			return []any{in.id}
		case in.failed || in.id == state.(uint32):
			return []any{state}
		}
		return nil
	},
}

func (a access) String() string {
	verb := "read"
	if a.write {
		verb = "write"
	}
	if a.failed {
		verb += " failed"
	}
	return fmt.Sprintf("%s %d", verb, a.id)
}

// history is one run of clients, operators and faults over a small device.
type history struct {
	t       *testing.T
	f       *frontswap.Frontswap
	d       *Device
	pages   int64
	storage faults
	backend faults
	lastID  atomic.Uint32
	start   time.Time

	mu   sync.Mutex
	ops  [][]porcupine.Operation // by register; guarded by mu
	used []*backendtest.Map      // guarded by mu
}

// TestLinearizable checks that each register of a device behaves like one,
// whatever operators do to its backends and however they and storage fail. One
// round by default; SOAK_MINUTES for more. The seed of a round that fails is
// printed; it decides what is done, not how it is scheduled.
func TestLinearizable(t *testing.T) { soak(t, 4, linearizableRound) }

// soak does rounds, or as many as SOAK_MINUTES have time for.
func soak(t *testing.T, rounds int, round func(t *testing.T, seed uint64) bool) {
	until := time.Time{}
	if minutes, err := strconv.ParseFloat(os.Getenv("SOAK_MINUTES"), 64); err == nil {
		rounds, until = 1<<30, time.Now().Add(time.Duration(minutes*float64(time.Minute)))
	}
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = s
	}
	for n := 0; n < rounds && (until.IsZero() || time.Now().Before(until)); n++ {
		if !round(t, seed+uint64(n)) {
			t.Fatalf("not linearizable: SEED=%d", seed+uint64(n))
		}
	}
}

func linearizableRound(t *testing.T, seed uint64) bool {
	const pages, clients, requests = frontswap.BlockPages + 8, 5, 250
	h := &history{t: t, f: newFrontswap(), pages: pages, start: time.Now(), ops: make([][]porcupine.Operation, 2*pages)}
	s := newResizableStorage(pages, 3*pages)
	s.device = seed%2 == 0
	s.fault = func(op string, _, _ uint64) error {
		if op != "sync" && h.storage.next() {
			return unix.EIO
		}
		return nil
	}
	d, err := Open(Config{Name: "history", ID: 1, Storage: s, Frontswap: h.f, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	h.d = d
	var work, operators sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for w := range 2 {
		operators.Go(func() { h.operate(ctx, w, rand.New(rand.NewPCG(seed, uint64(100+w)))) })
	}
	for c := range clients {
		work.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(c)))
			for range requests {
				h.request(c, random)
			}
		})
	}
	work.Wait()
	stop()
	operators.Wait()
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	for _, b := range h.used {
		if err := b.Misuse(); err != nil {
			t.Errorf("backend misused: %v", err)
		}
	}
	return h.linearizable()
}

// linearizable says whether every register was one.
func (h *history) linearizable() bool {
	model := halfPage.ToModel()
	for _, ops := range h.ops {
		if !porcupine.CheckOperations(model, ops) {
			for _, op := range ops {
				h.t.Logf("%9d–%9d client %d: %s", op.Call, op.Return, op.ClientId, op.Input)
			}
			return false
		}
	}
	return true
}

// request does one request and records what it did to each register. The pages
// lie at the end of one block and the start of the next, few and contended.
func (h *history) request(client int, random *rand.Rand) {
	first := int64(frontswap.BlockPages) - 8 + random.Int64N(12)
	n := 1 + random.Int64N(min(4, h.pages-first))
	off, length := first*pageSize, n*pageSize
	kind := random.IntN(8)
	if kind == 7 { // a part: the second half of one page
		off, length = first*pageSize+half, half
	}
	data := make([]byte, length)
	ids := make([]uint32, length/half)
	call := time.Since(h.start).Nanoseconds()
	var err error
	switch {
	case kind < 3: // read
		if !h.d.TryReadAt(data, off) {
			_, err = h.d.ReadAt(data, off)
		}
	case kind == 3:
		err = h.d.WriteZeroes(off, length, true)
	case kind == 4:
		err = h.d.Trim(off, length)
	default:
		for i := range ids {
			ids[i] = h.lastID.Add(1)
			fillHalf(data[i*half:][:half], ids[i])
		}
		n := h.d.TryWriteAt(data, off)
		_, err = h.d.WriteAt(data[n:], off+int64(n))
	}
	end := time.Since(h.start).Nanoseconds()
	if err != nil && !errors.Is(err, unix.EIO) && !errors.Is(err, errInjected) && !errors.Is(err, backends.ErrCorrupt) && !errors.Is(err, backends.ErrTransient) {
		h.t.Errorf("a request failed with an error that nobody injected: %v", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range ids {
		in := access{register: int(off/half) + i, write: kind >= 3, id: ids[i], failed: err != nil}
		if kind < 3 && err == nil {
			var ok bool
			if in.id, ok = idOf(data[i*half:][:half]); !ok {
				h.t.Errorf("register %d holds bytes that nobody wrote", in.register)
			}
		}
		h.ops[in.register] = append(h.ops[in.register], porcupine.Operation{ClientId: client, Input: in, Call: call, Return: end})
	}
}

// operate does random things to backends until ctx is done.
func (h *history) operate(ctx context.Context, w int, random *rand.Rand) {
	for i := 0; ctx.Err() == nil; i++ {
		fresh := fmt.Sprint("b", w, "-", i)
		name := fresh
		if loaded := h.f.Backends(); len(loaded) > 0 {
			name = loaded[random.IntN(len(loaded))].Name
		}
		switch random.IntN(12) {
		case 0, 1:
			if len(h.f.Backends()) < 5 {
				_ = h.f.Register(fresh, h.newBackend(random))
			}
		case 2, 3:
			_, _ = h.f.Unregister(context.Background(), name)
		case 4:
			_, _ = h.f.Replace(context.Background(), name, fresh, h.newBackend(random))
		case 5:
			_ = h.f.Freeze(name, "test")
		case 6:
			_ = h.f.Thaw(name)
		case 7:
			_, _ = h.f.Shrink(context.Background(), name, 1+random.Uint64N(20))
		case 8:
			_, _ = h.f.Migrate(context.Background(), name, 1+random.Uint64N(20))
		case 9:
			h.d.SetWritethrough(Writethrough(random.IntN(3)))
		case 10:
			h.storage.every.Store([]int64{0, 0, 5, 20}[random.IntN(4)])
			h.backend.every.Store([]int64{0, 0, 10, 50}[random.IntN(4)])
		case 11: // no client asks for what comes and goes
			_ = h.d.Resize((h.pages+random.Int64N(2*h.pages))*pageSize, true)
		}
	}
}

func (h *history) newBackend(random *rand.Rand) backends.Backend {
	if random.IntN(2) == 0 {
		z, err := zcache.New(zcache.Config{Limit: 1 << 20})
		if err != nil {
			h.t.Error(err)
		}
		return z
	}
	b := &backendtest.Map{Remote: random.IntN(2) == 0, Limit: random.IntN(8)}
	b.OnStore = func(backends.Key, []byte) (backends.Refusal, error) {
		if h.backend.next() {
			return 0, errInjected
		}
		return backends.Accepted, nil
	}
	b.OnLoad = func(backends.Key, backends.Handle, []byte) error {
		if h.backend.next() {
			return backends.ErrCorrupt
		}
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.used = append(h.used, b)
	return b
}
