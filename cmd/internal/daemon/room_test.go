package daemon

import "testing"

// TestRoom: a small host keeps most of its memory.
func TestRoom(t *testing.T) {
	for _, test := range []struct{ ram, heap int64 }{
		{128 << 20, 16 << 20},
		{304 << 20, 19 << 20},
		{512 << 20, 32 << 20},
		{768 << 20, 48 << 20},
		{64 << 30, 48 << 20},
	} {
		if got := roomOf(test.ram); got.Heap != test.heap || got.Threads != 48 {
			t.Errorf("with %d bytes of memory: %+v, want a heap of %d", test.ram, got, test.heap)
		}
	}
}
