package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tmemd/tmemd/backends/sharedmem"
)

// Ramster is what a backend that is other hosts' memory counts beside what all do.
type Ramster struct {
	Backend string
	Staged  int64 // bytes
	Pages   int64
	Lost    int64 // of Pages
	Home    int64 // bytes
	Cached  int64 // pages of disks

	CameHome, SentOut uint64

	Sent, SentAgain, Repaired, Orphans, ReadAhead, AheadHits, SecondCopy, LoadsWaited, Evicted, CachedGone uint64

	Donors []RamsterDonor
}

// RamsterDonor is one of the hosts that have its pages.
type RamsterDonor struct {
	Name    string
	Up      bool
	Pages   int64
	Free    uint64 // bytes
	Wanted  uint64 // bytes
	Latency time.Duration

	Missed, Rejected, Missing, Sessions, Failures, Sent, Received uint64

	Session RamsterSession
}

// Lent is the memory that this host lends.
type Lent struct {
	Held, Limit, Max int64 // bytes
	Frozen           bool
	Sessions         int

	Denied, Unidentified, Dropped, Corrupt uint64

	Clients  []LentClient
	Requests []LentRequests
	More     LentMore
	Memory   []sharedmem.Usage
}

// LentClient is somebody who borrows. The names are those of the configuration.
type LentClient struct {
	Name                  string
	Persistent, Ephemeral int64 // pages
	Used, Quota, Wanted   int64 // bytes
}

// LentRequests counts answers of one kind.
type LentRequests struct {
	Operation, Status string
	Count             uint64
}

// What is shown. A table: nothing changes it.
var (
	ramsterStaged   = describe("ramster_staged_bytes", "Memory here for pages that donors do not have yet.", "backend")
	ramsterPages    = describe("ramster_pages", "Pages that other hosts have.", "backend")
	ramsterLost     = describe("ramster_lost_pages", "Of these, pages that no donor has any more, as of the last look: I/O errors, unless storage has them.", "backend")
	ramsterHome     = describe("ramster_home_bytes", "Memory here for pages that came back because this host has some to spare.", "backend")
	ramsterCame     = describe("ramster_home_pages_total", "Pages that came back.", "backend")
	ramsterLeft     = describe("ramster_home_left_pages_total", "Of these, pages that had to go again.", "backend")
	ramsterSent     = describe("ramster_sent_pages_total", "Pages that donors took.", "backend")
	ramsterAgain    = describe("ramster_resent_pages_total", "Pages sent to another donor, as the first one refused them or went away.", "backend")
	ramsterRepaired = describe("ramster_repaired_copies_total", "Copies made again because a donor was lost, or removed.", "backend")
	ramsterOrphans  = describe("ramster_orphans_total", "Pages that a donor had and nobody knew of; it was told to forget them.", "backend")
	ramsterAhead    = describe("ramster_read_ahead_pages_total", "Pages asked for before they were loaded.", "backend")
	ramsterHits     = describe("ramster_read_ahead_hits_total", "Of these, pages that were loaded.", "backend")
	ramsterSecond   = describe("ramster_second_copy_loads_total", "Loads that asked another donor than the first.", "backend")
	ramsterWaited   = describe("ramster_waited_loads_total", "Times that a load waited for a donor to come back.", "backend")
	ramsterCached   = describe("ramster_cached_pages", "Cached pages of disks that other hosts have, one copy of each, as far as they did not drop them.", "backend")
	ramsterGone     = describe("ramster_cached_gone_total", "Cached pages of disks that a donor had not when they were read, or did not give in time: misses.", "backend")
	ramsterEvicted  = describe("ramster_evicted_pages_total", "Pages that went to the next place because donors wanted them back.", "backend")

	ramsterDonorUp       = describe("ramster_donor_up", "1 if the donor answers and is used.", "backend", "donor")
	ramsterDonorPages    = describe("ramster_donor_pages", "Pages that the donor has, of this backend.", "backend", "donor")
	ramsterDonorFree     = describe("ramster_donor_free_bytes", "What the donor still takes of this backend.", "backend", "donor")
	ramsterDonorWanted   = describe("ramster_donor_wanted_bytes", "What the donor wants back.", "backend", "donor")
	ramsterDonorLatency  = describe("ramster_donor_latency_seconds", "Moving average of the time from asking the donor for pages to having them.", "backend", "donor")
	ramsterDonorMissed   = describe("ramster_donor_missed_deadlines_total", "Answers that came too late, or not at all.", "backend", "donor")
	ramsterDonorRejected = describe("ramster_donor_rejected_replies_total", "Answers that were not the page that was sent: worth an alert.", "backend", "donor")
	ramsterDonorMissing  = describe("ramster_donor_missing_pages_total", "Pages that the donor should have had and had not: worth an alert.", "backend", "donor")
	ramsterDonorSessions = describe("ramster_donor_sessions_total", "Connections to the donor that stood.", "backend", "donor")
	ramsterDonorFailures = describe("ramster_donor_session_failures_total", "Attempts to connect to the donor that failed.", "backend", "donor")
	ramsterDonorSent     = describe("ramster_donor_sent_bytes_total", "Bytes sent to the donor, before TLS.", "backend", "donor")
	ramsterDonorReceived = describe("ramster_donor_received_bytes_total", "Bytes received from the donor, after TLS.", "backend", "donor")

	donorHeld         = describe("donor_held_bytes", "Memory that other hosts have here, index and overhead included.")
	donorLimit        = describe("donor_limit_bytes", "The memory that they may have now. It goes down while this host is short of memory.")
	donorMax          = describe("donor_limit_max_bytes", "What the limit is while this host is not short of memory.")
	donorFrozen       = describe("donor_frozen", "1 if no pages are taken now.")
	donorSessions     = describe("donor_sessions", "Hosts that are connected.")
	donorDenied       = describe("donor_denied_total", "Greetings of clients that may not borrow.")
	donorUnidentified = describe("donor_unidentified_total", "Connections that did not say who they are: no certificate, or a foreign one.")
	donorDropped      = describe("donor_dropped_pages_total", "Ephemeral pages that were dropped to make room.")
	donorCorrupt      = describe("donor_corrupt_pages_total", "Pages that were found damaged, and are gone.")
	donorPages        = describe("donor_client_pages", "Pages of the client that are here.", "client", "kind")
	donorUsed         = describe("donor_client_used_bytes", "Memory that the client is charged with.", "client")
	donorQuota        = describe("donor_client_quota_bytes", "Memory that the client may use.", "client")
	donorWanted       = describe("donor_client_wanted_bytes", "Memory that the client was asked to give back.", "client")
	donorRequests     = describe("donor_requests_total", "Answers to other hosts.", "operation", "status")

	memoryDescriptions = []*prometheus.Desc{
		ramsterStaged, ramsterHome, ramsterCame, ramsterLeft, ramsterPages, ramsterLost, ramsterSent, ramsterAgain, ramsterRepaired, ramsterOrphans, ramsterAhead, ramsterHits,
		ramsterSecond, ramsterWaited, ramsterCached, ramsterGone, ramsterEvicted, ramsterDonorUp, ramsterDonorPages, ramsterDonorFree, ramsterDonorWanted, ramsterDonorLatency,
		ramsterDonorMissed, ramsterDonorRejected, ramsterDonorMissing, ramsterDonorSessions, ramsterDonorFailures, ramsterDonorSent, ramsterDonorReceived,
		donorHeld, donorLimit, donorMax, donorFrozen, donorSessions, donorDenied, donorUnidentified, donorDropped, donorCorrupt,
		donorPages, donorUsed, donorQuota, donorWanted, donorRequests,
	}
)

