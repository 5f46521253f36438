package metrics

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tmemd/tmemd/tier"
)

// Health is what the daemon says of itself.
type Health struct {
	Phase   string    // where it is on its way to its end: one of Phases
	Phases  []string  // all there are
	Unready string    // why it does not serve as it should, or empty
	Started time.Time // this program, which an upgrade replaces
}

// failingFor is for how long after an error storage counts as failing. Longer than the time
// between two scrapes or probes, so that both see it.
const failingFor = time.Minute

// watch says whether the daemon is ready: it remembers when storage last erred.
type watch struct {
	mu   sync.Mutex
	errs map[string]erred // by export or disk; guarded by mu
}

type erred struct {
	count uint64
	rose  time.Time // when count was seen to be higher than before; zero: never
}

// unready returns why a daemon that is like this is not ready, or nothing.
func (w *watch) unready(s Snapshot, now time.Time) string {
	failing := w.failing(s, now)
	switch {
	case s.Health.Unready != "":
		return s.Health.Unready
	case failing != "":
		return failing
	}
	return ""
}

// failing names storage that erred lately. Errors from before the first look count as if they
// were of then: nobody knows.
func (w *watch) failing(s Snapshot, now time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := make(map[string]erred, len(s.Exports)+len(s.Disks))
	look := func(name string, st tier.StorageStats) {
		before := w.errs[name]
		count := st.ReadErrors + st.WriteErrors // not of punches: they cost space, no data
		if count > before.count {
			before.rose = now
		}
		before.count = count
		seen[name] = before
	}
	for _, x := range s.Exports {
		look(x.Name, x.Stats.Storage)
	}
	for _, d := range s.Disks {
		look(d.Name, d.Stats.Storage)
	}
	w.errs = seen
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		if rose := seen[name].rose; !rose.IsZero() && now.Sub(rose) < failingFor {
			return fmt.Sprintf("storage of %s failed within the last %v, %d errors so far", name, failingFor, seen[name].count)
		}
	}
	return ""
}

var (
	phase   = describe("phase", "1 for the phase that the daemon is in: serving, or a step of its way to its end.", "phase")
	ready   = describe("ready", "1 if the daemon serves as it should: what /readyz says.")
	started = describe("start_timestamp_seconds", "When this program began to run; an upgrade replaces it within the same process.")

	healthDescriptions = []*prometheus.Desc{phase, ready, started}
)

func (e emitter) health(h Health, unready string) {
	for _, p := range h.Phases {
		e.gauge(phase, truth(p == h.Phase), p)
	}
	e.gauge(ready, truth(unready == ""))
	e.gauge(started, float64(h.Started.UnixMilli())/1000)
}

// How long a probe waits for the daemon's parts, and how old their answer may be: with many
// probes, the parts are asked once a second.
const (
	probePatience = 5 * time.Second
	probeAge      = time.Second
)

// probes answers whether the daemon is alive and ready.
type probes struct{ sampler *Sampler }

// healthz is for whoever restarts what is wedged.
func (p probes) healthz(w http.ResponseWriter, r *http.Request) {
	if _, err := p.sample(r); err != nil {
		answer(w, http.StatusServiceUnavailable, "wedged: "+err.Error())
		return
	}
	answer(w, http.StatusOK, "alive")
}

// readyz is for whoever sends clients here, or waits with a swapon.
func (p probes) readyz(w http.ResponseWriter, r *http.Request) {
	s, err := p.sample(r)
	if err != nil {
		answer(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
		return
	}
	if s.Unready != "" {
		answer(w, http.StatusServiceUnavailable, "not ready: "+s.Unready)
		return
	}
	answer(w, http.StatusOK, "ready")
}

func (p probes) sample(r *http.Request) (Sample, error) {
	ctx, cancel := context.WithTimeout(r.Context(), probePatience)
	defer cancel()
	return p.sampler.Sample(ctx, probeAge)
}

func answer(w http.ResponseWriter, status int, line string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, line+"\n") // the client is gone: nobody to tell
}
