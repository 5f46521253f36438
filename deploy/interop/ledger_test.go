//go:build interop

package interop

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"syscall"
	"testing"
)

// ledger knows what one client wrote and what was acknowledged.
type ledger struct {
	rounds   map[uint64]uint64 // by page: the newest round that was acknowledged
	doubtful map[uint64]uint64 // by page: a newer round that nobody answered
	round    uint64            // the newest that was tried
}

func newLedger() *ledger {
	return &ledger{rounds: map[uint64]uint64{}, doubtful: map[uint64]uint64{}}
}

// write gives a page new content. An error that the server answered leaves the
// page as it was; without an answer it may have either content from then on.
func (l *ledger) write(c *client, number uint64) error {
	l.round++
	return l.writeRound(c, number, l.round)
}

func (l *ledger) writeRound(c *client, number, round uint64) error {
	err := c.write(page(number, round), int64(number)*pageSize)
	var errno syscall.Errno
	switch {
	case err == nil:
		l.rounds[number] = round
		delete(l.doubtful, number)
	case !errors.As(err, &errno):
		l.doubtful[number] = round
	}
	return err
}

// fill writes the pages from first to before last.
func (l *ledger) fill(t *testing.T, c *client, first, last uint64) {
	t.Helper()
	for number := first; number < last; number++ {
		if err := l.write(c, number); err != nil {
			t.Fatalf("write page %d: %v", number, err)
		}
	}
}

// check reads one page back.
func (l *ledger) check(t *testing.T, c *client, number uint64) {
	t.Helper()
	got := make([]byte, pageSize)
	if err := c.read(got, int64(number)*pageSize); err != nil {
		t.Fatalf("read page %d: %v", number, err)
	}
	if bytes.Equal(got, page(number, l.rounds[number])) {
		return
	}
	if round, unsure := l.doubtful[number]; unsure && bytes.Equal(got, page(number, round)) {
		return
	}
	t.Fatalf("page %d is not what was acknowledged last, round %d: it begins with % x", number, l.rounds[number], got[:32])
}

// checkAll reads every page back that was ever acknowledged.
func (l *ledger) checkAll(t *testing.T, c *client) {
	t.Helper()
	if len(l.rounds) == 0 {
		t.Fatal("nothing was acknowledged: this checks nothing")
	}
	for _, number := range slices.Sorted(maps.Keys(l.rounds)) {
		l.check(t, c, number)
	}
}
