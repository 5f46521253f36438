package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// RamsterSession is how the way to a donor is.
type RamsterSession struct {
	State           string // one of RamsterStates
	Leaving, Frozen bool

	ProtocolErrors, Strikes, PoolsRefused, Backlogged, Busy uint64

	Waiting, Fetching int
	RoundTrip         time.Duration
	Puts              []RamsterPuts
}

// RamsterPuts counts a donor's answers of one kind to pages that were sent.
type RamsterPuts struct {
	Status string
	Count  uint64
}

// RamsterStates are the states of a donor.
var RamsterStates = []string{"connecting", "up", "open", "closed", "refused"}

// LentMore is what a donor says of itself beside Lent.
type LentMore struct {
	Index, Charged int64 // bytes
	Pools          int
	Stall          float64
	Compacted      uint64
}

var (
	sessionState     = describe("ramster_donor_state", "1 for the state of the donor: connecting, up, open (it is left alone for a while after failures), closed, or refused (it is not one to be used).", "backend", "donor", "state")
	sessionLeaving   = describe("ramster_donor_leaving", "1 if the donor gets no more pages, and what it has moves away.", "backend", "donor")
	sessionFrozen    = describe("ramster_donor_frozen", "1 if the donor says that it takes no pages now.", "backend", "donor")
	sessionErrors    = describe("ramster_donor_protocol_errors_total", "Answers of the donor that were against the protocol.", "backend", "donor")
	sessionStrikes   = describe("ramster_donor_strikes_total", "Failures that count against the donor, until it is left alone for a while.", "backend", "donor")
	sessionPools     = describe("ramster_donor_refused_pools_total", "Pools that the donor had no room for.", "backend", "donor")
	sessionBacklog   = describe("ramster_donor_backlogged_total", "Pages and flushes that were not sent as too many were waiting.", "backend", "donor")
	sessionBusy      = describe("ramster_donor_busy_fetches_total", "Fetches that were not sent as too many were waiting.", "backend", "donor")
	sessionWaiting   = describe("ramster_donor_waiting_requests", "Requests that the donor has not answered yet.", "backend", "donor", "operation")
	sessionRoundTrip = describe("ramster_donor_round_trip_seconds", "Moving average of the time from sending a request to its answer.", "backend", "donor")
	sessionPuts      = describe("ramster_donor_puts_total", "Answers of the donor to pages that were sent.", "backend", "donor", "status")

	donorIndex     = describe("donor_index_bytes", "Of the memory that other hosts have here, the index.")
	donorCharged   = describe("donor_charged_bytes", "Memory that all clients are charged with.")
	donorPools     = describe("donor_pools", "Pools that other hosts have here.")
	donorStall     = describe("donor_stall_ratio", "Share of the time, 0 to 1, that tasks of this host waited for memory in the last seconds, as the donor saw it.")
	donorCompacted = describe("donor_compacted_pages_total", "Pages that were moved so that memory can be given back.")

	donorDescriptions = []*prometheus.Desc{
		sessionState, sessionLeaving, sessionFrozen, sessionErrors, sessionStrikes, sessionPools, sessionBacklog, sessionBusy, sessionWaiting,
		sessionRoundTrip, sessionPuts, donorIndex, donorCharged, donorPools, donorStall, donorCompacted,
	}
)

func (e emitter) session(backend, donor string, s RamsterSession) {
	for _, state := range RamsterStates {
		e.gauge(sessionState, truth(s.State == state), backend, donor, state)
	}
	e.gauge(sessionLeaving, truth(s.Leaving), backend, donor)
	e.gauge(sessionFrozen, truth(s.Frozen), backend, donor)
	e.counter(sessionErrors, s.ProtocolErrors, backend, donor)
	e.counter(sessionStrikes, s.Strikes, backend, donor)
	e.counter(sessionPools, s.PoolsRefused, backend, donor)
	e.counter(sessionBacklog, s.Backlogged, backend, donor)
	e.counter(sessionBusy, s.Busy, backend, donor)
	e.gauge(sessionWaiting, float64(s.Waiting), backend, donor, "put_or_flush")
	e.gauge(sessionWaiting, float64(s.Fetching), backend, donor, "fetch")
	e.gauge(sessionRoundTrip, s.RoundTrip.Seconds(), backend, donor)
	for _, p := range s.Puts {
		e.counter(sessionPuts, p.Count, backend, donor, p.Status)
	}
}

func (e emitter) lentMore(l LentMore) {
	e.gauge(donorIndex, float64(l.Index))
	e.gauge(donorCharged, float64(l.Charged))
	e.gauge(donorPools, float64(l.Pools))
	e.gauge(donorStall, l.Stall)
	e.counter(donorCompacted, l.Compacted)
}
