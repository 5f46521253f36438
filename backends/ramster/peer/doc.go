// Package peer is the owner's side of the session with one donor of memory: it
// keeps a connection, sends requests, matches replies, and says when the donor is
// not to be counted on. PROTOCOL.md in the folder above is the protocol.
//
// The ramster backend makes one [Peer] for each donor, and nobody else calls it.
// It decides what is put where, seals what it puts, and opens what it fetches: a
// Peer knows neither keys nor pages, and believes nothing that it carries.
//
// # States
//
//	state      entered by                           Put, Fetch, List  Flush, Destroy, OpenPool
//	Connecting New                                  refused           kept, sent when Up
//	Up         HELLO and STATS were answered in     taken             taken
//	           time, and Watcher.Up returned nil
//	Open       the first attempt failed, the        refused           kept, sent when Up
//	           connection ended, a reply broke the
//	           protocol, or three strikes
//	Closed     Close                                refused           refused
//
// Open is the circuit breaker's word. A strike is a period of Config.Deadline in
// which a fetch was late or nothing at all was answered although something was due;
// a request that is answered in time takes all strikes back. So three requests that
// are late at one moment are one strike: a donor that was paused once is kept, and one
// that is gone is left after three deadlines. The first new connection is tried at
// once, later ones after 100 ms, doubling to 5 s; after a refusal (HELLO is
// answered by DENIED or VERSION, or Watcher.Up by an error) each 30 s. An idle donor is asked for STATS each second, so its death is
// noticed without a request.
//
// A Watcher sees of this
//
//	Up, returns nil ──▸ Changed, at any time ──▸ Down ──▸ Up …
//	Up, returns an error ──▸ Up …
//
// all from one goroutine. Up comes before anything but HELLO and STATS is sent in
// the session, and before State is Up; a first Changed comes when it is. Down comes
// after the fetches of the session have ended.
//
// # Mutations
//
// Put, Flush, FlushObject, Destroy and OpenPool are copied into the backlog, are sent
// in this order, and stay until they are answered. A new session sends again what was
// not, after the pools; generations make that harmless. Answers that end the
// connection (BAD) are answers: such a mutation is not sent again.
//
// Each session makes all open pools first, but those that are made or destroyed by a
// mutation that still waits.
//
// # Invariants
//
//	P1  Done is called once for each Put that returned true, Ended once for each
//	    Fetch that returned nil, with no Page after it. None of them is called from
//	    within a method of Peer, nor with its lock held.
//	P2  A reply counts only if it is the next one due: its number, operation and status, the
//	    page, More, and the number of records. Anything else is a protocol error, which
//	    is counted and ends the connection.
//	P3  No fetch waits longer than Config.Deadline, whatever the donor does. Its reply, if it
//	    comes later, is read and dropped.
//	P4  In one session mutations are sent in the order of the calls, each once. Numbers are
//	    given in the order of sending, from 1.
//	P5  Memory is claimed in New: the backlog and one buffer for each direction, outside the
//	    Go heap, and fixed rings on it. What comes from the donor is never allocated for.
//	P6  Put, Fetch and what they end with allocate nothing and never wait for the network.
//	P7  After Abandon returned, no put from before is sent that was not sent already.
//	P8  Close ends all goroutines.
//
// # Goroutines and locks
//
//	keeper  connects, watches deadlines, calls the Watcher; New to Close
//	writer  sends; one session            reader  receives, calls Sink and Completion; one session
//
// and one for each Abandon, until its calls are made. There is one lock, Peer.mu. It is held for
// short critical sections, the longest of which copies a batch of 64 KiB, and never over
// I/O or a call to Watcher, Sink, Completion, Dial or Session. Those may call any
// method of Peer but Close. They must not block: while a Sink blocks, nothing is received.
//
// # TLS
//
// Over crypto/tls a Read returns one record, a Write makes a system call for each of
// 16 KiB, and its buffers come from the heap. With replies of 1,600 bytes that is one
// system call for ten pages, so nothing is done about it here. Dial should set
// tls.Config.DynamicRecordSizingDisabled: the first 128 KiB of a connection go in records
// of about 1 KiB otherwise.
//
// # Not promised
//
// That what a donor acknowledged is there, or that what it says is true. Order between a
// Fetch and mutations: fetches overtake those that wait. That a put which was abandoned
// did not arrive: List tells. Fairness between pools.
package peer
