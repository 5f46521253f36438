package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// crawlDepth is how many reads of MaxLength a crawling client has outstanding:
// more than a socket and a server's buffers hold.
const crawlDepth = 64

// Crawl is a client that asks for much and takes its time: it has reads of all of
// the export outstanding and receives size bytes after each pause, until ctx
// ends. It returns the bytes received, which are not looked at. The connection is
// of no use afterwards.
func (c *Conn) Crawl(ctx context.Context, size int, pause time.Duration) (received int64, err error) {
	if c.Size() < MaxLength || size < 1 || size > len(c.in) {
		return 0, fmt.Errorf("crawl: export of %d bytes, %d at a time", c.Size(), size)
	}
	tick := time.NewTicker(pause)
	defer tick.Stop()
	asked := int64(0)
	for {
		for asked-received/(replySize+MaxLength) < crawlDepth && len(c.out)-c.queued >= requestSize {
			offset := asked % (c.Size() / MaxLength) * MaxLength
			putRequest(c.out[c.queued:], Read, uint64(asked), uint64(offset), MaxLength)
			c.queued += requestSize
			asked++
		}
		if err := c.send(); err != nil {
			return received, fmt.Errorf("crawl: %w", err)
		}
		n, _, err := unix.Recvfrom(c.fd, c.in[:size], unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		case err != nil:
			return received, fmt.Errorf("crawl: receive replies: %w", err)
		case n == 0:
			return received, fmt.Errorf("crawl: receive replies: %w", io.ErrUnexpectedEOF)
		default:
			received += int64(n)
		}
		select {
		case <-ctx.Done():
			return received, nil
		case <-tick.C:
		}
	}
}
