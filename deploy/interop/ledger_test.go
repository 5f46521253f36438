//go:build interop

package interop

import (
	"bytes"
	"errors"
	"fmt"
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
func (l *ledger) check(c *client, number uint64) error {
	got := make([]byte, pageSize)
	if err := c.read(got, int64(number)*pageSize); err != nil {
		return fmt.Errorf("read page %d: %w", number, err)
	}
	round, known := l.rounds[number]
	if known && bytes.Equal(got, page(number, round)) {
		return nil
	}
	if newer, unsure := l.doubtful[number]; unsure && bytes.Equal(got, page(number, newer)) {
		return nil
	}
	return fmt.Errorf("page %d is not what was acknowledged last, round %d (known: %v): it begins with % x",
		number, round, known, got[:32])
}

// checkAll reads every page back that was ever acknowledged.
func (l *ledger) checkAll(t *testing.T, c *client) {
	t.Helper()
	if len(l.rounds) == 0 {
		t.Fatal("nothing was acknowledged: this checks nothing")
	}
	for _, number := range slices.Sorted(maps.Keys(l.rounds)) {
		if err := l.check(c, number); err != nil {
			t.Fatal(err)
		}
	}
}

// churn is a client that goes on writing and reading in the background.
type churn struct {
	ledger *ledger
	quit   chan struct{}
	ended  chan error
}

// startChurn writes the pages from first to before last over and over, and
// reads one back after each. Nobody else writes them.
func startChurn(c *client, first, last uint64) *churn {
	u := &churn{ledger: newLedger(), quit: make(chan struct{}), ended: make(chan error, 1)}
	go func() { u.ended <- u.run(c, first, last) }()
	return u
}

func (u *churn) run(c *client, first, last uint64) error {
	for i := uint64(0); ; i++ {
		select {
		case <-u.quit:
			return nil
		default:
		}
		// A stride that has no factor with the length visits every page.
		number := first + i*7919%(last-first)
		if err := u.ledger.write(c, number); err != nil {
			return fmt.Errorf("write page %d: %w", number, err)
		}
		if err := u.ledger.check(c, first+i/2*7919%(last-first)); err != nil {
			return err
		}
	}
}

// stop ends it and returns what it wrote.
func (u *churn) stop(t *testing.T) *ledger {
	t.Helper()
	close(u.quit)
	if err := <-u.ended; err != nil {
		t.Fatalf("a client in the background: %v", err)
	}
	return u.ledger
}
