package corpus

import (
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const smapsSample = `55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
Anonymous:            96 kB
VmFlags: rd wr mr mw me ac
7f2c00000000-7f2c00200000 r--p 00000000 fe:00 1234    /usr/lib/a b-c.so
Anonymous:             0 kB
7f2c40000000-7f2c40001000 rw-p 00000000 00:00 0
Anonymous:             4 kB
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
Anonymous:             0 kB
`

func TestParseMappings(t *testing.T) {
	got, err := parseMappings(strings.NewReader(smapsSample))
	want := []mapping{{0x55d0c0a00000, 0x55d0c0a21000}, {0x7f2c40000000, 0x7f2c40001000}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("mappings %x, error %v, want %x", got, err, want)
	}
	for _, bad := range []string{"xyz-7f2c40001000 rw-p\n", "10-\n", "1ffffffffffffffff-20 rw\n"} {
		if got, err := parseMappings(strings.NewReader(bad)); err == nil {
			t.Errorf("%q: mappings %x, no error", bad, got)
		}
	}
}

func FuzzParseMappings(f *testing.F) {
	f.Add(smapsSample)
	f.Add("Anonymous: 4 kB\n")
	f.Add("9-1 rw-p\nAnonymous: 4 kB\n")
	f.Fuzz(func(t *testing.T, smaps string) {
		mappings, _ := parseMappings(strings.NewReader(smaps))
		for _, m := range mappings {
			if m.end <= m.start {
				t.Errorf("empty mapping %x", m)
			}
		}
	})
}

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

func TestPageFilter(t *testing.T) {
	filter, err := openPageFilter(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer filter.close()
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

	got, err := filter.runs(privateRange)
	if err != nil {
		t.Fatal(err)
	}
	want := []addressRun{{privateRange.start, 16}, {privateRange.start + 16*PageSize, 4}}
	if filter.restricted { // nothing tells the zero page apart then
		want = append(want, addressRun{privateRange.start + 30*PageSize, 5})
	}
	if !slices.Equal(got, want) {
		t.Errorf("P1: private memory has runs %x, want %x (and %d)", got, want, sum)
	}
	if got, err := filter.runs(sharedRange); err != nil || len(got) > 0 {
		t.Errorf("P1: shared memory has runs %x, error %v", got, err)
	}
	if got, err := filter.runs(mapping{0xffffffffff600000, 0xffffffffff601000}); err != nil || len(got) > 0 {
		t.Errorf("addresses of the kernel have runs %x, error %v", got, err)
	}
}
