// Package protect keeps a process from waiting for the memory that it is there to
// free: the daemon when the swap of its own host goes through it, and the agent of
// an attached device always.
//
// cmd/internal/daemon and tmemctl attach call [Apply] once, before they make
// anything; the [Report] ends in the log, a metric, tmemctl status and tmemctl
// doctor.
//
// # What is done, and what happens without it
//
//	measure        how                                   without it
//	memory_locked  mlockall(CURRENT|FUTURE|ONFAULT)      our own pages are swapped to ourselves
//	code_touched   MADV_POPULATE_READ of the program     code is read from a disk by a fault that
//	                                                     needs memory
//	io_flusher     PR_SET_IO_FLUSHER on every thread     an allocation of ours writes to our own device
//	                                                     and waits for it
//	oom_score      oom_score_adj of -1000                the process that holds everybody's pages is
//	                                                     killed to free memory
//	heap_touched   room in the Go heap and threads made  garbage and a system call that waits take
//	               beforehand, collected by the limit    memory, just when there is none
//	realtime       SCHED_RR, the lowest priority         a reply waits in reclaim for the memory that
//	                                                     it would free: others may not touch what the
//	                                                     kernel keeps free (vm.min_free_kbytes), threads
//	                                                     of a realtime class may, a part of it. A
//	                                                     daemon is in it while its host is a client
//	                                                     (Report.Urgent): it costs nearly twice the
//	                                                     processor time
//
// ONFAULT, because the Go runtime reserves far more address space than there is
// memory. What is locked is what was touched: memory outside the Go heap is
// touched by whoever maps it, if he is told so. MAP_POPULATE does not: the kernel
// leaves out what is locked on fault. (Seen in the VM: without these touches a
// daemon stood in direct reclaim for minutes, in page faults of its own.)
//
// The flusher flag belongs to a thread. The runtime sets it on all that there are,
// and new ones inherit it. That works without cgo only.
//
// The Go runtime gives back what the last collection did not find in use, locked or
// not (it maps anew what it cannot give back). So the last collection at the start
// finds the room full of garbage, and later ones begin when it is full. A
// runtime.GC() at a quiet moment would undo that.
//
// execve leaves the flag, the class and the score, and takes the locks: the program
// that follows in the same process asks for these at once ([Regain]), when it finds
// that the one before was in the realtime class ([IsUrgent]).
//
// # Invariants
//
//	H1  A measure that is refused is reported with its cure, never skipped in
//	    silence. With mode on, one that is refused keeps the process from starting.
//	H2  Locking is not tried without the right to lock without a limit: under one,
//	    a later mapping would fail instead.
//
// # Not promised
//
// A part of what the kernel keeps free is all there is to live on while nothing
// can be reclaimed: see vm.min_free_kbytes in tmemctl doctor. Threads of a realtime
// class come before all others; the kernel leaves those a twentieth of the time
// (kernel.sched_rt_runtime_us).
package protect
