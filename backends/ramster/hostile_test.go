package ramster

import (
	"bytes"
	"encoding/binary"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// lie is what a hostile donor answers to an operation, on the wire.
type lie struct {
	name      string
	operation wire.Operation
	change    func(w *world, asked wire.Request, f *frame) []frame // and what it sends behind
	found     func(DonorStatus) bool                               // that it was found out
}

func wasRejected(d DonorStatus) bool { return d.Rejected > 0 }
func wasMissing(d DonorStatus) bool  { return d.Missing > 0 }
func brokeRules(d DonorStatus) bool  { return d.Session.ProtocolErrors > 0 }
func whatever(DonorStatus) bool      { return true }

// another is the first page that was put, other than one.
func (n *witness) another(page uint64) frame {
	n.mu.Lock()
	defer n.mu.Unlock()
	for other, f := range n.first {
		if other != page {
			return f
		}
	}
	return frame{}
}

func (n *witness) firstOf(page uint64) frame {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.first[page]
}

// content is lies that are proper replies, with something else in them: the session goes on.
var content = []lie{
	{"an old version", wire.Get, func(w *world, _ wire.Request, f *frame) []frame {
		f.payload = w.witness.firstOf(f.reply.Page).payload
		return nil
	}, wasRejected},
	{"an old version by its own generation", wire.Get, func(w *world, _ wire.Request, f *frame) []frame {
		old := w.witness.firstOf(f.reply.Page)
		f.payload, f.reply.Generation = old.payload, old.request.Generation
		return nil
	}, wasMissing},
	{"another page", wire.Get, func(w *world, _ wire.Request, f *frame) []frame {
		f.payload = w.witness.another(f.reply.Page).payload
		return nil
	}, wasRejected},
	{"another page's generation too", wire.Get, func(w *world, _ wire.Request, f *frame) []frame {
		other := w.witness.another(f.reply.Page)
		f.payload, f.reply.Generation = other.payload, other.request.Generation
		return nil
	}, wasMissing},
	{"one bit", wire.Get, func(w *world, _ wire.Request, f *frame) []frame {
		bit := int(f.reply.Generation) % (8 * len(f.payload))
		f.payload[bit/8] ^= 1 << (bit % 8)
		return nil
	}, wasRejected},
	{"shorter", wire.Get, func(w *world, _ wire.Request, f *frame) []frame {
		f.payload = f.payload[:1+int(f.reply.Generation)%(len(f.payload)-1)]
		return nil
	}, wasRejected},
	{"longer", wire.Get, func(w *world, _ wire.Request, f *frame) []frame {
		f.payload = append(f.payload, make([]byte, wire.MaxBlob-len(f.payload))...)
		return nil
	}, wasRejected},
	{"nothing", wire.Get, func(w *world, _ wire.Request, f *frame) []frame {
		f.payload, f.reply.Status, f.reply.Generation = nil, wire.None, 0
		return nil
	}, wasMissing},
	{"no pool", wire.Get, func(w *world, _ wire.Request, f *frame) []frame {
		f.payload, f.reply.Status, f.reply.Generation = nil, wire.Gone, 0
		return nil
	}, wasMissing},
	{"puts are old", wire.Put, func(w *world, _ wire.Request, f *frame) []frame { f.reply.Status = wire.Stale; return nil }, whatever},
	{"puts have no pool", wire.Put, func(w *world, _ wire.Request, f *frame) []frame { f.reply.Status = wire.Gone; return nil }, whatever},
	{"no pages in the list", wire.List, func(w *world, _ wire.Request, f *frame) []frame {
		f.payload, f.reply.Page = nil, wire.MaxPages
		return nil
	}, whatever},
	{"all generations in the list", wire.List, func(w *world, _ wire.Request, f *frame) []frame {
		for at := 8; at < len(f.payload); at += wire.ListedSize {
			binary.LittleEndian.PutUint64(f.payload[at:], 1<<60)
		}
		return nil
	}, whatever},
	{"endless room", wire.Stats, func(w *world, _ wire.Request, f *frame) []frame {
		wire.Room{Quota: 1<<64 - 1, Free: 1<<64 - 1, Pages: 1<<64 - 1, Weight: 1}.Encode(f.payload)
		return nil
	}, whatever},
	{"another epoch", wire.Hello, func(w *world, _ wire.Request, f *frame) []frame { f.payload[31] ^= 1; return nil }, whatever},
	{"another donor's name", wire.Hello, func(w *world, _ wire.Request, f *frame) []frame {
		p := wire.DecodeWelcome(f.payload)
		p.Identity[0] = 'b'
		p.EncodeWelcome(f.payload)
		return nil
	}, func(d DonorStatus) bool { return d.State == "refused" && strings.Contains(d.Reason, "called b") }},
}

// rules is lies that PROTOCOL.md ends the connection for.
var rules = []lie{
	{"another number", wire.Get, func(w *world, _ wire.Request, f *frame) []frame { f.reply.Number++; return nil }, brokeRules},
	{"an earlier number", wire.Put, func(w *world, _ wire.Request, f *frame) []frame { f.reply.Number--; return nil }, brokeRules},
	{"another operation", wire.Put, func(w *world, _ wire.Request, f *frame) []frame { f.reply.Operation = wire.Flush; return nil }, brokeRules},
	{"a status that is not its own", wire.Put, func(w *world, _ wire.Request, f *frame) []frame { f.reply.Status = wire.None; return nil }, brokeRules},
	{"an unknown status", wire.Get, func(w *world, _ wire.Request, f *frame) []frame { f.reply.Status = 99; return nil }, brokeRules},
	{"a page that was not asked for", wire.Get, func(w *world, _ wire.Request, f *frame) []frame { f.reply.Page++; return nil }, brokeRules},
	{"more to come", wire.Get, func(w *world, _ wire.Request, f *frame) []frame { f.reply.Flags ^= wire.More; return nil }, brokeRules},
	{"no generation", wire.Get, func(w *world, _ wire.Request, f *frame) []frame { f.reply.Generation = 0; return nil }, brokeRules},
	{"twice", wire.Get, func(w *world, _ wire.Request, f *frame) []frame { return []frame{*f} }, brokeRules},
	{"an answer to nothing", wire.Put, func(w *world, asked wire.Request, f *frame) []frame {
		more := *f
		more.reply.Number += 1 << 40
		return []frame{more}
	}, brokeRules},
	{"too much", wire.Get, func(w *world, _ wire.Request, f *frame) []frame {
		f.payload = make([]byte, wire.MaxPayload+1)
		return nil
	}, brokeRules},
	{"a list in disorder", wire.List, func(w *world, _ wire.Request, f *frame) []frame {
		if len(f.payload) >= 2*wire.ListedSize {
			copy(f.payload[wire.ListedSize:], bytes.Clone(f.payload[:wire.ListedSize]))
		}
		return nil
	}, brokeRules},
	{"a list that goes on where it was", wire.List, func(w *world, asked wire.Request, f *frame) []frame {
		f.reply.Page = asked.Page
		return nil
	}, brokeRules},
}

// apply makes what [weather.alter] is: the lie instead of what is right. One that ends
// the connection is told once, as each end makes the owner wait longer before it tries again. What
// is right all the same, as a list of no two pages is in order, was no lie.
func (l lie) apply(w *world, once bool, told *atomic.Bool) func(wire.Request, *frame) ([]frame, bool) {
	var mu sync.Mutex // there may be several connections
	return func(asked wire.Request, f *frame) (more []frame, keep bool) {
		mu.Lock()
		defer mu.Unlock()
		if f.reply.Operation != l.operation || f.reply.Status != wire.OK || once && told.Load() {
			return nil, true
		}
		right := frame{reply: f.reply, payload: bytes.Clone(f.payload)}
		more = l.change(w, asked, f)
		f.reply.Length = uint32(len(f.payload))
		for i := range more {
			more[i].reply.Length = uint32(len(more[i].payload))
		}
		if f.reply != right.reply || !bytes.Equal(f.payload, right.payload) || len(more) > 0 {
			told.Store(true)
		}
		return more, true
	}
}

const liePages = 150

// TestOneLies has one donor of three lie, in every way: it is found out, no load
// fails, and no byte is wrong.
func TestOneLies(t *testing.T) {
	for i, kind := range [][]lie{content, rules} {
		for _, l := range kind {
			t.Run(l.operation.String()+" "+l.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, wireConfig(), liePages, "a", "b", "c")
				w.write(1)
				w.settle(2)
				w.write(2)
				w.settle(2)
				a := w.donors["a"]
				var told atomic.Bool
				a.set(&weather{alter: l.apply(w, i == 1, &told)})
				status := func() DonorStatus { return w.cache.Donors()[0] }
				was := status().Session.Sessions
				if l.operation != wire.Get && l.operation != wire.Put {
					a.cut() // what is said at the beginning of a session
				}
				w.await("the lie to be told", func() (bool, string) {
					if m := (*w.cache.members.list.Load())[0]; l.operation == wire.List && !told.Load() && m.isUp() && !m.debt.Load() {
						a.cut() // its pages had gone to others when the list was made
					}
					dst := make([]byte, backends.PageSize)
					for page := range w.pages { // not in sequence: read-ahead is another way
						if err := w.host.Read(key(page*7%w.pages), dst); err != nil {
							t.Fatal(err)
						}
					}
					if err := w.host.Check(1); err != nil {
						t.Fatal(err)
					}
					w.write(3)
					if told.Load() && l.found(status()) {
						return true, ""
					}
					told.Store(false) // or nobody heard it, as the connection ended on its way
					return false, "not found out"
				})
				a.set(&weather{})
				if l.found(DonorStatus{}) || brokeRules(status()) {
					a.cut() // it is what it says again
				}
				if brokeRules(status()) {
					w.await("a session after the one that ended", func() (bool, string) { return status().Session.Sessions > was, "" })
				}
				if status().State == "refused" { // it would be tried again much later
					if err := w.cache.RemoveDonor("a", true); err != nil {
						t.Fatal(err)
					}
					w.await("the donor to leave", func() (bool, string) { return len(w.cache.Donors()) == 2, "" })
					if err := w.cache.AddDonor(Donor{"a", "a"}); err != nil {
						t.Fatal(err)
					}
				}
				w.settle(2)
				if err := w.host.Check(1); err != nil {
					t.Error(err)
				}
				w.end()
			})
		}
	}
}

