package pageindex

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

func newSpace(t testing.TB, limit int64) *Space {
	t.Helper()
	s, err := NewSpace("test index", limit, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// pageNumbers draws pages that share leaves, lie far apart, or are at an end.
var pageNumbers = rapid.OneOf(
	rapid.Uint64Range(0, 2000),
	rapid.Uint64Range(1<<18-600, 1<<18+600),
	rapid.Custom(func(t *rapid.T) uint64 { return rapid.Uint64Range(0, 40).Draw(t, "n") << 27 }),
	rapid.Uint64Range(MaxPages-700, MaxPages-1),
)

func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := int64(40)
		s, err := NewSpace("test index", limit*NodeSize, 64*NodeSize)
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close()
		var account atomic.Int64
		tables := []*Table{s.NewTable(&account), s.NewTable(&account), s.NewTable(nil)}
		models := []map[uint64]uint64{{}, {}, {}}
		which := func(rt *rapid.T) (*Table, map[uint64]uint64) {
			i := rapid.IntRange(0, len(tables)-1).Draw(rt, "table")
			return tables[i], models[i]
		}
		rt.Repeat(map[string]func(*rapid.T){
			"set": func(rt *rapid.T) {
				table, model := which(rt)
				page, word := pageNumbers.Draw(rt, "page"), rapid.Uint64().Draw(rt, "word")
				for range rapid.SampledFrom([]int{1, 1, 1, 700}).Draw(rt, "pages") {
					page %= MaxPages
					switch {
					case !table.Set(page, word):
						if s.Used() < limit*NodeSize {
							rt.Fatalf("Set of page %d refused with %d bytes in use of %d", page, s.Used(), limit*NodeSize)
						}
						if model[page] != 0 {
							rt.Fatalf("Set of page %d refused, which had a word", page)
						}
					case word == 0:
						delete(model, page)
					default:
						model[page] = word
					}
					page++
				}
			},
			"delete": func(rt *rapid.T) {
				table, model := which(rt)
				page := pageNumbers.Draw(rt, "page")
				for range rapid.SampledFrom([]int{1, 1, 700}).Draw(rt, "pages") {
					page %= MaxPages
					if got := table.Delete(page); got != model[page] {
						rt.Fatalf("Delete(%d) = %#x, want %#x", page, got, model[page])
					}
					delete(model, page)
					page++
				}
			},
			"free": func(rt *rapid.T) {
				table, model := which(rt)
				table.Free()
				clear(model)
				if table.Bytes() != 0 {
					rt.Fatalf("a table that is free has %d bytes", table.Bytes())
				}
			},
			"limit": func(rt *rapid.T) {
				limit = rapid.Int64Range(1, 64).Draw(rt, "nodes")
				if err := s.SetLimit(limit * NodeSize); err != nil {
					rt.Fatal(err)
				}
			},
			"range": func(rt *rapid.T) {
				table, model := which(rt)
				from, most := pageNumbers.Draw(rt, "from"), rapid.IntRange(1, 2000).Draw(rt, "most")
				var got, want []uint64
				table.Range(from, func(page, word uint64) bool {
					if word != model[page] {
						rt.Fatalf("Range shows page %d as %#x, want %#x", page, word, model[page])
					}
					got = append(got, page)
					return len(got) < most
				})
				for _, page := range slices.Sorted(maps.Keys(model)) {
					if page >= from && len(want) < most {
						want = append(want, page)
					}
				}
				if !slices.Equal(got, want) {
					rt.Fatalf("Range from %d shows %v, want %v", from, got, want)
				}
			},
			"": func(rt *rapid.T) {
				sum := int64(0)
				for i, table := range tables {
					sum += table.Bytes()
					if table.Pages() != int64(len(models[i])) {
						rt.Fatalf("table %d has %d pages, want %d", i, table.Pages(), len(models[i]))
					}
					page := pageNumbers.Draw(rt, "page")
					if got := table.Get(page); got != models[i][page] {
						rt.Fatalf("Get(%d) = %#x, want %#x", page, got, models[i][page])
					}
				}
				if s.Used() != sum || account.Load() != tables[0].Bytes()+tables[1].Bytes() {
					rt.Fatalf("%d bytes in use, tables say %d, the account %d", s.Used(), sum, account.Load())
				}
				if s.Bytes() < s.Used() || s.Bytes() > s.Used()+warmNodes*NodeSize {
					rt.Fatalf("P4: %d bytes held, %d in use", s.Bytes(), s.Used())
				}
				if resident := s.Usage()[0].Resident; resident > s.Bytes() {
					rt.Fatalf("P4: %d bytes resident, %d held", resident, s.Bytes())
				}
			},
		})
		for i, table := range tables {
			for page, word := range models[i] {
				if got := table.Get(page); got != word {
					rt.Fatalf("Get(%d) = %#x, want %#x", page, got, word)
				}
			}
		}
	})
}

