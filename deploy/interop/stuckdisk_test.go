//go:build interop

package interop

import (
	"testing"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// TestStuckDisk stops the disk with writes in flight. Whoever needs only zcache
// does not notice, not even on the connection that the writes came in on.
func TestStuckDisk(t *testing.T) {
	disk := newSlowDisk(t, 160<<20)
	dir, options := t.TempDir(), drainSettings(t, disk)
	d := start(t, dir, options)
	c, l := d.dial("unix"), newLedger()
	for number := uint64(0); number < 1000; number++ {
		// Rounds that make text or records of the page, which zcache takes.
		if err := l.writeRound(c, number, compressibleRound(number, 1)); err != nil {
			t.Fatal(err)
		}
	}

	disk.freeze()
	const stuck = 48               // less than tmemd has workers
	waiting := map[uint64]uint64{} // page, by cookie
	noise := newLedger()
	for number := uint64(2000); number < 2000+stuck; number++ {
		round := 3 + 2 - number%3 // makes noise of it
		if err := c.send(protocol.TRANSMISSION_TYPE_REQUEST_WRITE, int64(number)*pageSize, pageSize, page(number, round)); err != nil {
			t.Fatal(err)
		}
		waiting[c.cookie] = number
		noise.doubtful[number] = round
	}
	another := d.dial("unix")
	for _, client := range []*client{c, another} {
		l.checkAll(t, client)
		for number := uint64(0); number < 1100; number += 7 {
			if err := l.writeRound(client, number, compressibleRound(number, 4)); err != nil {
				t.Fatal(err)
			}
		}
		l.checkAll(t, client)
	}

	disk.thaw()
	for range stuck {
		cookie, err := c.answer()
		if err != nil {
			t.Fatal(err)
		}
		number, known := waiting[cookie]
		if !known {
			t.Fatalf("an answer to request %d, which waits for none", cookie)
		}
		delete(waiting, cookie)
		noise.rounds[number] = noise.doubtful[number]
	}
	noise.checkAll(t, c)
	l.checkAll(t, c)
}

// compressibleRound is the first round from one on that makes no noise of a
// page: see page.
func compressibleRound(number, round uint64) uint64 {
	for (number+round)%3 == 2 {
		round++
	}
	return round
}
