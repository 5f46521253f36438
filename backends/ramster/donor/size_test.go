package donor

import (
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends/pressure"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// strained is a host that waits for memory half of the time.
type strained struct{ since time.Time }

func (s strained) Sample() (pressure.Sample, error) {
	return pressure.Sample{PSI: true, Stalled: time.Since(s.since) * 3 / 4, Available: 1, Total: 1000}, nil
}

// TestSelfSizing: a host that is short of memory gets some back.
func TestSelfSizing(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for two looks at the host's memory")
	}
	pl := newPlace(t, Config{Limit: 8 << 20, SelfSizing: true, Floor: 7 << 20, Pressure: strained{time.Now()}})
	p := newPeer(t, pl)
	for page := range uint64(9000) {
		p.put(t, dropped, page, 1, make([]byte, 1000))
	}
	eventually(t, "the limit is at its floor, and kept", func() bool {
		s := pl.donor.Stats()
		return s.LimitBytes == 7<<20 && s.MaxBytes == 8<<20 && s.HeldBytes <= 7<<20
	})
	if got := p.put(t, kept, 1, 1, make([]byte, 1000)); got != wire.OK {
		t.Errorf("put: %v", got)
	}
}
