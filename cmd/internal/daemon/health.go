package daemon

import (
	"runtime/debug"
	"sync"

	"github.com/tmemd/tmemd/metrics"
)

// health is how the daemon is, for probes. Before it is served nobody can ask: what an earlier
// process left is taken over, and backends are loaded, by then.
func (d *Daemon) health() metrics.Health {
	p := phase(d.phase.Load())
	h := metrics.Health{Phase: phaseNames[p], Phases: phaseNames[:], Started: d.started}
	switch {
	case p != phaseServing:
		h.Unready = "stopping, " + h.Phase + ": no clients are accepted"
	case d.unserved.Load() > 0:
		h.Unready = "a socket is not served any more, the log says which"
	case !d.accepts():
		h.Unready = "clients are not served yet"
	}
	return h
}

// notServed notes that a socket that clients come by broke, if it did: nothing brings it back
// but a restart.
func (d *Daemon) notServed(err error) {
	if err != nil {
		d.unserved.Add(1)
	}
	d.logError(err)
}

// accepts says whether clients, or those who borrow memory, can come.
func (d *Daemon) accepts() bool {
	for name := range d.sockets() {
		if name != adminSocket && name != metricsSocket {
			return true
		}
	}
	return false
}

// revision is the source that the program was built from, as the go command noted it.
var revision = sync.OnceValue(func() string {
	revision, modified := "unknown", ""
	info, _ := debug.ReadBuildInfo() // nil: not built with modules
	if info == nil {
		return revision
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+"
		}
	}
	return revision + modified
})