func TestOutOfRange(t *testing.T) {
	s := newSpace(t, 1<<20)
	table := s.NewTable(nil)
	if table.Set(MaxPages, 1) || table.Get(MaxPages) != 0 || table.Delete(1<<63) != 0 || s.Used() != 0 {
		t.Error("a page out of range is not refused")
	}
	table.Range(MaxPages, func(uint64, uint64) bool { t.Error("a page out of range"); return true })
	if err := s.SetLimit(1<<20 + NodeSize); err == nil {
		t.Error("a limit above the capacity was set")
	}
	if _, err := NewSpace("test index", 0, 1<<20); err == nil {
		t.Error("a space without a limit was made")
	}
}

// TestDense: the price of dense pages is 8 bytes and a 512th, and all of it comes back.
func TestDense(t *testing.T) {
	const pages = 1 << 18
	s := newSpace(t, 8<<20)
	table := s.NewTable(nil)
	for page := range uint64(pages) {
		if !table.Set(page, page+1) {
			t.Fatalf("no memory for page %d", page)
		}
	}
	if want := int64(pages/fan+1) * NodeSize; table.Bytes() != want || s.Bytes() != want {
		t.Errorf("%d pages take %d bytes, %d held, want %d", pages, table.Bytes(), s.Bytes(), want)
	}
	for page := range uint64(pages) {
		if table.Delete(page) != page+1 {
			t.Fatalf("page %d is lost", page)
		}
	}
	table.Free()
	if s.Used() != 0 || s.Bytes() > warmNodes*NodeSize || s.Usage()[0].Resident > warmNodes*NodeSize {
		t.Errorf("%d bytes in use, %d held, %d resident after all pages went", s.Used(), s.Bytes(), s.Usage()[0].Resident)
	}
}

func TestTouch(t *testing.T) {
	s := newSpace(t, 1<<20)
	if err := s.Touch(); err != nil {
		t.Fatal(err)
	}
	if s.Usage()[0].Resident != 1<<20 {
		t.Errorf("%d bytes resident of %d", s.Usage()[0].Resident, 1<<20)
	}
}

// TestConcurrent has each goroutine write pages of its own in leaves that all share.
func TestConcurrent(t *testing.T) {
	const workers, rounds = 8, 20000
	s := newSpace(t, 4<<20)
	table := s.NewTable(nil)
	var wg sync.WaitGroup
	for worker := range uint64(workers) {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, worker))
			mine := make(map[uint64]uint64)
			for range rounds {
				page := random.Uint64N(40)<<random.Uint64N(30)*workers + worker
				switch random.IntN(3) {
				case 0:
					word := random.Uint64() | 1
					if !table.Set(page, word) {
						t.Errorf("no memory for page %d", page)
						return
					}
					mine[page] = word
				case 1:
					table.Delete(page)
					delete(mine, page)
				default:
					if got := table.Get(page); got != mine[page] {
						t.Errorf("Get(%d) = %#x, want %#x", page, got, mine[page])
						return
					}
				}
				if random.IntN(500) == 0 {
					last := uint64(0)
					table.Range(0, func(page, _ uint64) bool {
						if page < last {
							t.Errorf("page %d after %d", page, last)
						}
						last = page + 1
						return true
					})
				}
			}
			for page := range mine {
				table.Delete(page)
			}
		})
	}
	wg.Wait()
	if table.Pages() != 0 {
		t.Errorf("%d pages left", table.Pages())
	}
	table.Free()
	if s.Used() != 0 {
		t.Errorf("%d bytes left", s.Used())
	}
}

func TestAllocations(t *testing.T) {
	s := newSpace(t, 16<<20)
	table := s.NewTable(nil)
	page := uint64(0)
	if n := testing.AllocsPerRun(10000, func() {
		page += 97
		table.Set(page, page)
		table.Get(page)
		table.Delete(page - 97*500)
		table.Range(page, func(uint64, uint64) bool { return false })
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkGet(b *testing.B) {
	s := newSpace(b, 64<<20)
	table := s.NewTable(nil)
	for page := range uint64(1 << 20) {
		table.Set(page, page+1)
	}
	b.RunParallel(func(pb *testing.PB) {
		random := rand.New(rand.NewPCG(1, 2))
		for pb.Next() {
			table.Get(random.Uint64N(1 << 20))
		}
	})
}
