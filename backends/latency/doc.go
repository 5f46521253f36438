// Package latency counts how long operations take, in histograms that cost their
// hot path next to nothing.
//
// frontswap has one [Histogram] for each backend and direction, storage one for each
// operation; package metrics shows them. NBD's requests have histograms of their own, in
// each connection, as they are counted many at a time.
//
// Rules:
//
//	L1  What takes less than a few microseconds is timed once in [SampleEvery] times, for
//	    pages whose numbers [Sampled] picks: no shared counter says whose turn it is, and
//	    the decision is a multiplication. Reading the clock twice and counting is about
//	    100 ns, so a page pays some 2 ns.
//	L2  What waits for a device is always timed.
//	L3  Counting neither allocates nor locks. Buckets are powers of two: which one is
//	    an instruction, and histograms of several processes can be added up.
//
// Not promised: that the buckets and the sum of one [Snapshot] are of one instant. And
// sampled counts are of the pages picked: a page that is asked for all the time counts
// each time or never.
package latency
