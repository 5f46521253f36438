// Package nbd serves block devices over the NBD protocol: fixed newstyle
// negotiation and simple replies, over Unix sockets and TCP, made for many
// page-sized requests.
//
// The command calls it with listeners and devices, metrics reads [Server.Stats].
// It knows nothing of pages, tiers or backends: what an export does is its
// [Device]'s business. The protocol is that of the NBD project's doc/proto.md;
// the limits that it leaves to servers are constants and [Config] fields here.
//
// # A connection
//
//	state         entered by                    left by                         costs
//	handshake     accept                        GO, EXPORT_NAME; ABORT, error,  a few KiB
//	                                            HandshakeTimeout, 32 options
//	transmission  GO, EXPORT_NAME               DISC, end of stream, bad magic  two mapped buffers of
//	                                            or length, broken socket        2 MiB, untouched until used
//	finishing     any of these                  last handed-over request done   the same
//	gone          socket closed, counters       –                               nothing
//	              added to the export's
//
// # The request path
//
// The connection's goroutine reads all requests that the socket holds with one
// system call. What Device.TryReadAt and Device.TryWriteAt can do is done in
// place, reads straight into the reply buffer, and all replies are written with
// one system call. Everything else (a refused Try, FLUSH, TRIM, WRITE_ZEROES, a
// WRITE with FUA) is a job: it goes to one of the server's workers, and its
// reply through the connection's writer, in any order.
//
// A connection never waits for what another one holds, with one exception. If
// no worker is idle, or the pool has no buffer, it serves the request itself and
// waits for its own device only. The exception is a request over 2 MiB, which
// waits for its turn at the pool; a client that holds the pool and does not move
// is cut after StallTimeout.
//
// With TouchBuffers, for the swap of the server's own host, the pool lends what it
// mapped at the start, and what is asked for beyond that is served in place: a
// request never maps memory.
//
// # Invariants
//
//	N1  A device sees a WRITE only when all of its payload is here.
//	N2  A reply's header says success only when its data is complete. Header and
//	    data are one write under the connection's writing lock.
//	N3  Replies that are due are written before the goroutine that holds them
//	    waits for the socket, a job, memory or a device.
//	N4  Workers never wait for a client: both channels of a connection hold all
//	    of its jobs.
//	N5  Borrowed memory is at most BufferBytes, and one connection's part of it
//	    at most a quarter (but one largest request); it goes back before the job
//	    that used it is idle. No length from the wire is allocated beyond that.
//	N6  An error or panic of a device costs the request, never the connection. A
//	    panic of the server costs its connection, never the process.
//	N7  In the steady state a request served in place allocates nothing and
//	    takes no lock that another connection takes.
//	N8  A request's errno is decided in export.check and errnoOf, nowhere else.
//	N9  When OptionSession is acknowledged, no request of an older connection of
//	    the session is carried out any more.
//
// # Locks
//
//	Server.mu                 books: exports, connections, listeners. Never held over I/O
//	                          other than closing a socket or setting its deadline.
//	bufferPool.mu             never held over a system call.
//	connection.writing        held over socket writes.
//	limitedLog.mu
//
// None is taken while another is held, but limitedLog's under Server.mu.
//
// # Not promised
//
// No order between requests in flight: a client that wants one waits for the
// reply, as the protocol says. No fairness between clients beyond what the
// limits give. No deadline between requests: a client may be slow for ever, and
// costs its socket, its goroutines and what it borrowed until others want it.
// TLS, structured replies, block status and extended headers are not spoken.
package nbd
