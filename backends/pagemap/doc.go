// Package pagemap finds the pages of a process that the kernel could swap, and reads
// them, by /proc/PID/pagemap, /proc/kpageflags and /proc/PID/mem.
//
// tmemctl estimate calls it to say what a backend would make of a host's memory, and
// deploy/corpus to collect pages for benchmarks.
//
// # Invariants
//
//	M1  A page counts as swappable if pagemap calls it present and neither file nor
//	    shared, and kpageflags calls it anonymous, evictable and not the zero page. Where
//	    kpageflags is closed to the caller, pagemap has to do, and
//	    [Process.Restricted] is true.
//	M2  Nothing is written, and no page is brought into memory: only what is present
//	    is read.
//
// A [Process] is for one goroutine.
//
// # Not promised
//
// That a page is still there, or the same, when it is read: the process goes on unless
// the caller stopped it. Shared memory and files on a tmpfs, which the kernel swaps too.
// Huge pages of hugetlbfs, which it does not. That reading leaves no trace: a page that
// is read counts as referenced once more.
package pagemap
