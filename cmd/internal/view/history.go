package view

import (
	"maps"
	"strings"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// longest is how many points of a series are kept: more than a screen is wide.
const longest = 512

// History is what was seen of a daemon so far. The zero value is empty.
type History struct {
	last   *Sample
	rates  map[string]Rates     // by export, between the last two samples
	series map[string][]float64 // by name of what is drawn
}

// Last is the latest sample, or nil.
func (h *History) Last() *Sample { return h.last }

// Add takes one more sample. If the daemon was started anew meanwhile, rates begin
// again; what was drawn stays.
func (h *History) Add(s Sample) {
	before := h.last
	h.last = &s
	if h.series == nil {
		h.series = map[string][]float64{}
	}
	seen := map[string]bool{}
	point := func(name string, value float64) {
		seen[name] = true
		points := append(h.series[name], value)
		h.series[name] = points[max(len(points)-longest, 0):]
	}
	for _, b := range s.Status.Backends {
		point("backend/"+b.Name+"/held", float64(b.HeldBytes))
	}
	for _, d := range s.Donors {
		point("donor/"+d.Backend+"/"+d.Name, d.LatencySeconds)
	}
	h.rates = nil
	if before != nil && continued(*before, s) {
		h.rates = ExportRates(*before, s)
		h.addRates(*before, s, point)
		for name := range maps.Keys(h.series) { // of what is gone
			if !seen[name] && strings.Contains(name, "/") {
				delete(h.series, name)
			}
		}
	}
}

func (h *History) addRates(before, s Sample, point func(name string, value float64)) {
	var all Rates
	for _, r := range h.rates {
		all.add(r)
	}
	point("out", all.Out)
	point("in", all.In)
	point("refused", all.Refused)
	point("storage read", all.FromStorage)
	point("storage written", all.ToStorage)
	point("loads", all.In-all.FromStorage)
	seconds := s.At.Sub(before.At).Seconds()
	was := map[string]admin.Backend{}
	for _, b := range before.Status.Backends {
		was[b.Name] = b
	}
	for _, b := range s.Status.Backends {
		earlier, found := was[b.Name]
		if !found {
			earlier = b
		}
		point("backend/"+b.Name+"/stores", grown(earlier.Stores, b.Stores)/seconds)
		point("backend/"+b.Name+"/refused", grown(sumOf(earlier.Refused), sumOf(b.Refused))/seconds)
	}
	hits, misses := diskGets(before.Status)
	hitsNow, missesNow := diskGets(s.Status)
	point("disk hits", grown(hits, hitsNow)/seconds)
	point("disk misses", grown(misses, missesNow)/seconds)
}

func diskGets(s admin.Status) (hits, misses uint64) {
	for _, d := range s.Disks {
		hits, misses = hits+d.SuccGets, misses+d.FailedGets
	}
	return hits, misses
}

// now is the latest point of a series.
func (h *History) now(name string) float64 {
	if points := h.series[name]; len(points) > 0 {
		return points[len(points)-1]
	}
	return 0
}
