package pagemap

import (
	"os"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapped returns memory of the test's own process, in small pages.
func mapped(t *testing.T, pages, flags int) ([]byte, mapping) {
	t.Helper()
	memory, err := unix.Mmap(-1, 0, pages*PageSize, unix.PROT_READ|unix.PROT_WRITE, flags|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(memory) })
	if err := unix.Madvise(memory, unix.MADV_NOHUGEPAGE); err != nil && err != unix.EINVAL {
		t.Fatal(err)
	}
	start := uint64(uintptr(unsafe.Pointer(&memory[0])))
	return memory, mapping{start, start + uint64(len(memory))}
}

func TestSwappable(t *testing.T) {
	p, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	private, privateRange := mapped(t, 64, unix.MAP_PRIVATE)
	shared, sharedRange := mapped(t, 8, unix.MAP_SHARED)
	sum := byte(0)
	for page := range 20 {
		private[page*PageSize] = 1
	}
	for page := 30; page < 35; page++ {
		sum += private[page*PageSize] // maps the zero page
	}
	for page := range 8 {
		shared[page*PageSize] = 1
	}

	got, err := p.appendRuns(nil, privateRange, 16)
	if err != nil {
		t.Fatal(err)
	}
	want := []Run{{privateRange.start, 16}, {privateRange.start + 16*PageSize, 4}}
	if p.Restricted() { // nothing tells the zero page apart then
		want = append(want, Run{privateRange.start + 30*PageSize, 5})
	}
	if !slices.Equal(got, want) {
		t.Errorf("M1: private memory has runs %x, want %x (and %d)", got, want, sum)
	}
	if got, err := p.appendRuns(nil, sharedRange, 16); err != nil || len(got) > 0 {
		t.Errorf("M1: shared memory has runs %x, error %v", got, err)
	}
	if got, err := p.appendRuns(nil, mapping{0xffffffffff600000, 0xffffffffff601000}, 16); err != nil || len(got) > 0 {
		t.Errorf("addresses of the kernel have runs %x, error %v", got, err)
	}
	for page, want := range map[int]bool{0: true, 19: true, 20: false, 30: p.Restricted()} {
		sharers, ok, err := p.Swappable(privateRange.start + uint64(page)*PageSize)
		if err != nil || ok != want || ok && sharers != 1 {
			t.Errorf("M1: page %d is swappable: %v, in %d processes, error %v", page, ok, sharers, err)
		}
	}
	if _, ok, err := p.Swappable(sharedRange.start); ok || err != nil {
		t.Errorf("M1: a shared page is swappable: %v, error %v", ok, err)
	}
}

// TestPrivate compares what pagemap alone says with the runs, and reads it.
func TestPrivate(t *testing.T) {
	memory, addresses := mapped(t, 8, unix.MAP_PRIVATE)
	for page := range 3 {
		memory[page*PageSize] = byte(page + 1)
	}
	p, err := Open(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var found []uint64
	if err := p.Private(func(address uint64) {
		if address >= addresses.start && address < addresses.end {
			found = append(found, address)
		}
	}); err != nil {
		t.Fatal(err)
	}
	want := []uint64{addresses.start, addresses.start + PageSize, addresses.start + 2*PageSize}
	if !slices.Equal(found, want) {
		t.Fatalf("found %x, want %x", found, want)
	}
	page := make([]byte, PageSize)
	for i, address := range found {
		if err := p.Read(address, page); err != nil || page[0] != byte(i+1) {
			t.Errorf("page %d begins with %d, error %v", i, page[0], err)
		}
	}
	if runs, err := p.Runs(16); err != nil || len(runs) == 0 {
		t.Errorf("%d runs, error %v", len(runs), err)
	}
}

func TestOpenNobody(t *testing.T) {
	if _, err := Open(1 << 30); !os.IsNotExist(err) {
		t.Errorf("a process that there is not: %v", err)
	}
}
