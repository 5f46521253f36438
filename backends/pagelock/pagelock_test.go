package pagelock

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

func TestModes(t *testing.T) {
	modes := []struct {
		name string
		mode *lockMode
		held uint32
	}{
		{"read", &modeRead, 1},
		{"update", &modeUpdate, lockUpdate},
		{"exclusive", &modeExclusive, lockExclusive},
	}
	shares := [3][3]bool{
		{true, true, false},
		{true, false, false},
		{false, false, false},
	}
	for i, first := range modes {
		for j, second := range modes {
			l := New(1)
			l.lock(0, first.mode)
			if got := l.try(0, second.mode); got != shares[i][j] {
				t.Errorf("%s while %s is held: got %v, want %v", second.name, first.name, got, shares[i][j])
			} else if got {
				l.unlock(0, second.held)
			}
			l.unlock(0, first.held)
			if s := l.stripe(0).Load(); s != 0 {
				t.Errorf("%s then %s: stripe is %#x at the end", first.name, second.name, s)
			}
		}
	}
}

func TestUpgradeWaitsForReadersOnly(t *testing.T) {
	l := New(1)
	l.lock(0, &modeUpdate)
	l.lock(0, &modeRead)
	if l.try(0, &modeUpgrade) {
		t.Fatal("upgraded while a reader holds the page")
	}
	upgraded := make(chan struct{})
	go func() {
		l.lock(0, &modeUpgrade)
		close(upgraded)
	}()
	l.unlock(0, 1)
	<-upgraded
	if l.try(0, &modeRead) || l.try(0, &modeUpdate) {
		t.Fatal("the upgraded lock is shared")
	}
	l.unlock(0, lockExclusive)
	if !l.try(0, &modeExclusive) {
		t.Fatal("the page is still locked after the upgraded lock was released")
	}
}

// TestExclude lets readers, writers and drains of whole blocks loose
// on few stripes and checks who meets whom. It would hang if the order that
// the package comment demands could deadlock, or if a wake-up got lost.
func TestExclude(t *testing.T) {
	const pages, workers, rounds = 8, 6, 4000
	l := New(pages)
	var readers, updaters, writers [pages]atomic.Int32
	var wrong atomic.Int32
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 1))
			for range rounds {
				first := random.Uint64N(pages)
				last := first + 1 + random.Uint64N(pages-first)
				switch random.IntN(3) {
				case 0:
					for p := first; p < last; p++ {
						l.lock(p, &modeRead)
						readers[p].Add(1)
						wrong.Add(writers[p].Load())
					}
					for p := first; p < last; p++ {
						readers[p].Add(-1)
						l.unlock(p, 1)
					}
				case 1:
					for p := first; p < last; p++ {
						l.lock(p, &modeExclusive)
						wrong.Add(writers[p].Add(1) - 1 + readers[p].Load() + updaters[p].Load())
					}
					for p := first; p < last; p++ {
						writers[p].Add(-1)
						l.unlock(p, lockExclusive)
					}
				default:
					for p := first; p < last; p++ {
						l.lock(p, &modeUpdate)
						wrong.Add(updaters[p].Add(1) - 1 + writers[p].Load())
					}
					for p := last; p > first; p-- {
						l.lock(p-1, &modeUpgrade)
						updaters[p-1].Add(-1)
						wrong.Add(writers[p-1].Add(1) - 1 + readers[p-1].Load())
						writers[p-1].Add(-1)
						l.unlock(p-1, lockExclusive)
					}
				}
			}
		})
	}
	wg.Wait()
	if n := wrong.Load(); n != 0 {
		t.Errorf("%d meetings that the modes forbid", n)
	}
	for p := range uint64(pages) {
		if !l.try(p, &modeExclusive) {
			t.Errorf("page %d is still locked: %#x", p, l.stripe(uint64(p)).Load())
		}
	}
}
