// Package pressure says how short of memory this host is, and decides how large
// a pool of memory may be while it is.
//
// A backend that keeps pages in this host's memory owns a [Sizer] and runs it in
// a goroutine of its own (zcache). Nothing here holds memory or moves a page: the
// owner is told a target and follows it in its own way.
//
// # What is read
//
//	/proc/pressure/memory  the time that some task waited for memory (PSI)
//	/proc/meminfo          MemAvailable and MemTotal
//	memory.max, .current,  the same of the control group (v2) that this process
//	.stat of the cgroup    is in: what is left there, if that is less
//
// The host's PSI includes the cgroup's, so that is not read for its own. It also
// includes groups that thrash below limits of theirs, which no smaller pool would
// help: so it counts only while less than a quarter of the memory is available.
//
// # When a pool shrinks and grows
//
// The rules are those of the kernel's frontswap_selfshrinking, with its numbers:
// nothing is done before a state has lasted for Inertia looks, and then each look
// takes a Hysteresis-th. A look is every [Period].
//
//	state     with PSI                                without PSI
//	strained  10 % of the time waited, and less       less than 5 % available
//	          than a quarter available
//	calm      less than 1 % waited, or more than a    10 % or more available
//	          quarter available; and 10 % available
//	between   anything else                           anything else
//
//	strained for 3 looks   the target goes down by 1/20 at each look, from what is
//	(1, if half the time   held if that is less than three quarters of it; not below
//	is waited)             the floor, and not while pages that were evicted come
//	                       straight back: they would need the memory again at once
//	calm for 3 looks       the target grows by 1/20 of the maximum, at each look
//	between                stays
//
// # Invariants
//
//	S1  A target is never below the floor nor above the maximum.
//	S2  The target moves only in the state that the table says, and after a change
//	    of the state not before it has lasted.
//	S3  A source that cannot be read changes nothing: the target stays.
//
// # What is not promised
//
// That the host gets well: a pool at its floor shrinks no further. That the stall
// was the pool's doing. On a host whose own swap the pool serves, pressure is what
// fills it: there a page in the pool frees more memory than an evicted one, at no
// cost of a disk, and the floor should be high or the following turned off.
package pressure
