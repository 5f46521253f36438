package pagemap

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Two pages have two frames, and a page that was never touched has none. That processes share frames after a fork,
// package dedup's tests show.
func TestFrame(t *testing.T) {
	p, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	memory, where := mapped(t, 3, unix.MAP_PRIVATE)
	memory[0], memory[PageSize] = 1, 1
	if frame, err := p.Frame(where.start + 2*PageSize); !errors.Is(err, ErrNoFrame) {
		t.Errorf("of a page that was never touched: frame %d, error %v, want %v", frame, err, ErrNoFrame)
	}
	one, err1 := p.Frame(where.start)
	other, err2 := p.Frame(where.start + PageSize)
	switch {
	case os.Geteuid() != 0:
		if !errors.Is(err1, ErrNoFrame) || !errors.Is(err2, ErrNoFrame) {
			t.Errorf("without the privilege: errors %v and %v, want %v", err1, err2, ErrNoFrame)
		}
	case err1 != nil || err2 != nil || one == other:
		t.Errorf("frames %d and %d, errors %v and %v", one, other, err1, err2)
	}
}
