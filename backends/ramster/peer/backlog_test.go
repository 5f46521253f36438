package peer

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// The backlog against a list of what is in it.
func TestBacklog(t *testing.T) {
	type entry struct {
		request   wire.Request
		blob      []byte
		done      *ending
		abandoned bool
	}
	for seed := range uint64(10) {
		random := rand.New(rand.NewPCG(seed, 1))
		b := newBacklog(make([]byte, minBacklog))
		var model []entry
		sent, used := 0, 0
		drop := func() {
			for i := len(model) - 1; i >= sent; i-- {
				if model[i].abandoned {
					used -= len(model[i].blob)
					model = slices.Delete(model, i, i+1)
				}
			}
		}
		for step := range 20000 {
			switch n := random.IntN(100); {
			case n < 40:
				e := entry{request: wire.Request{Operation: wire.Put, Page: uint64(step), Generation: 1, Length: uint32(1 + random.IntN(wire.MaxBlob))}, done: newEnding()}
				e.blob = blobOf(uint64(step), seed, int(e.request.Length))
				if b.add(e.request, e.blob, e.done) {
					model, used = append(model, e), used+len(e.blob)
				} else if used < minBacklog/2-wire.MaxBlob && len(model) < minBacklog/backlogGrain {
					t.Fatalf("step %d: no room beside %d bytes of %d", step, used, len(b.bytes))
				}
			case n < 50:
				r := wire.Request{Operation: []wire.Operation{wire.Flush, wire.Destroy}[random.IntN(2)], Page: uint64(step)}
				if b.add(r, nil, nil) {
					model = append(model, entry{request: r})
				} else if len(model) < minBacklog/backlogGrain {
					t.Fatalf("step %d: no room", step)
				}
			case n < 75:
				if b.unsent() != (sent < len(model)) {
					t.Fatalf("step %d: unsent says %v", step, b.unsent())
				}
				if b.unsent() {
					m, e := b.next(), model[sent]
					if m.request != e.request || !bytes.Equal(b.blob(m), e.blob) {
						t.Fatalf("step %d: to be sent is %v, want %v", step, m.request, e.request)
					}
					b.sent++
					sent++
				}
			case n < 97:
				if sent > 0 {
					e, m := model[0], b.answered()
					if m.request != e.request || (m.done != nil) != (e.done != nil && !e.abandoned) || m.done != nil && m.done != Completion(e.done) {
						t.Fatalf("step %d: answered is %v, want %v", step, m, e)
					}
					model, used = model[1:], used-len(e.blob)
					sent--
				}
			case n < 99:
				b.rewind()
				sent = 0
				drop()
			default:
				var want []Completion
				for i := range model {
					if e := &model[i]; e.request.Operation == wire.Put && !e.abandoned {
						e.abandoned = true
						want = append(want, e.done)
					}
				}
				drop()
				if got := b.abandon(); !slices.Equal(got, want) {
					t.Fatalf("step %d: abandoned are %v, want %v", step, got, want)
				}
			}
			if int(b.tail-b.head) != len(model) {
				t.Fatalf("step %d: it has %d, want %d", step, b.tail-b.head, len(model))
			}
		}
	}
}

// Fetches that were never sent are passed over, whether one before them is under way or not.
func TestFetchesPassedOver(t *testing.T) {
	f := newFetches()
	add := func(first uint64, sink Sink) { f.add(fetch{first: first, sink: sink}) }
	next := func(want uint64) {
		t.Helper()
		if g := f.next(); g == nil || g.first != want {
			t.Fatalf("to be sent is %+v, want %d", g, want)
		}
	}
	oldest := func(want uint64) {
		t.Helper()
		if g := f.at(f.head); g.first != want {
			t.Fatalf("the oldest is %+v, want %d", g, want)
		}
	}
	b := newBasin()
	add(1, b)
	next(1)
	add(2, nil)
	add(3, nil)
	add(4, b)
	next(4)
	oldest(1)
	f.answered()
	oldest(4)
	f.answered()
	add(5, nil)
	add(6, b)
	next(6)
	oldest(6)
	add(7, nil)
	if g := f.next(); g != nil {
		t.Fatalf("to be sent is %+v", g)
	}
	if f.answered(); f.head != f.tail || f.sent != f.tail {
		t.Errorf("%d, %d, %d: something is left", f.head, f.sent, f.tail)
	}
}
