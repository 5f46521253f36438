// Package client is a lean NBD client that generates load: 1 to 2 µs of
// processor time for each request, so that a measurement is one of the server.
// fio's nbd engine takes ten times that; it verifies, it does not measure.
//
// tmemctl bench calls it, the benchmarks below deploy, and the tests of servers that
// want many requests. It knows nothing of package nbd, so that it measures any server.
//
// A [Conn] is one connection, from [Dial] to Close. [Conn.Run] drives it with a
// [Workload], which names one request after the other; up to Depth of them are
// outstanding. All requests that may be sent go out with one system call, and
// one call reads all replies that the socket holds. A write's payload is copied
// once. The thread waits in the system call itself: waking a goroutine through
// the runtime's poller takes longer, and at depth 1 that would be measured.
//
// [Attach] makes a client that does nothing, and [Conn.Crawl] one that reads its
// replies slowly: company for a connection that is measured.
//
// # Invariants
//
//	C1  A request is outstanding from Workload.Next to Workload.Done, and Done is
//	    called once for each, unless Run returns an error.
//	C2  Run never waits for the server to read while the server may wait for it to
//	    read: it sends what the socket takes, then receives.
//	C3  A reply is believed only if its cookie is that of an outstanding request. A
//	    reply with an error, or with other data than the request expects, ends Run
//	    with an error that says where.
//	C4  While it runs it does not allocate.
//	C5  The workloads of this package never have two requests for one page
//	    outstanding, as Linux has not for a swap slot, so each read has one right
//	    answer.
//
// A Conn and its workload belong to one goroutine. Run locks no thread, so many
// connections take as many threads as wait in system calls.
//
// # Not promised
//
// The parts of the protocol that a page-sized load does not need: structured
// replies, TLS, and requests of other sizes than whole pages.
package client
