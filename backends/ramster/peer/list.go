package peer

import (
	"context"
	"fmt"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// list is the one List that is under way. Guarded by Peer.mu.
type list struct {
	state   listState
	request wire.Request
	into    []wire.Listed
	orphan  bool // its caller is gone
	n       int
	next    uint64
	err     error
}

type listState uint8

const (
	listNone listState = iota
	listWaits
	listSent
	listDone
)

// List says which pages the donor says it has, with their generations, from a page
// on; next is where to go on, wire.MaxPages at the end. It waits for the answer.
func (p *Peer) List(ctx context.Context, pool uint32, from uint64, into []wire.Listed) (n int, next uint64, err error) {
	if from >= wire.MaxPages || len(into) == 0 {
		return 0, from, fmt.Errorf("list %d pages from page %d on: %w", len(into), from, wire.ErrBounds)
	}
	select {
	case p.listing <- struct{}{}:
	case <-ctx.Done():
		return 0, from, ctx.Err()
	}
	p.mu.Lock()
	if p.State() != Up {
		p.mu.Unlock()
		<-p.listing
		return 0, from, ErrDown
	}
	into = into[:min(len(into), wire.MaxList)]
	p.list = list{state: listWaits, into: into, request: wire.Request{Operation: wire.List, Pool: pool, Page: from, Count: uint16(len(into))}}
	p.wakeWriter()
	p.mu.Unlock()

	select {
	case <-p.listed:
	case <-ctx.Done():
		p.mu.Lock()
		if p.list.state == listSent { // whoever ends it lets the next one begin
			p.list.orphan, p.list.into = true, nil
			p.mu.Unlock()
			return 0, from, ctx.Err()
		}
		if p.list.state == listDone {
			<-p.listed
		}
		p.list = list{}
		p.mu.Unlock()
		<-p.listing
		return 0, from, ctx.Err()
	}
	p.mu.Lock()
	n, next, err = p.list.n, p.list.next, p.list.err
	p.list = list{}
	p.mu.Unlock()
	<-p.listing
	if err != nil {
		return 0, from, fmt.Errorf("list pool %d: %w", pool, err)
	}
	return n, next, nil
}

// expected says whether what came can be the answer: so many pages, ascending, and a
// place to go on that is beyond them.
func (l *list) expected(r wire.Reply, payload []byte) bool {
	if len(payload) > int(l.request.Count)*wire.ListedSize {
		return false
	}
	least := l.request.Page
	for ; len(payload) > 0; payload = payload[wire.ListedSize:] {
		one := wire.DecodeListed(payload)
		if one.Page < least || one.Page >= wire.MaxPages || one.Generation == 0 {
			return false
		}
		least = one.Page + 1
	}
	return r.Page >= max(least, l.request.Page+1)
}

// answer takes the answer, which is as expected.
func (l *list) answer(r wire.Reply, payload []byte) {
	if r.Status != wire.OK {
		l.err = fmt.Errorf("the donor answers %v", r.Status)
		return
	}
	l.next = r.Page
	if l.orphan {
		return
	}
	for ; len(payload) > 0; payload = payload[wire.ListedSize:] {
		l.into[l.n] = wire.DecodeListed(payload)
		l.n++
	}
}

// endList tells who waits for the list, with mu.
func (p *Peer) endList() {
	if p.list.orphan {
		p.list = list{}
		<-p.listing
		return
	}
	p.list.state = listDone
	p.listed <- struct{}{}
}

// breakList ends the list of a session that ends, with mu.
func (p *Peer) breakList() {
	if p.list.state == listWaits || p.list.state == listSent {
		p.list.err = ErrDown
		p.endList()
	}
}
