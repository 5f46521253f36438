package attach

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel has a thread for each connection that reads replies. In Linux up to 6.6 at
// least, it looks up the connection's socket anew for each reply: one that is at work on a
// late reply while its socket is replaced goes on with the new one, beside that one's
// own reader. Both then take pieces of the same stream, and pages get the bytes of others.
// It was seen in a guest on Linux 6.1 that had no processor to spare, after a request
// of more than 30 s: "Wrong magic", and a page whose bytes began 16 too late.
//
// So a socket is replaced only when nothing is left to read on the dead one, and its
// reader has had time to see the end. What is there is the reader's: to take it away
// would leave a hole in the stream, and the same damage.
const (
	// readersPatience is how long replies are left to the readers. One that met an
	// error is gone, and leaves what there was.
	readersPatience = 5 * time.Second
	readersLook     = 5 * time.Millisecond
	// readersGrace is for what a reader does between the last byte and the end:
	// completing one request.
	readersGrace = 200 * time.Millisecond
)

// awaitReaders returns when the kernel's readers of sockets that are shut down should be
// gone.
func awaitReaders(sockets []*os.File, patience time.Duration) {
	for deadline := time.Now().Add(patience); anyUnread(sockets) && time.Now().Before(deadline); {
		time.Sleep(readersLook)
	}
	if len(sockets) > 0 {
		time.Sleep(readersGrace)
	}
}

// anyUnread says whether there is something to be read on one of the sockets.
func anyUnread(sockets []*os.File) bool {
	for _, f := range sockets {
		if n, err := unix.IoctlGetInt(int(f.Fd()), unix.SIOCINQ); err == nil && n > 0 {
			return true
		}
	}
	return false
}
