package pagemap

import (
	"slices"
	"strings"
	"testing"
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
