//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// testStatus asks where pages are, with libnbd's Python binding and on every
// path that tools use.
func testStatus(t *testing.T, x target) {
	for i, network := range []string{"unix", "tcp"} {
		t.Run("nbdsh over "+network, func(t *testing.T) {
			text := run(t, "python3", "testdata/status.py", x.uris()[network], fmt.Sprint(i+1))
			if !strings.HasSuffix(strings.TrimSpace(text), "status agrees with the model") {
				t.Errorf("the script did not come to its end:\n%s", text)
			}
		})
	}
	for _, feature := range []string{"cache", "df", "fast-zero", "structured-reply"} {
		t.Run("can "+feature, func(t *testing.T) {
			if feature == "structured-reply" {
				run(t, "nbdinfo", "--can", "structured", x.unix)
				return
			}
			run(t, "nbdinfo", "--can", feature, x.unix)
		})
	}
	t.Run("contexts", func(t *testing.T) {
		text := run(t, "nbdinfo", "--json", x.unix)
		var told struct{ Exports []struct{ Contexts []string } }
		if err := json.Unmarshal([]byte(text), &told); err != nil || len(told.Exports) != 1 ||
			!slices.Equal(told.Exports[0].Contexts, []string{"base:allocation", "tmem:owner"}) {
			t.Errorf("%v in\n%s", err, text)
		}
	})
	t.Run("map", func(t *testing.T) {
		// 1 MiB of nothing, 1 MiB of data, twice; then nothing.
		run(t, "qemu-io", "-f", "raw", "-c", "discard 0 64M", "-c", "write -P 0x41 1M 1M", "-c", "write -P 0x42 3M 1M", x.unix)
		const mib = 1 << 20
		want := []mapped{{0, mib, true}, {mib, mib, false}, {2 * mib, mib, true}, {3 * mib, mib, false}, {4 * mib, exportSize - 4*mib, true}}
		if got := nbdinfoMap(t, x.unix); !slices.Equal(got, want) {
			t.Errorf("nbdinfo --map: %v, want %v", got, want)
		}
		if got := qemuMap(t, x.tcp); !slices.Equal(got, want) {
			t.Errorf("qemu-img map: %v, want %v", got, want)
		}
		// nbdkit's plugin asks us in turn when it is asked.
		text := run(t, "nbdkit", "-U", "-", "nbd", "uri="+x.unix, "--run", `nbdinfo --map --json "$uri"`)
		if got := parseMap(t, text); !slices.Equal(got, want) {
			t.Errorf("through nbdkit: %v, want %v", got, want)
		}
	})
	t.Run("sparse copy", func(t *testing.T) {
		file := sample(t, exportSize, 31)
		copyIn(t, file, x.unix)
		run(t, "qemu-io", "-f", "raw", "-c", "discard 8M 48M", x.unix)
		back := filepath.Join(t.TempDir(), "back.img")
		run(t, "nbdcopy", x.unix, back)
		if text := run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", back, x.unix); !strings.Contains(text, "identical") {
			t.Error(text)
		}
	})
}

// mapped is a part of an export as its map tells.
type mapped struct {
	start, length int64
	hole          bool
}

func nbdinfoMap(t *testing.T, uri string) []mapped {
	t.Helper()
	return parseMap(t, run(t, "nbdinfo", "--map", "--json", uri))
}

func parseMap(t *testing.T, text string) (parts []mapped) {
	t.Helper()
	var told []struct {
		Offset, Length, Type int64
	}
	if err := json.Unmarshal([]byte(text), &told); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	for _, p := range told {
		parts = append(parts, mapped{p.Offset, p.Length, p.Type == 3})
	}
	return parts
}

func qemuMap(t *testing.T, uri string) (parts []mapped) {
	t.Helper()
	text := run(t, "qemu-img", "map", "-f", "raw", "--output=json", uri)
	var told []struct {
		Start, Length int64
		Zero          bool
	}
	if err := json.Unmarshal([]byte(text), &told); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	for _, p := range told {
		parts = append(parts, mapped{p.Start, p.Length, p.Zero})
	}
	return parts
}
