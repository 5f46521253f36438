//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// testNbdinfo reads the description of the export in every way that it is told.
func testNbdinfo(t *testing.T, x target) {
	type description struct {
		Protocol string           `json:"protocol"`
		Exports  []map[string]any `json:"exports"`
	}
	want := map[string]any{
		"export-name": "swap", "export-size": float64(exportSize), "is_read_only": false, "is_rotational": false,
		"can_flush": true, "can_fua": true, "can_trim": true, "can_zero": true, "can_multi_conn": true,
		"block_size_minimum": 1.0, "block_size_preferred": 4096.0, "block_size_maximum": float64(32 << 20),
	}
	check := func(t *testing.T, args ...string) {
		var told description
		text := run(t, "nbdinfo", append([]string{"--json"}, args...)...)
		if err := json.Unmarshal([]byte(text), &told); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		if told.Protocol != "newstyle-fixed" || len(told.Exports) != 1 {
			t.Fatalf("want one export by fixed newstyle:\n%s", text)
		}
		for key, value := range want {
			if told.Exports[0][key] != value {
				t.Errorf("%s is %v, want %v", key, told.Exports[0][key], value)
			}
		}
	}
	for network, uri := range x.uris() {
		t.Run("json over "+network, func(t *testing.T) { check(t, uri) })
	}
	t.Run("list", func(t *testing.T) { check(t, "--list", "nbd+unix:///?socket="+x.socket) })
	t.Run("size", func(t *testing.T) {
		if got := strings.TrimSpace(run(t, "nbdinfo", "--size", x.unix)); got != fmt.Sprint(exportSize) {
			t.Errorf("the size is %s", got)
		}
	})
	for _, feature := range []string{"connect", "flush", "fua", "multi-conn", "trim", "write", "zero"} {
		t.Run("can "+feature, func(t *testing.T) { run(t, "nbdinfo", "--can", feature, x.unix) })
	}
	t.Run("unknown export", func(t *testing.T) {
		r := try(t.Context(), "nbdinfo", uri("unix", x.socket, "elsewhere"))
		if r.err == nil || !strings.Contains(r.stderr, "nbd_opt_go") {
			t.Errorf("want a refusal of the option GO:\n%v", r)
		}
	})
}

// testNbdcopy copies one file in and out, then another one over it: holes of
// the second have to hide what the first left there.
func testNbdcopy(t *testing.T, x target) {
	for i, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			uri, file := x.uris()[network], sample(t, exportSize, uint64(i+1))
			copyIn(t, file, uri)
			copyBack(t, uri, file)
		})
	}
}

var copyOptions = []string{"--connections=4", "--requests=32", "--threads=2"}

func copyIn(t *testing.T, file, uri string) {
	t.Helper()
	run(t, "nbdcopy", append(copyOptions, "--flush", file, uri)...)
}

// copyBack copies an export out and compares it with a file.
func copyBack(t *testing.T, uri, file string) {
	t.Helper()
	back := filepath.Join(t.TempDir(), "back.img")
	run(t, "nbdcopy", append(copyOptions, uri, back)...)
	sameFiles(t, back, file)
}

// testNbdsh lets libnbd's Python binding do random requests on two connections
// and compare each answer with a model.
func testNbdsh(t *testing.T, x target) {
	for i, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			text := run(t, "python3", "testdata/model.py", x.uris()[network], fmt.Sprint(i+1))
			if !strings.HasSuffix(strings.TrimSpace(text), "requests agree with the model") {
				t.Errorf("the script did not come to its end:\n%s", text)
			}
		})
	}
}