// TestAllLie has every donor lie in some way for each page (TestHostile has old ones): loads fail, and no byte
// is wrong. When they tell the truth again, so do loads.
func TestAllLie(t *testing.T) {
	t.Parallel()
	config := wireConfig()
	config.Patience = 50 * time.Millisecond
	w := newWorld(t, config, liePages, "a", "b")
	w.write(1)
	w.settle(2)
	w.write(2)
	w.settle(2)
	for _, h := range w.donors {
		h.set(&weather{alter: func(asked wire.Request, f *frame) ([]frame, bool) {
			return content[2+f.reply.Page%7].apply(w, false, new(atomic.Bool))(asked, f)
		}})
	}
	failed, dst := int64(0), make([]byte, backends.PageSize)
	for page := range w.pages {
		if err := w.host.Read(key(page), dst); err == nil {
			continue
		} else if strings.Contains(err.Error(), "B8:") {
			t.Fatal(err)
		}
		failed++
	}
	if remote := w.cache.Remote().Pages; failed != remote {
		t.Errorf("%d loads failed of %d pages that donors have", failed, remote)
	}
	if corrupt := w.cache.Stats().CorruptLoads; corrupt == 0 {
		t.Error("no load was counted as corrupt")
	}
	for _, h := range w.donors {
		h.set(&weather{})
	}
	w.settle(2)
	w.check()
	w.end()
}

// write writes every page.
func (w *world) write(version uint64) {
	w.Helper()
	data := make([]byte, backends.PageSize)
	for page := range w.pages {
		backendtest.FillMixed(data, version<<32|page)
		if _, err := w.host.Write(key(page), data); err != nil {
			w.Fatal(err)
		}
	}
}
