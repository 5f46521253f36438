package nbd

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// residentPages counts the pages of b that are in memory.
func residentPages(t *testing.T, b []byte) int {
	t.Helper()
	vec := make([]byte, len(b)/pageSize)
	if err := mincore(b, vec); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, v := range vec {
		n += int(v & 1)
	}
	return n
}

// TestTouchedMemoryIsThere: MAP_POPULATE would not do where memory is locked on
// fault, which is where it matters.
func TestTouchedMemoryIsThere(t *testing.T) {
	for _, touch := range []bool{false, true} {
		b, err := mapMemory(1<<20, touch)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Munmap(b) }()
		want := 0
		if touch {
			want = 256
		}
		if got := residentPages(t, b); got != want {
			t.Errorf("touch %t: %d pages are in memory, want %d", touch, got, want)
		}
	}
}

// TestPoolIsPrepared: the buffers of usual requests are mapped before the first
// one comes, and lent without mapping.
func TestPoolIsPrepared(t *testing.T) {
	s := startServer(t, Config{TouchBuffers: true, BufferBytes: MaxPayload})
	mapped, lent := s.pool.usage()
	if mapped == 0 || lent != 0 {
		t.Fatalf("%d bytes are mapped, %d lent", mapped, lent)
	}
	var held [][]byte
	for range 32 {
		b, err := s.pool.tryGet(100 << 10)
		if err != nil || b == nil {
			t.Fatalf("a buffer: %v, %v", b != nil, err)
		}
		held = append(held, b)
	}
	if now, _ := s.pool.usage(); now != mapped {
		t.Errorf("%d bytes are mapped, before %d", now, mapped)
	}
	// When they are lent, larger ones are; then none, instead of a new one.
	for {
		b, err := s.pool.tryGet(100 << 10)
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			break
		}
		held = append(held, b)
	}
	if len(held) != 34 {
		t.Errorf("%d buffers were lent, want 32 and two larger ones", len(held))
	}
	if b, err := s.pool.tryGet(1); err != nil || b == nil {
		t.Errorf("a small buffer: %v, %v", b != nil, err)
	} else {
		held = append(held, b)
	}
	if now, _ := s.pool.usage(); now != mapped {
		t.Errorf("%d bytes are mapped, before %d", now, mapped)
	}
	for _, b := range held {
		s.pool.put(b)
	}
	plain := startServer(t, Config{})
	if mapped, _ := plain.pool.usage(); mapped != 0 {
		t.Errorf("a pool that touches nothing maps %d bytes", mapped)
	}
}

// mincore is mincore(2).
func mincore(b, vec []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&vec[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
