package metrics

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/tier"
)

func many(from, to int) (s Snapshot) {
	for i := from; i < to; i++ {
		name := fmt.Sprint("vm", i)
		s.Exports = append(s.Exports, Export{Name: name, Stats: tier.Stats{Storage: tier.StorageStats{ReadErrors: uint64(i)}}})
		s.Clients = append(s.Clients, frontswap.ClientStatus{Name: name})
		s.NBD.Exports = append(s.NBD.Exports, nbd.ExportStats{Name: name})
	}
	return s
}

// TestBound: no more than so many have series, whoever has them keeps them, and what goes
// wrong with the others is counted and never forgotten.
func TestBound(t *testing.T) {
	b := bound{limit: 3}
	check := func(step string, s Snapshot, want []string, failed uint64) {
		t.Helper()
		shown, left := b.apply(s)
		var names []string
		for i, x := range shown.Exports {
			names = append(names, x.Name)
			if shown.Clients[i].Name != x.Name || shown.NBD.Exports[i].Name != x.Name {
				t.Errorf("%s: client %s and export %s", step, shown.Clients[i].Name, x.Name)
			}
		}
		if fmt.Sprint(names) != fmt.Sprint(want) {
			t.Errorf("%s: %v have series, want %v", step, names, want)
		}
		if left.exports != len(s.Exports)-len(want) || left.failed.reads != failed {
			t.Errorf("%s: %d left out with %d errors, want %d with %d", step, left.exports, left.failed.reads, len(s.Exports)-len(want), failed)
		}
	}
	check("few", many(1, 3), []string{"vm1", "vm2"}, 0)
	check("many", many(0, 10), []string{"vm0", "vm1", "vm2"}, 3+4+5+6+7+8+9)
	check("the same", many(0, 10), []string{"vm0", "vm1", "vm2"}, 42)
	// vm1, and some of the others, are gone: their errors stay, and a place is free.
	s := many(0, 10)
	s.Exports = append(s.Exports[:1], s.Exports[2:8]...)
	s.Clients = append(s.Clients[:1], s.Clients[2:8]...)
	s.NBD.Exports = append(s.NBD.Exports[:1], s.NBD.Exports[2:8]...)
	check("some gone", s, []string{"vm0", "vm2", "vm3"}, 4+5+6+7+8+9)
	// One of that name is made anew.
	s.Exports[6].Stats.Storage.ReadErrors = 1
	check("made anew", s, []string{"vm0", "vm2", "vm3"}, 4+5+6+7+8+9+1)
}

// TestSeriesOfThousand: a scrape of a thousand exports, each with a client, stays
// within a bound.
func TestSeriesOfThousand(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCollector(func() Snapshot { return many(0, 1000) }, 200))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := 0
	for _, f := range families {
		series += len(f.GetMetric())
	}
	if series > 16_000 || series < 2000 {
		t.Errorf("%d series", series)
	}
}
