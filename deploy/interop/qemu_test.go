//go:build interop

package interop

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// testQemuIO writes, discards and zeroes ranges that begin and end anywhere and
// verifies what is left of each. Addresses and lengths are in bytes.
func testQemuIO(t *testing.T, x target) {
	steps := []struct {
		name     string
		commands []string
	}{
		{"writes at odd offsets", []string{
			"write -P 0x41 0 65536",
			"write -P 0x42 512 1024", // sectors
			"write -P 0x43 4090 12",  // across the end of a page
			"write -f -P 0x44 12345 23456",
			"read -P 0x41 0 512", "read -P 0x42 512 1024", "read -P 0x41 1536 2554", "read -P 0x43 4090 12",
			"read -P 0x41 4102 8243", "read -P 0x44 12345 23456", "read -P 0x41 35801 29735",
		}},
		{"zeroes", []string{
			"write -z 20000 10000", "write -z -u 40960 8192", "write -z 1 2", "write -z -f 65535 1",
			"read -P 0x44 12345 7655", "read -P 0 20000 10000", "read -P 0x44 30000 5801", "read -P 0x41 35801 5159",
			"read -P 0 40960 8192", "read -P 0x41 49152 16383", "read -P 0x41 0 1", "read -P 0 1 2", "read -P 0 65535 1",
		}},
		{"discards", []string{
			"discard 49152 8192", "discard 57344 512",
			"read -P 0x41 49151 0", "read -P 0 49152 8192", "read -P 0x41 57856 7679",
		}},
		{"requests in flight", []string{
			"aio_write -P 0x51 1M 64k", "aio_write -P 0x52 1088k 512", "aio_write -P 0x53 1114624 65k",
			"aio_write -z 2M 1M", "aio_write -P 0x54 4M 4M", "aio_flush",
			"read -P 0x51 1M 64k", "read -P 0x52 1088k 512", "read -P 0x53 1114624 65k",
			"read -P 0 2M 1M", "read -P 0x54 4M 4M",
		}},
		{"the end of the export", []string{
			fmt.Sprintf("write -P 0x61 %d 5000", exportSize-5000), fmt.Sprintf("write -P 0x62 %d 1", exportSize-1),
			"flush",
			fmt.Sprintf("read -P 0x61 %d 4999", exportSize-5000), fmt.Sprintf("read -P 0x62 %d 1", exportSize-1),
		}},
	}
	for network, uri := range x.uris() {
		for _, step := range steps {
			t.Run(step.name+" over "+network, func(t *testing.T) {
				args := []string{"-f", "raw"}
				for _, command := range step.commands {
					args = append(args, "-c", command)
				}
				// It tells of a wrong pattern in words and by its exit code.
				if text := run(t, "qemu-io", append(args, uri)...); strings.Contains(text, "failed") {
					t.Error(text)
				}
			})
		}
	}
}

// testQemuImg converts an image into the export, compares both, and converts
// it back.
func testQemuImg(t *testing.T, x target) {
	for i, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			uri := x.uris()[network]
			file := sample(t, exportSize, uint64(11+i))
			back := filepath.Join(t.TempDir(), "back.img")
			run(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", "-n", "-W", "-m", "8", file, uri)
			if text := run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", file, uri); !strings.Contains(text, "identical") {
				t.Error(text)
			}
			run(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", "-m", "8", uri, back)
			sameFiles(t, back, file)
		})
	}
}
