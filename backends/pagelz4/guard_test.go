package pagelz4

import (
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/backendtest"
)

// guarded returns size bytes of memory right before, or after, memory that cannot
// be accessed.
func guarded(t *testing.T, size int, after bool) []byte {
	t.Helper()
	pages := (size + PageSize - 1) / PageSize
	memory, err := unix.Mmap(-1, 0, (pages+2)*PageSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(memory) })
	usable := memory[PageSize : (pages+1)*PageSize]
	if err := unix.Mprotect(usable, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		t.Fatal(err)
	}
	if after {
		return usable[:size]
	}
	return usable[len(usable)-size:]
}

// TestGuards has page and buffer between memory that cannot be accessed (E2).
func TestGuards(t *testing.T) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	page := (*[PageSize]byte)(guarded(t, PageSize, true))
	for _, after := range []bool{false, true} {
		dst := (*[Bound]byte)(guarded(t, Bound, after))
		var e Encoder
		encode := func(what string, i int) {
			defer func() {
				if r := recover(); r != nil {
					t.Fatalf("E2: %s %d: %v", what, i, r)
				}
			}()
			if n := e.Encode(dst, page, Bound); n == 0 {
				t.Fatalf("%s %d: no block", what, i)
			}
		}
		for i := range 2000 {
			copy(page[:], backendtest.Mixed(uint64(i)))
			encode("page", i)
		}
		for i := range PageSize {
			*page = *randomPage(uint64(i))
			copy(page[i:], page[:i])
			encode("match from", i)
			*page = *randomPage(uint64(i))
			clear(page[i:])
			encode("zeros from", i)
		}
	}
}
