package peer

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// blobOf is what the tests store.
func blobOf(page, generation uint64, length int) []byte {
	text := fmt.Append(nil, page, ".", generation, " ")
	return bytes.Repeat(text, length/len(text)+1)[:length]
}

func TestConversation(t *testing.T) {
	d := newDonor(t)
	p, w := d.start(t)
	if !p.OpenPool(3, false) {
		t.Fatal("no pool")
	}
	up(t, p)
	if w.party != d.party {
		t.Errorf("up came with %v", w.party)
	}
	var puts []*ending
	for page := range uint64(20) {
		if page%5 == 4 {
			continue
		}
		e := newEnding()
		if !p.Put(3, page, page+1, blobOf(page, page+1, int(100+page*200)), e) {
			t.Fatal("no room")
		}
		puts = append(puts, e)
	}
	for _, e := range puts {
		e.is(t, wire.OK, nil)
	}
	stale := newEnding()
	p.Put(3, 8, 2, []byte{1}, stale)
	stale.is(t, wire.Stale, nil)
	gone := newEnding()
	p.Put(4, 8, 2, []byte{1}, gone)
	gone.is(t, wire.Gone, nil)

	b := newBasin()
	if err := p.Fetch(3, 2, 20, b); err != nil {
		t.Fatal(err)
	}
	pages, err := b.wait(t)
	if err != nil || len(pages) != 14 {
		t.Fatalf("%d pages came, %v", len(pages), err)
	}
	for page, v := range pages {
		if v.generation != page+1 || !bytes.Equal(v.blob, blobOf(page, page+1, int(100+page*200))) {
			t.Errorf("page %d came as generation %d", page, v.generation)
		}
	}

	var listed []uint64
	for from := uint64(0); from < wire.MaxPages; {
		into := make([]wire.Listed, 3)
		n, next, err := p.List(t.Context(), 3, from, into)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range into[:n] {
			listed = append(listed, l.Page)
		}
		from = next
	}
	if want := []uint64{0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 18}; !slices.Equal(listed, want) {
		t.Errorf("the list has %v", listed)
	}

	if !p.Flush(3, 0, 10, 4) || !p.FlushObject(3, 0, 10) || !p.Destroy(9) {
		t.Error("no room for flushes")
	}
	eventually(t, "all is answered", func() bool { return p.Stats().Waiting == 0 })
	into := make([]wire.Listed, 20)
	if n, next, err := p.List(t.Context(), 3, 0, into); err != nil || n != 8 || into[0].Page != 10 || next != wire.MaxPages {
		t.Errorf("flushed, the list has %v, %d, %v", into[:n], next, err)
	}
	if s := p.Stats(); s.Puts[wire.OK] != 16 || s.Puts[wire.Stale] != 1 || s.Puts[wire.Gone] != 1 || s.Sessions != 1 || s.ProtocolErrors != 0 {
		t.Errorf("%+v", s)
	}
}
