// Package metrics shows what the daemon does to Prometheus.
//
// The daemon makes one [Server] from a function that takes a [Snapshot], and a
// [Sampler] of it. The server has a [Collector] for Prometheus, answers probes, and
// serves a page for browsers if it is given one (package statuspage). Nothing is counted here: the parts count in their
// own atomics, and a scrape reads them. So the request path pays nothing for
// being watched, and a scrape costs one snapshot of each part.
//
// Invariants:
//
//	C1  One scrape takes one snapshot.
//	C2  There is no global registry: two daemons in one process do not meet.
//	C3  Labels are bounded: exports, backends, donors and clients that the
//	    configuration or the operator names, commands, and reasons and purposes that
//	    are constants of the program. Nothing that a client sends is a label.
//	    Reasons and states are there before they come, so that the first time is a step.
//	C4  Probes and the page share samples (Sampler): many askers cost what one does, and
//	    parts that do not answer keep one goroutine waiting. /healthz says so in time.
//	C5  Nobody changes anything by asking.
//
// # Alive and ready
//
//	/healthz  200 alive; 503 if no snapshot comes within five seconds: a lock is never given
//	          back, or storage does not say how it is
//	/readyz   200 ready; 503 while the daemon stops, if a socket that clients come by broke, if
//	          storage of an export or disk failed within the last minute, or as /healthz
//
// Names and meanings are an interface: testdata/metrics.txt shows all of them.
//
// Not promised: that the values of one scrape are of one instant.
package metrics
