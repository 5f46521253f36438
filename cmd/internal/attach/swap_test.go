package attach

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

const testSize = 1 << 20 // bytes of a device

// header is a good one, changed.
func header(t *testing.T, change func(page []byte)) []byte {
	t.Helper()
	page, err := makeHeader(testSize)
	if err != nil {
		t.Fatal(err)
	}
	change(page)
	return page
}

func TestPrepareSwap(t *testing.T) {
	at := func(offset int, text string) []byte {
		b := make([]byte, 64<<10)
		copy(b[offset:], text)
		return b
	}
	last := func(page uint32) func([]byte) {
		return func(p []byte) { binary.NativeEndian.PutUint32(p[1028:], page) }
	}
	behind := func(offset int) []byte { // a swap area of 100 pages
		b := make([]byte, testSize)
		copy(b, header(t, last(99)))
		b[offset] = 'x'
		return b
	}
	tests := []struct {
		name    string
		content []byte
		force   bool
		did     string
		refused string // what the error says; empty if there is none
	}{
		{"blank", nil, false, didMake, ""},
		{"swap already", header(t, func([]byte) {}), false, didNothing, ""},
		{"swap already, forced", header(t, func([]byte) {}), true, didNothing, ""},
		{"swap of mkswap with a label", header(t, func(p []byte) { copy(p[1052:], "mine") }), false, didNothing, ""},
		{"swap of a larger device", header(t, last(256)), false, didNothing, "257 pages, the device has 256"},
		{"swap of a larger device, forced", header(t, last(256)), true, didMake, ""},
		{"swap of the largest device", header(t, last(1<<32-1)), false, didNothing, "4294967296 pages, the device has 256"},
		{"swap before the device grew", header(t, last(99)), false, didGrow, ""},
		{"swap before the device grew by a page", header(t, last(254)), false, didGrow, ""},
		{"swap before the device grew, in use", behind(100*4096 - 1), false, didGrow, ""},
		{"swap and data behind it", behind(100 * 4096), false, didSpare, ""},
		{"swap and data behind it, forced", behind(100 * 4096), true, didGrow, ""},
		{"swap that no kernel takes", header(t, last(8)), false, didNothing, "9 pages, the device has 256"},
		{"swap of version 0", header(t, func(p []byte) { p[1024] = 0 }), false, didNothing, "version 0"},
		{"hibernated", header(t, func(p []byte) { copy(p[4086:], "S1SUSPEND\x00") }), false, didNothing, "there is data at offset 1024"},
		{"LUKS", at(0, "LUKS\xba\xbe"), false, didNothing, "LUKS"},
		{"XFS", at(0, "XFSB"), false, didNothing, "XFS"},
		{"ext", at(1080, "\x53\xef"), false, didNothing, "ext file system"},
		{"GPT", at(512, "EFI PART"), false, didNothing, "GPT"},
		{"LVM", at(536, "LVM2 001"), false, didNothing, "LVM"},
		{"boot sector", at(510, "\x55\xaa"), false, didNothing, "boot sector"},
		{"one byte", at(40000, "x"), false, didNothing, "there is data at offset 40000"},
		{"one byte, forced", at(40000, "x"), true, didMake, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			content := make([]byte, testSize)
			copy(content, test.content)
			var written []byte
			did, err := prepareSwap(bytes.NewReader(content), func(h []byte) error { written = h; return nil }, testSize, test.force)
			if test.refused != "" {
				var told *cli.Error
				if !errors.As(err, &told) || !strings.Contains(told.Problem, test.refused) || !strings.Contains(told.Hint, "--force") || written != nil {
					t.Fatalf("prepareSwap wrote %d bytes and fails with %v; want %q", len(written), err, test.refused)
				}
				return
			}
			writes := test.did == didMake || test.did == didGrow
			if err != nil || did != test.did || (written != nil) != writes {
				t.Fatalf("prepareSwap says %q, %v, wrote %d bytes; want %q", did, err, len(written), test.did)
			}
			if !writes {
				return
			}
			if kept := bytes.Equal(written[1032:], test.content[min(1032, len(test.content)):min(4096, len(test.content))]); kept != (did == didGrow) {
				t.Errorf("UUID, label and bad pages were kept: %t", kept)
			}
			copy(content, written)
			if kind, what, err := probe(bytes.NewReader(content), testSize); kind != areaSwap || err != nil {
				t.Errorf("what was written is %d, %q, %v", kind, what, err)
			}
		})
	}
}