func (e emitter) ramster(r Ramster) {
	e.gauge(ramsterStaged, float64(r.Staged), r.Backend)
	e.gauge(ramsterHome, float64(r.Home), r.Backend)
	e.counter(ramsterCame, r.CameHome, r.Backend)
	e.counter(ramsterLeft, r.SentOut, r.Backend)
	e.gauge(ramsterPages, float64(r.Pages), r.Backend)
	e.gauge(ramsterLost, float64(r.Lost), r.Backend)
	e.gauge(ramsterCached, float64(r.Cached), r.Backend)
	e.counter(ramsterGone, r.CachedGone, r.Backend)
	e.counter(ramsterSent, r.Sent, r.Backend)
	e.counter(ramsterAgain, r.SentAgain, r.Backend)
	e.counter(ramsterRepaired, r.Repaired, r.Backend)
	e.counter(ramsterOrphans, r.Orphans, r.Backend)
	e.counter(ramsterAhead, r.ReadAhead, r.Backend)
	e.counter(ramsterHits, r.AheadHits, r.Backend)
	e.counter(ramsterSecond, r.SecondCopy, r.Backend)
	e.counter(ramsterWaited, r.LoadsWaited, r.Backend)
	e.counter(ramsterEvicted, r.Evicted, r.Backend)
	for _, d := range r.Donors {
		e.session(r.Backend, d.Name, d.Session)
		e.gauge(ramsterDonorUp, truth(d.Up), r.Backend, d.Name)
		e.gauge(ramsterDonorPages, float64(d.Pages), r.Backend, d.Name)
		e.gauge(ramsterDonorFree, float64(d.Free), r.Backend, d.Name)
		e.gauge(ramsterDonorWanted, float64(d.Wanted), r.Backend, d.Name)
		e.gauge(ramsterDonorLatency, d.Latency.Seconds(), r.Backend, d.Name)
		e.counter(ramsterDonorMissed, d.Missed, r.Backend, d.Name)
		e.counter(ramsterDonorRejected, d.Rejected, r.Backend, d.Name)
		e.counter(ramsterDonorMissing, d.Missing, r.Backend, d.Name)
		e.counter(ramsterDonorSessions, d.Sessions, r.Backend, d.Name)
		e.counter(ramsterDonorFailures, d.Failures, r.Backend, d.Name)
		e.counter(ramsterDonorSent, d.Sent, r.Backend, d.Name)
		e.counter(ramsterDonorReceived, d.Received, r.Backend, d.Name)
	}
}

func (e emitter) lent(l Lent) {
	e.gauge(donorHeld, float64(l.Held))
	e.gauge(donorLimit, float64(l.Limit))
	e.gauge(donorMax, float64(l.Max))
	e.lentMore(l.More)
	e.gauge(donorFrozen, truth(l.Frozen))
	e.gauge(donorSessions, float64(l.Sessions))
	e.counter(donorDenied, l.Denied)
	e.counter(donorUnidentified, l.Unidentified)
	e.counter(donorDropped, l.Dropped)
	e.counter(donorCorrupt, l.Corrupt)
	for _, c := range l.Clients {
		e.gauge(donorPages, float64(c.Persistent), c.Name, "persistent")
		e.gauge(donorPages, float64(c.Ephemeral), c.Name, "ephemeral")
		e.gauge(donorUsed, float64(c.Used), c.Name)
		e.gauge(donorQuota, float64(c.Quota), c.Name)
		e.gauge(donorWanted, float64(c.Wanted), c.Name)
	}
	for _, r := range l.Requests {
		e.counter(donorRequests, r.Count, r.Operation, r.Status)
	}
}
