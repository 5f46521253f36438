// Package mover moves an export to another NBD server while clients use it: it copies
// every page, then what changed meanwhile, round by round, until what is left can be
// copied in a moment for which requests are held back. The daemon calls [Run] with the log
// of a device, and says what it takes to commit.
//
// The other side is a plain NBD server with an export of the same size, of which nobody
// makes use yet; [Connect] is the client's side of that, and needs WRITE, WRITE_ZEROES and
// FLUSH. What the target had is overwritten.
//
// # States
//
//	state     requests here  left by
//	copying   served         a round ended with less to do than fits into the pause; error
//	pausing   held back      all is copied and flushed (committed); it took too long (copying,
//	                         MaxTries times); error
//	done      never again    –
//	failed    served         –
//
// # Invariants
//
//	W1  Commit is called only when every page that a client was told of is on the target,
//	    and the target has answered a FLUSH which was sent after all of them. Requests are
//	    held back since before the last page was read.
//	W2  Whatever happens before Commit has returned nil, requests go on, and the source is
//	    what it was.
//	W3  Requests are held back for MaxPause and what Commit takes, at most: what is on its
//	    way to the target then is waited for after they go on.
//	W4  A page is never on its way to the target twice: each round waits for its replies
//	    before the next one begins.
//	W5  If clients change pages faster than they are copied it fails, and says how fast both
//	    are.
//
// # Not promised
//
// That the target is used by nobody, or empty: NBD has no way to say. That clients find the
// new place by themselves: they are told where it is when they connect again.
package mover
