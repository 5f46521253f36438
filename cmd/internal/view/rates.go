package view

import (
	"fmt"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// Sample is what a daemon said at a time.
type Sample struct {
	At     time.Time
	Status admin.Status
	Donors []admin.Donor
}

// Rates are pages a second.
type Rates struct {
	Out, In     float64 // of and to clients; see the package comment
	FromStorage float64 // of In
	ToStorage   float64 // written there, whoever wanted it: a client, a drain, writethrough
	Refused     float64 // of Out: every backend said no
}

func (r *Rates) add(o Rates) {
	r.Out += o.Out
	r.In += o.In
	r.FromStorage += o.FromStorage
	r.ToStorage += o.ToStorage
	r.Refused += o.Refused
}

// continued says whether the counters of both samples go on from each other.
func continued(before, after Sample) bool {
	return before.Status.Started.Equal(after.Status.Started) && before.Status.PID == after.Status.PID && after.At.After(before.At)
}

// ExportRates returns the rates of each export, nil if they cannot be told: the
// daemon was started anew, or an export is new.
func ExportRates(before, after Sample) map[string]Rates {
	if !continued(before, after) {
		return nil
	}
	seconds := after.At.Sub(before.At).Seconds()
	was := map[string]admin.Export{}
	for _, e := range before.Status.Exports {
		was[e.Name] = e
	}
	rates := map[string]Rates{}
	for _, e := range after.Status.Exports {
		b, found := was[e.Name]
		if !found {
			continue
		}
		taken, refused := grown(b.SuccStores, e.SuccStores), grown(b.FailedStores, e.FailedStores)
		r := Rates{
			Out: taken + refused, In: grown(b.Loads, e.Loads), Refused: refused,
			FromStorage: grown(b.Storage.PagesRead, e.Storage.PagesRead), ToStorage: grown(b.Storage.PagesWritten, e.Storage.PagesWritten),
		}
		if len(after.Status.Backends) == 0 {
			r.Out = r.ToStorage
		}
		r.In += r.FromStorage
		for _, n := range []*float64{&r.Out, &r.In, &r.FromStorage, &r.ToStorage, &r.Refused} {
			*n /= seconds
		}
		rates[e.Name] = r
	}
	return rates
}

// grown is how much a counter grew. One that was lower before was set back.
func grown(before, after uint64) float64 {
	if after < before {
		return 0
	}
	return float64(after - before)
}

// perSecond spells a rate: short, and never 0 for what is not.
func perSecond(r float64) string {
	switch {
	case r == 0:
		return "0"
	case r < 9.95:
		return fmt.Sprintf("%.1f", max(r, 0.1))
	}
	return count(uint64(r + 0.5))
}
