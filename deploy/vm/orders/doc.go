// Package orders is the language that the host and the guest of the real-kernel test speak over a serial line:
// orders go in, reports come out, one JSON object a line.
//
// The host (package vm) sends an Order and waits for the Report that answers it; the guest program reports its
// counters once a second in between, whatever happens, so that the host can tell a slow guest from a stuck one.
//
// Orders come in this sequence, each answered before the next is sent:
//
//	order     answer       what the guest does
//	(none)    filled       writes every page once, then starts its rounds
//	phase     phase        gives the next reports the phase's name; its rounds go on
//	run       ran          runs a shell command beside its rounds, and answers with what it printed
//	stop      stopped      ends the rounds, verifies every page once more, drops all pages but a part
//	swapoff   swapped off  swapoff with that part still swapped out, then verifies it
//	detach    detached     disconnects the device, sends the kernel's log, ends
//
// A failure of the guest is one report, "mismatch" or "failed", after which nothing follows.
//
// Invariants:
//
//	O1  A line that is not exactly one known order or report is an error, never ignored.
//	O2  Counters never fall from one report to the next.
//
// Not promised: a report's counters are read one after the other, so they may be a few pages apart.
package orders
