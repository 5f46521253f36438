package nbd

import (
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
)

// errPanic is what a request fails with, as an I/O error, when the device
// panicked over it.
var errPanic = errors.New("device panicked")

// guardedDevice calls a Device and turns its panics into errors (N6). The
// request pays with EIO; the connection, and the host's swap behind it, go on.
// Each call costs a deferred function, about 2 ns.
type guardedDevice struct {
	device Device
	log    *limitedLog
	panics *atomic.Uint64
}

// recovered must be deferred itself, or recover finds nothing.
func (g *guardedDevice) recovered(err *error) {
	if r := recover(); r != nil {
		g.panics.Add(1)
		g.log.error("device panicked", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
		*err = errPanic
	}
}

func (g *guardedDevice) tryReadAt(p []byte, offset int64) (done bool, err error) {
	defer g.recovered(&err)
	return g.device.TryReadAt(p, offset), nil
}

func (g *guardedDevice) tryWriteAt(p []byte, offset int64) (n int, err error) {
	defer g.recovered(&err)
	n = g.device.TryWriteAt(p, offset)
	if n < 0 || n > len(p) {
		return 0, fmt.Errorf("device stored %d bytes of %d", n, len(p))
	}
	return n, nil
}

// perform does what the request asks for, waiting as long as the device takes.
// data is the destination of a read, or what is left of a write's payload (its
// end: what TryWriteAt stored is gone from its start), room for the reply to a
// BLOCK_STATUS, of which n bytes are used then, and else empty.
func (g *guardedDevice) perform(f framing, chosen contexts, q request, data []byte) (n int, err error) {
	defer g.recovered(&err)
	offset, length := int64(q.offset), int64(q.length)
	switch q.wire {
	case wireRead:
		n, err := g.device.ReadAt(data, offset)
		return 0, whole(n, len(data), err)
	case wireBlockStatus:
		return f.blockStatus(g.device, chosen, q, data)
	case wireWrite:
		n, e := g.device.WriteAt(data, offset+length-int64(len(data)))
		err = whole(n, len(data), e)
	case wireFlush:
		return 0, g.device.Sync()
	case wireCache:
		return 0, g.device.Prefetch(offset, length)
	case wireTrim:
		err = g.device.Trim(offset, length)
	case wireWriteZeroes:
		err = g.device.WriteZeroes(offset, length, q.flags&commandNoHole == 0)
	default:
		return 0, errors.ErrUnsupported
	}
	if err != nil || q.flags&commandFUA == 0 {
		return 0, err
	}
	return 0, g.device.Sync()
}

// whole holds a device to its contract: a short transfer without an error would
// be sent to the client as data that nobody read.
func whole(n, want int, err error) error {
	if err == nil && n != want {
		return fmt.Errorf("device transferred %d bytes of %d", n, want)
	}
	return err
}
