// Package corpus collects pages of real memory for benchmarks and tests: what
// a kernel that is short of memory would swap out of processes of everyday
// kinds. Zeros or random bytes say nothing about a compressing backend.
//
// Benchmarks and tests call [Sample], once each, and share the [Corpus].
//
// It starts processes (a Go compile, a Python, a Node and a Java service, a C++
// compile), stops each when its heap has some size, and copies some of its
// pages. Text and random bytes (for memory that is compressed or encrypted)
// are added. A kind whose program is not on the machine is left out, and
// [Corpus.Sources] says so: figures from two machines compare only if these
// agree.
//
// # Invariants
//
//	P1  Only pages that the kernel could swap are taken: those that pagemap calls
//	    present and neither file nor shared, and that kpageflags calls anonymous
//	    and not the zero page. Where kpageflags is closed to the caller, smaps has
//	    to do, and [Corpus.Restricted] is true.
//	P2  Pages are taken in runs of up to 16 neighbours and the runs are shuffled, so
//	    that any part of a corpus is a fair sample of it, and neighbours in memory
//	    are neighbours in it.
//	P3  When Sample returns, every process that it started has ended and has been
//	    waited for, also after an error. If the caller is killed, they are too.
//	P4  Page content stays in memory: nothing of it is written anywhere.
//
// # Not promised
//
// The same content for the same seed: the seed fixes which kinds there are in
// which parts, which runs are chosen of equal lists, and the order. Zeros in
// the measure of a real fleet: young processes have fewer than old ones.
package corpus
