package peer

import (
	"errors"
	"time"
)

const (
	// maxStrikes opens the breaker.
	maxStrikes = 3
	// statsEvery is how often the donor is asked how much room it has, and
	// statsPause how long it is left alone when it wants pages back.
	statsEvery = time.Second
	statsPause = 50 * time.Millisecond
	// maxExpired is how many late fetches are ended at a time.
	maxExpired = 64
)

var errStruckOut = errors.New("the donor missed too many deadlines in a row")

// look ends fetches that are late, counts strikes and asks for STATS when it is
// time. It returns when to look again: nothing can be late before that.
func (p *Peer) look() (again time.Duration) {
	for {
		var expired [maxExpired]Sink
		p.mu.Lock()
		now := p.now()
		n, late, next := p.expire(now, expired[:])
		if p.due.len() > 0 {
			if stalled := p.progress() + p.config.Deadline; stalled <= now {
				late = true
			} else {
				next = min(next, stalled)
			}
		}
		if late && (p.strikes == 0 || now-p.struckAt >= p.config.Deadline) {
			p.strikes++
			p.struckAt = now
			p.stats.Strikes++
		}
		if late {
			next = min(next, p.struckAt+p.config.Deadline)
		}
		if now-p.askedAt >= statsEvery {
			p.ask(now)
		}
		if p.asking == notAsked {
			next = min(next, p.askedAt+statsEvery)
		}
		out := p.strikes >= maxStrikes
		p.mu.Unlock()

		for _, sink := range expired[:n] {
			sink.Ended(ErrDeadline)
		}
		if out {
			p.fail(errStruckOut)
		}
		if n < len(expired) {
			return next - now
		}
	}
}

// expire ends fetches that are late, with mu, and returns whom to tell, and when
// the next one will be.
func (p *Peer) expire(now time.Duration, expired []Sink) (n int, late bool, next time.Duration) {
	next = now + p.config.Deadline
	for i := p.fetches.head; i < p.fetches.tail && n < len(expired); i++ {
		f := p.fetches.at(i)
		if f.sink == nil || f.late {
			continue
		}
		if end := f.issued + p.config.Deadline; end > now {
			next = min(next, end)
			break // they are as old as they stand, or nearly
		}
		late = true
		p.stats.Missed++
		if i == p.fetches.head && p.delivering {
			f.late = true // the reader ends it: P1
			continue
		}
		expired[n], f.sink = f.sink, nil
		n++
	}
	return n, late, next
}

// progress is since when the next reply is waited for, with mu; one is due.
func (p *Peer) progress() time.Duration { return max(p.due.first().sent, p.answeredAt) }

// ask has STATS sent, with mu, unless that is under way or was a moment ago.
func (p *Peer) ask(now time.Duration) {
	if p.asking == notAsked && now-p.askedAt >= statsPause {
		p.asking = toAsk
		p.wakeWriter()
	}
}