// TestHeader holds the header to union swap_header of linux/swap.h.
func TestHeader(t *testing.T) {
	page := header(t, func([]byte) {})
	if len(page) != 4096 || string(page[4086:]) != "SWAPSPACE2" {
		t.Errorf("%d bytes that end with %q", len(page), page[4086:])
	}
	for _, field := range []struct {
		name   string
		offset int
		want   uint32
	}{{"version", 1024, 1}, {"last page", 1028, 255}, {"bad pages", 1032, 0}} {
		if got := binary.NativeEndian.Uint32(page[field.offset:]); got != field.want {
			t.Errorf("%s is %d, want %d", field.name, got, field.want)
		}
	}
	if label := string(page[1052:1068]); label != "tmemd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" {
		t.Errorf("label is %q", label)
	}
	if uuid := page[1036:1052]; uuid[6]>>4 != 4 || uuid[8]>>6 != 2 {
		t.Errorf("uuid is %x", uuid)
	}
	if bytes.Count(page[:1024], []byte{0}) != 1024 {
		t.Error("there is something in the place of boot code")
	}
}

func TestPrepareSwapRefusesTinyDevices(t *testing.T) {
	write := func([]byte) error { t.Error("a header was written"); return nil }
	if _, err := prepareSwap(bytes.NewReader(make([]byte, 9*4096)), write, 9*4096, true); err == nil {
		t.Error("nine pages are taken")
	}
}

func TestSwapUsed(t *testing.T) {
	proc := t.TempDir()
	const list = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n" +
		"/dev/nbd1                               partition\t1048572\t\t2048\t\t100\n" +
		"/dev/nbd10                              partition\t1048572\t\t4\t\t-2\n"
	if err := os.WriteFile(filepath.Join(proc, "swaps"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		device string
		used   int64
		on     bool
	}{{"/dev/nbd1", 2 << 20, true}, {"/dev/nbd10", 4 << 10, true}, {"/dev/nbd0", 0, false}} {
		if used, on, err := swapUsed(proc, test.device); used != test.used || on != test.on || err != nil {
			t.Errorf("%s: %d, %t, %v; want %d, %t", test.device, used, on, err, test.used, test.on)
		}
	}
	want := []SwapArea{{"/dev/nbd1", 2 << 20, 100}, {"/dev/nbd10", 4 << 10, -2}}
	if areas, err := SwapAreas(proc); !slices.Equal(areas, want) || err != nil {
		t.Errorf("the list is %v, %v", areas, err)
	}
	if _, _, err := swapUsed(t.TempDir(), "/dev/nbd0"); err == nil {
		t.Error("a list that is not there is empty")
	}
	for _, line := range []string{"/dev/nbd0 partition 1 x 1\n", "/dev/nbd0 partition 1 1 x\n"} {
		if err := os.WriteFile(filepath.Join(proc, "swaps"), []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := SwapAreas(proc); err == nil {
			t.Errorf("%q is taken", line)
		}
	}
}

func TestParseDevice(t *testing.T) {
	for name, want := range map[string]int{"/dev/nbd0": 0, "nbd15": 15} {
		if got, err := ParseDevice(name); err != nil || got != want {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "/dev/sda", "/dev/nbd", "/dev/nbd-1", "/dev/nbd01", "/dev/nbd0p1", "/dev/nbd0x", "nbd+1"} {
		if got, err := ParseDevice(name); err == nil {
			t.Errorf("%q is device %d", name, got)
		}
	}
}
