// Package nbd serves block devices over the NBD protocol: fixed newstyle
// negotiation, simple and structured replies and extended headers, over Unix
// sockets and TCP, in the clear or with TLS, made for many page-sized requests.
//
// The command calls it with listeners and devices, metrics reads [Server.Stats].
// It knows nothing of pages, tiers or backends: what an export does is its
// [Device]'s business. The protocol is that of the NBD project's doc/proto.md;
// the limits that it leaves to servers are constants and [Config] fields here.
//
// # A connection
//
//	state         entered by                    left by                         costs
//	handshake     accept; TLS handshake done    GO, EXPORT_NAME; STARTTLS;      a few KiB, 30 more
//	                                            ABORT, error, 32 options in     once encrypted
//	                                            all, HandshakeTimeout
//	TLS handshake STARTTLS                      done (back to handshake);       up to 192 KiB: crypto/tls
//	                                            error, 32 KiB read, the same    with 32 KiB of input
//	                                            HandshakeTimeout
//	transmission  GO, EXPORT_NAME               DISC, end of stream, bad magic  two mapped buffers of
//	                                            or length, broken socket        2 MiB, untouched until used;
//	                                                                            TLS: twice 66 KiB of heap
//	finishing     any of these                  last handed-over request done   the same
//	gone          socket closed, counters       –                               nothing
//	              added to the export's
//
// # Framings
//
// Linux speaks simple replies. A client that asks for structured replies or
// extended headers (framing.go) gets reads in chunks, with whole pages of zeros
// told as holes (chunks.go), and may ask BLOCK_STATUS (blockstatus.go) for
//
//	base:allocation      of the protocol: 3 for a hole that reads as zeros, else 0
//	Config.OwnerContext  the number that Device.Extents gives for who has the bytes
//
// Extended headers follow the draft of the protocol's extension-ext-header
// branch. CACHE is Device.Prefetch; FAST_ZERO is always kept where it is offered.
//
// # The request path
//
// The connection's goroutine reads all requests that the socket holds with one
// system call. What Device.TryReadAt and Device.TryWriteAt can do is done in
// place, reads straight into the reply buffer, and all replies are written with
// one system call. Everything else (a refused Try, FLUSH, TRIM, CACHE, WRITE_ZEROES,
// BLOCK_STATUS, a WRITE with FUA) is a job: it goes to one of the server's workers, and its
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
// # Who gets in
//
// A client is known by the certificate that it showed over TLS, and on a Unix
// socket by what the kernel says of the process at its other end. [Access] of an
// export names either. crypto/tls has no pre-shared keys, so there are none here.
//
// Of TLS crypto/tls does the protocol, and this package the batches: see
// package tlsstream. The mode Required spares Unix sockets.
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
//	N9  Nothing that came in the clear counts once a connection is encrypted: the
//	    handshake reads no byte before it wants it, and startTLS forgets all state.
//	N10 Each way to an export goes through Server.resolve or attach, which ask for
//	    its Access. A client cannot tell an export that it may not open from one
//	    that there is not.
//	N11 A connection is served with the size that it was told. ResizeExport makes
//	    an export smaller only while it has no client.
//	N12 When OptionSession is acknowledged, no request of an older connection of
//	    the session is carried out any more.
//	N13 An export that is closed (CloseExport, CutExport, Export.Refusal) has no client, and
//	    nobody becomes one; who may open it is told why by INFO and GO.
//
// # Locks
//
//	Server.mu                 books: exports, connections, listeners. Never held over I/O
//	                          other than closing a socket or setting its deadline.
//	bufferPool.mu             never held over a system call.
//	connection.writing        held over socket writes.
//	tlsstream's lock          held over the socket writes of an encrypted connection.
//	limitedLog.mu
//
// None is taken while another is held, but limitedLog's under Server.mu and
// tlsstream's under connection.writing (with crypto/tls' own between).
//
// # Not promised
//
// No order between requests in flight: a client that wants one waits for the
// reply, as the protocol says. No fairness between clients beyond what the
// limits give. No deadline between requests: a client may be slow for ever, and
// costs its socket, its goroutines and what it borrowed until others want it.
// BLOCK_STATUS tells at most 1,000 extents and 4 GiB at a time, and a filter in
// its payload is refused: the protocol lets clients ask again.
// TLS over TCP or Unix sockets is no way to the swap of the server's own host: it
// needs memory when there is none. How long crypto/tls and signatures keep a
// processor busy is bounded by MaxHandshakes only.
package nbd
