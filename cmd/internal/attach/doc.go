// Package attach makes an export this machine's swap by way of the kernel's own
// NBD driver, and looks after it: the server may die and come back, here or on
// another host, and no request fails meanwhile.
//
// tmemctl attach calls [Attach], [Listen] and [Attachment.Run]; tmemctl detach
// calls [Detach]; tmemctl doctor reads [Records] and [SwapAreas].
//
// Stock nbd-client 3.24 configures no dead-connection timeout and never hands the
// kernel a new connection: when its server goes away, each page that is on the
// device becomes a SIGBUS.
//
// # What the kernel does (drivers/block/nbd.c), and what follows
//
//   - A connection dies when its socket fails, or when a request is older than the
//     device's timeout (30 s if it was told 0). The kernel then shuts the socket
//     down in both directions and multicasts LINK_DEAD. The message takes memory,
//     which a machine that swaps may not have; so the agent looks at its own hold
//     on the sockets, too, where the shutdown shows as a hangup.
//
//   - Requests that were sent on a dead connection are sent again when they are as
//     old as the timeout, not before; new ones wait for a connection. After the
//     dead-connection timeout without any, all of them fail.
//
//   - RECONFIGURE gives a new socket to a dead connection, and drops the socket
//     without a word if there is none. A socket that was taken has the device's
//     timeout as its own timeout for sending (SO_SNDTIMEO): that is the receipt.
//
//   - Up to 6.6 at least, the thread that reads a connection's replies can go on with the
//     socket that replaces it: see reader.go.
//
// # States
//
//	phase         entered by                         left by
//	attached      swapon; new connections; a         a dead connection; SIGTERM
//	              swapoff that failed
//	reconnecting  a dead connection                  new connections; the device's end
//	detaching     SIGTERM (dead connections are      swapoff's end: then disconnect and
//	              replaced meanwhile)                gone, or attached again
//
// # Invariants
//
//	T1  The kernel is never handed a connection to a server that has fewer bytes
//	    than the device was made with, lacks one of its flags, is read-only if
//	    the device is not, or has another identity. An export that grew, or a
//	    server that can do more, is accepted: the kernel keeps what it was told.
//	T2  Connections are replaced all together, after the server has ended every
//	    older one (nbd.OptionSession): no request that is late can undo a newer
//	    write. The server says in the handshake whether it knows that. Which is
//	    older is said by a generation that grows even if the clock is set back;
//	    the record has it before the server does, for the agent that takes over.
//	T3  A device with pages on it is never disconnected: only after swapoff; nor one that
//	    is mounted.
//	T4  There is one agent for each device, by a lock in the folder of records. The
//	    next one takes over from one that died. Nobody else is sent a signal: a
//	    record names its agent by number and start.
//	T5  An Attach that fails leaves the machine as it was; content that is no swap
//	    area is never overwritten unless asked. The swap area of an export that
//	    grew is made to use it all if nothing is behind it, and used as it is
//	    otherwise. An export that says it is a disk is made no swap of at all; it is
//	    attached without, if that is asked for, and looked after alike.
//	T6  After Attach nothing needs a name to be looked up, a program to be started
//	    or a file on a disk.
//
// # Locks
//
// None: an Attachment belongs to the goroutine that calls Run. Of the two others
// one only listens, the other is in swapoff.
//
// # Not promised
//
// That a reader of the kernel's is gone before its socket is replaced: it is given
// time, and nothing says that it is. Requests that were on their way when a connection died take up to the timeout
// longer. Connections that die in the same moment in which the kernel sends a
// request again on another one that is alive are not told apart (T2 holds from
// the moment in which the agent has shut the others down). A server of another
// make gets T1 by what it says of itself, and T2 only if it knows the option.
// TLS: the kernel does not speak it.
package attach
