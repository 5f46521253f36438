package ctl

import (
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// TestPrintPoolClients holds the table, and what is said below it.
func TestPrintPoolClients(t *testing.T) {
	var out strings.Builder
	printPoolClients(&out, []admin.PoolClient{
		{Name: "default", Weight: 1},
		{
			Name: "vm1", Weight: 5, CapBytes: 4 << 30, ReservationBytes: 2 << 30, KeptBytes: 1 << 30, Dedup: true, Frozen: true, Exports: []string{"a", "b"}, Pages: 512,
			UsedBytes: 1 << 20, Share: 3 << 30, Refused: map[string]uint64{"cap": 11, "frozen": 12, "share": 13}, Evicted: 14, PromisedBytes: 8 << 30, WorstBytes: 7 << 30,
		},
	})
	printShortage(&out, []admin.Commitment{
		{Folder: "/fine", PromisedBytes: 4 << 30, WorstBytes: 1 << 30, FreeBytes: 2 << 30},
		{Folder: "/short", PromisedBytes: 4 << 30, WorstBytes: 3 << 30, FreeBytes: 2 << 30},
	})
	const want = `CLIENT   WEIGHT    CAP  RESERVED  SHARE   USED   DATA  EXPORTS  PROMISED  WORST CASE  EVICTED  AT CAP  ABOVE SHARE  DEDUP    FROZEN
default       1   none      none    all    0 B    0 B        0       0 B         0 B        0       0            0    off        no
vm1           5  4 GiB     2 GiB  3 GiB  1 MiB  2 MiB        2     8 GiB       7 GiB       14      11           13     on  yes (12)
vm1 keeps 1 GiB of the 2 GiB that it has reserved: backends may take less memory now than clients have reserved
warning: exports with storage in /short promise 4 GiB, and may still need 3 GiB there in the worst case, but 2 GiB are free
`
	if got := out.String(); got != want {
		t.Errorf("printed\n%s\nwant\n%s", got, want)
	}
}
