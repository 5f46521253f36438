// Command drainbench measures what it costs to unload a backend, with pages of
// real memory, beside peers in the same run:
//
//	go run ./deploy/drainbench
//
// It prints, for each round and as medians:
//
//	tmpfs       how fast zcache is drained to storage on tmpfs with one processor
//	            (GOMAXPROCS=1), beside plain writes of the same bytes to the same place
//	disk        the same to storage on a disk, O_DIRECT, beside fio: sequential writes
//	            to the same file system, O_DIRECT, of 1 MiB, and of the drain's mean size
//	foreground  reads of pages in RAM while another backend drains: the latency that
//	            one in a thousand exceeds, and the share of the throughput that is left
//
// What a store costs with no backend loaded is a benchmark of package tier
// (BenchmarkStoreWithoutBackend); `make bench-drain` runs both.
//
// # How it measures
//
//	R1  All have the same pages, from deploy/corpus. What zcache refuses is on storage
//	    from the start and is not part of a drain, so a drain writes runs of the
//	    neighbours that are left.
//	R2  A round measures each thing and its peer one after the other; a ratio is the
//	    median of the ratios of the rounds.
//	R3  A drain's rate is that of page data, before compression. It begins when
//	    everything is compressed, and its time includes the closing of the backend.
//	R4  After each drain the content of the device is compared with what was written.
//	R5  Beside the rate stands the data moved for each second of processor time, which
//	    depends less on what others do. The load average stands beside the figures: on a machine that others use,
//	    ratios hold and absolute figures do not.
//
// # Not promised
//
// Timing is never asserted: the test checks that all of it works.
package main
