// Package metrics shows what the daemon does to Prometheus.
//
// The daemon makes one [Collector] from a function that takes a [Snapshot], and
// runs one [Server] for it. Nothing is counted here: the parts count in their
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
//
// Names and meanings are an interface: testdata/metrics.txt shows all of them.
//
// Not promised: that the values of one scrape are of one instant.
package metrics
