// Package journal keeps the latest lines of the daemon's log in memory, so that
// tmemctl log can show them, whoever collects the log otherwise; and sets the level of
// the log while the daemon runs.
//
// tmemd's command line makes a [Journal] and logs through its handler; the admin API
// reads it.
//
// Invariants:
//
//	J1  It holds at most so many lines and bytes: the oldest go. A line that is too
//	    long is cut.
//	J2  A line is in it before it goes to where the log goes otherwise: if that hangs,
//	    the journal says what came last.
//	J3  What is below the level costs nothing.
//
// Lock: mu, for a moment; nothing is called below it. Hot paths do not log, and so do
// not come here.
//
// Not promised: that lines outlive the process, an upgrade among others.
package journal
