// Package doctor looks at a host that swaps to tmemd, or whose daemon serves
// others, and says what will go wrong one day and how to cure it.
//
// tmemctl doctor calls [Examine] with what it found out; everything else is read
// from /proc and /sys. It changes nothing.
//
// A [Finding] is one of
//
//	ok       as it should be
//	note     worth knowing; nothing to do
//	warning  works, until something else goes wrong too
//	problem  will hang, lose or kill something: the exit status says so
//	unknown  could not be found out, with the reason
//
// Invariants:
//
//	I1  Every warning and problem has a cure that can be pasted or looked up.
//	I2  What cannot be read is unknown, never ok.
//
// What is looked at: the kernel's version, module and settings; the daemon's process and
// the agents' (threads, locks, limits, scores, control groups); each NBD device that this
// host swaps to, its agent and what is swapped to beside it; where storage is, and how
// much room it has; what else on the host concerns swap. planted_test.go has a table of
// what is found.
//
// What the judgements rest on, as far as it was measured: Debian's 6.1 and 6.12
// kernels, small machines, swap over Unix sockets and TCP.
package doctor
