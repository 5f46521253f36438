package crash

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"

	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
)

const (
	pageSize    = nbdtest.PageSize
	workers     = 4
	workerPages = 768
	exportSize  = workers * workerPages * pageSize
)

// shutDown is NBD's ESHUTDOWN.
const shutDown = nbdtest.Error(108)

// worker writes pages of its own, one request at a time, and knows what each has.
type worker struct {
	random *rand.Rand
	first  int64  // byte of the export at which its pages begin
	pages  []byte // what was acknowledged
	next   []byte // what the request under way makes of it

	// The bytes that a request without an answer may have changed.
	from, to int
	count    uint64
	few      bool        // all pages are of a few contents, so that most of them are shared
	ends     atomic.Bool // it is to work no longer, though the daemon is there
}

func newWorker(n int, seed uint64) *worker {
	return &worker{
		random: rand.New(rand.NewPCG(seed, uint64(n))), first: int64(n) * workerPages * pageSize,
		pages: make([]byte, workerPages*pageSize), next: make([]byte, workerPages*pageSize),
	}
}

// work makes requests until the daemon is gone, or the worker is to end; an error is
// a wrong or a failed answer.
func (w *worker) work(c *nbdtest.Client) error {
	for !w.ends.Load() {
		err := w.step(c)
		var answered nbdtest.Error
		var wrong mismatch
		switch {
		case err == nil:
			w.count++
		case errors.As(err, &answered) && answered == shutDown:
			return nil // it was stopped, and did not wait
		case errors.As(err, &answered), errors.As(err, &wrong):
			return err
		default:
			return nil // the connection is gone, with the daemon
		}
	}
	w.ends.Store(false)
	return errServed
}

// errServed says that a worker was served to its end.
var errServed = errors.New("nobody closed the connection")

type mismatch struct{ error }

// step makes one request.
func (w *worker) step(c *nbdtest.Client) error {
	page := w.random.IntN(workerPages)
	n := min(workerPages-page, 1+w.random.IntN(4)*w.random.IntN(16))
	off, length := page*pageSize, n*pageSize
	switch w.random.IntN(12) {
	case 0: // parts of pages
		off += w.random.IntN(pageSize)
		length = 1 + w.random.IntN(min(len(w.pages)-off, 3*pageSize))
		fallthrough
	case 1, 2, 3, 4, 5:
		return w.change(off, length, func(p []byte) error {
			w.fill(p)
			write := c.WriteAt
			if w.random.IntN(16) == 0 {
				write = c.WriteFUA
			}
			_, err := write(p, w.first+int64(off))
			return err
		})
	case 6, 7:
		return w.change(off, length, func(p []byte) error {
			clear(p)
			return c.Trim(w.first+int64(off), int64(length))
		})
	case 8:
		off += w.random.IntN(pageSize)
		length = 1 + w.random.IntN(min(len(w.pages)-off, 6*pageSize))
		return w.change(off, length, func(p []byte) error {
			clear(p)
			return c.WriteZeroes(w.first+int64(off), int64(length))
		})
	case 9:
		return c.Flush()
	}
	return w.read(c, off, length)
}

// change notes what a request will have changed before it is made.
func (w *worker) change(off, length int, request func(p []byte) error) error {
	w.from, w.to = off, off+length
	copy(w.next[off:off+length], w.pages[off:off+length])
	err := request(w.next[off : off+length])
	var answered nbdtest.Error
	if err != nil && !errors.As(err, &answered) {
		return err // it may have been done
	}
	if err == nil {
		copy(w.pages[off:], w.next[off:off+length])
	}
	w.from, w.to = 0, 0
	return err
}

// fill makes new content: text, records, noise, or one value throughout.
func (w *worker) fill(p []byte) {
	seed := w.random.Uint64()
	for len(p) > 0 {
		n := min(len(p), pageSize)
		switch {
		case w.few:
			copy(p[:n], nbdtest.Page(seed%8, 1))
		case seed%5 == 4:
			for i := range n {
				p[i] = byte(seed>>8) + byte(i&3)
			}
		default:
			copy(p[:n], nbdtest.Page(seed, seed%5+w.random.Uint64()%2))
			if n >= 16 {
				binary.LittleEndian.PutUint64(p[8:], w.random.Uint64())
			}
		}
		p, seed = p[n:], seed+1
	}
}

func (w *worker) read(c *nbdtest.Client, off, length int) error {
	got := make([]byte, length)
	if _, err := c.ReadAt(got, w.first+int64(off)); err != nil {
		return err
	}
	if !bytes.Equal(got, w.pages[off:off+length]) {
		return mismatch{fmt.Errorf("pages from byte %d on are not what was acknowledged", w.first+int64(off))}
	}
	return nil
}

// verify reads everything (K1).
func (w *worker) verify(c *nbdtest.Client) error {
	const piece = 64 * pageSize
	got := make([]byte, piece)
	for off := 0; off < len(w.pages); off += piece {
		if _, err := c.ReadAt(got, w.first+int64(off)); err != nil {
			return fmt.Errorf("read at byte %d: %w", w.first+int64(off), err)
		}
		for at := off; at < off+piece; at += pageSize {
			if err := w.settle(at, got[at-off:][:pageSize]); err != nil {
				return err
			}
		}
	}
	w.from, w.to = 0, 0
	return nil
}

// settle compares one page, and takes it for what it is from now on.
func (w *worker) settle(at int, got []byte) error {
	known := w.pages[at:][:pageSize]
	if bytes.Equal(got, known) {
		return nil
	}
	from, to := max(w.from, at), min(w.to, at+pageSize)
	if from < to {
		maybe := bytes.Clone(known)
		copy(maybe[from-at:], w.next[from:to])
		if bytes.Equal(got, maybe) {
			copy(known, got)
			return nil
		}
	}
	first := 0
	for got[first] == known[first] {
		first++
	}
	return fmt.Errorf("page %d has neither what was acknowledged nor what was under way, from byte %d on: % x, want % x",
		(w.first+int64(at))/pageSize, first, got[first:min(first+16, pageSize)], known[first:min(first+16, pageSize)])
}
