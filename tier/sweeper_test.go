package tier

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/frontswap"
)

// TestSweeperGrows: marks that were there before a growth are not lost, and
// there is room for those of any length.
func TestSweeperGrows(t *testing.T) {
	const piece = pieceWords * 64 * frontswap.BlockPages
	var mu sync.Mutex
	var visited []uint64
	entered, goOn := make(chan struct{}), make(chan struct{})
	s := &sweeper{fault: func(error) {}}
	s.visit = func(first uint64) error {
		mu.Lock()
		visited = append(visited, first)
		n := len(visited)
		mu.Unlock()
		if n == 1 {
			close(entered)
			<-goOn
		}
		return nil
	}
	s.start(10)
	s.mark(0, 1)
	<-entered
	s.mark(3*frontswap.BlockPages, 3*frontswap.BlockPages+1)
	s.grow(3 * piece)
	s.mark(piece-1, piece+1)
	s.mark(3*piece-1, 3*piece)
	close(goOn)
	want := []uint64{0, 3 * frontswap.BlockPages, piece - frontswap.BlockPages, piece, 3*piece - frontswap.BlockPages}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		mu.Lock()
		got := slices.Clone(visited)
		mu.Unlock()
		slices.Sort(got)
		if slices.Equal(got, want) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("visited blocks at %v, want %v", got, want)
		}
	}
	s.stop()
	if left := s.left.Load(); left != 0 {
		t.Errorf("%d marks left", left)
	}
}
