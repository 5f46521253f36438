package peer

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// edit returns an alteration of the first reply to such a request, and of no other; page 0 is
// any.
func edit(o wire.Operation, page uint64, f func(reply []byte) []byte) func(wire.Request, []byte) []byte {
	var done atomic.Bool
	return func(r wire.Request, reply []byte) []byte {
		if r.Operation == o && (page == 0 || page == binary.LittleEndian.Uint64(reply[16:])) && !done.Swap(true) {
			return f(slices.Clone(reply))
		}
		return reply
	}
}

func put64(at int, n uint64) func([]byte) []byte {
	return func(b []byte) []byte { binary.LittleEndian.PutUint64(b[at:], n); return b }
}

func put8(at int, n byte) func([]byte) []byte {
	return func(b []byte) []byte { b[at] = n; return b }
}

// again is what comes once more, with another number or without.
func again(more uint64) func([]byte) []byte {
	return func(b []byte) []byte {
		second := slices.Clone(b)
		wire.PutNumber(second, binary.LittleEndian.Uint64(b[8:])+more)
		return append(b, second...)
	}
}

// missing takes a reply away.
func missing([]byte) []byte { return []byte{} }

// P2: a reply that is not the next one due ends the connection, and nothing of it is
// believed; in the next session all is well.
func TestWrongReplies(t *testing.T) {
	for name, test := range map[string]struct {
		operation wire.Operation
		edit      func([]byte) []byte
		page      uint64
	}{
		"get, of the next number":      {wire.Get, func(b []byte) []byte { return again(1)(b)[len(b):] }, 0},
		"get, an earlier number":       {wire.Get, put64(8, 1), 0},
		"get, number 0":                {wire.Get, put64(8, 0), 0},
		"get, no such operation":       {wire.Get, put8(1, 99), 0},
		"get, as if it were a list":    {wire.Get, put8(1, byte(wire.List)), 0},
		"get, a page before":           {wire.Get, put64(16, 4), 0},
		"get, a page too far":          {wire.Get, put64(16, 6), 0},
		"get, the last without end":    {wire.Get, put8(2, 0), 0},
		"get, of generation 0":         {wire.Get, put64(24, 0), 0},
		"get, twice":                   {wire.Get, again(0), 0},
		"get, the first is missing":    {wire.Get, missing, 0},
		"get, no such status":          {wire.Get, put8(0, 77), 0},
		"get, full":                    {wire.Get, func(b []byte) []byte { b = b[:32]; clear(b[4:8]); clear(b[24:]); b[0] = byte(wire.Full); return b }, 0},
		"get, more after the last":     {wire.Get, put8(2, wire.More), 7},
		"get, a page left out":         {wire.Get, missing, 6},
		"get, the end too early":       {wire.Get, put8(2, 0), 6},
		"list, of nothing, and again":  {wire.List, func(b []byte) []byte { clear(b[4:8]); return put64(16, 6)(b[:wire.ReplySize]) }, 0},
		"get, very long":               {wire.Get, put8(6, 255), 0},
		"get, denied":                  {wire.Get, ends(wire.Denied), 0},
		"put, twice":                   {wire.Put, again(0), 0},
		"put, an answer not asked for": {wire.Put, again(100), 0},
		"put, as if it were a flush":   {wire.Put, put8(1, byte(wire.Flush)), 0},
		"put, more follow":             {wire.Put, put8(2, wire.More), 0},
		"put, none":                    {wire.Put, put8(0, byte(wire.None)), 0},
		"put, with a payload":          {wire.Put, func(b []byte) []byte { b[4] = 1; return append(b, 0) }, 0},
		"put, missing":                 {wire.Put, missing, 0},
		"flush, stale":                 {wire.Flush, put8(0, byte(wire.Stale)), 0},
		"destroy, none":                {wire.Destroy, put8(0, byte(wire.None)), 0},
		"destroy, twice":               {wire.Destroy, again(0), 0},
		"pool, gone":                   {wire.Pool, put8(0, byte(wire.Gone)), 0},
		"pool, twice":                  {wire.Pool, again(0), 0},
		"hello, denied by none":        {wire.Hello, put8(0, byte(wire.None)), 0},
		"hello, of another number":     {wire.Hello, put64(8, 2), 0},
		"hello, of another operation":  {wire.Hello, put8(1, byte(wire.Stats)), 0},
		"hello, too short":             {wire.Hello, put8(4, 16), 0},
		"stats, of another number":     {wire.Stats, put64(8, 3), 0},
		"stats, too long":              {wire.Stats, put8(4, 128), 0},
		"list, descending":             {wire.List, put64(32+16, 0), 0},
		"list, before the first":       {wire.List, put64(32, 0), 0},
		"list, goes back":              {wire.List, put64(16, 1), 0},
		"list, stays where it is":      {wire.List, put64(16, 7), 0},
		"list, of generation 0":        {wire.List, put64(32+8, 0), 0},
		"list, no such page":           {wire.List, put64(32+16, 1<<50), 0},
		"list, more than asked for":    {wire.List, func(b []byte) []byte { b[4] += 16; b = append(b, b[len(b)-16:]...); b[len(b)-16]++; return b }, 0},
		"list, half a record":          {wire.List, func(b []byte) []byte { b[4] += 8; return append(b, 0, 0, 0, 0, 0, 0, 0, 0) }, 0},
		"list, of an unlisted status":  {wire.List, put8(0, byte(wire.None)), 0},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDonor(t)
			d.alter = edit(test.operation, test.page, test.edit)
			d.pools[1] = map[uint64]version{}
			for page := uint64(5); page < 15; page++ {
				d.pools[1][page] = version{100 + page, blobOf(page, 100+page, 50)}
			}
			p, w := d.start(t)
			p.OpenPool(1, false)
			up(t, p)
			e := newEnding()
			b := newBasin()
			for fetched, stored, listed := false, false, false; !fetched || !stored || !listed; {
				up(t, p)
				if !stored {
					stored = p.Put(1, 20, 9, []byte{1, 2, 3}, e)
				}
				if !fetched && p.Fetch(1, 5, 3, b) == nil {
					switch _, err := b.wait(t); err {
					case nil:
						if fetched = true; len(b.pages) != 3 {
							t.Errorf("the fetch brings %v", b.pages)
						}
					case ErrDown, ErrDeadline:
						b = newBasin()
					default:
						t.Fatal(err)
					}
				}
				into := make([]wire.Listed, 10)
				if n, next, err := p.List(t.Context(), 1, 6, into); err == nil {
					listed = true
					if n < 9 || next < 15 || into[0] != (wire.Listed{Page: 6, Generation: 106}) {
						t.Errorf("listed %v, %d", into[:n], next)
					}
				}
				p.Flush(1, 500, 1, 1)
				p.Destroy(2)
			}
			e.is(t, wire.OK, nil)
			for page, v := range b.pages {
				if page < 5 || page > 7 || v.generation != 100+page || string(v.blob) != string(blobOf(page, 100+page, 50)) {
					t.Errorf("page %d is of generation %d", page, v.generation)
				}
			}
			eventually(t, "all mutations are answered", func() bool { return p.Stats().Waiting == 0 })
			s := p.Stats()
			if wrong := s.Failures + s.Sessions; wrong < 2 {
				t.Errorf("the session stood: %v, %+v", w.seen(), s)
			}
			if test.operation != wire.Get || name != "get, denied" {
				if s.ProtocolErrors != 1 {
					t.Errorf("%d protocol errors", s.ProtocolErrors)
				}
			}
		})
	}
}

// ends makes a reply one that ends the connection.
func ends(status wire.Status) func([]byte) []byte {
	return func(b []byte) []byte {
		b = b[:wire.ReplySize]
		number := binary.LittleEndian.Uint64(b[8:])
		wire.Reply{Status: status, Operation: wire.Operation(b[1]), Number: number}.Encode(b)
		return b
	}
}
