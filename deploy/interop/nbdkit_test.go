//go:build interop

package interop

import (
	"net"
	"strings"
	"testing"
)

// testNbdClient lists the exports with the client that attaches real hosts. It
// can do nothing else without a kernel of its own.
func testNbdClient(t *testing.T, x target) {
	host, port, err := net.SplitHostPort(x.hostPort)
	if err != nil {
		t.Fatal(err)
	}
	for network, args := range map[string][]string{
		"unix": {"-unix", x.socket, "-l"},
		"tcp":  {host, port, "-l"},
	} {
		t.Run(network, func(t *testing.T) {
			text := run(t, "nbd-client", args...)
			if lines := strings.Split(strings.TrimSpace(text), "\n"); !strings.HasPrefix(lines[len(lines)-1], "swap:") {
				t.Errorf("want the export swap and its description at the end of the list:\n%s", text)
			}
		})
	}
}

// testNbdkit puts nbdkit between us and the client.
func testNbdkit(t *testing.T, x target) {
	file := sample(t, exportSize, 21)
	tests := []struct {
		name string
		args []string // filters and the nbd plugin, before --run
		run  string   // with $uri
	}{
		// Everything in requests of one page or more, 64 KiB at most.
		{"blocksize", []string{"--filter=blocksize", "nbd", "uri=" + x.unix, "minblock=4k", "maxdata=64k"},
			"nbdcopy --flush --connections=2 " + file + ` "$uri"`},
		// Reads instead of writing, and fails unless the content is there.
		{"checkwrite", []string{"--filter=checkwrite", "nbd", "uri=" + x.tcp},
			"nbdcopy --connections=4 " + file + ` "$uri"`},
		// One connection to us for all clients of nbdkit.
		{"shared", []string{"nbd", "uri=" + x.unix, "shared=true"},
			"qemu-img compare -f raw -F raw " + file + ` "$uri"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			run(t, "nbdkit", append(append([]string{"-U", "-"}, test.args...), "--run", test.run)...)
		})
	}
	t.Run("content", func(t *testing.T) { copyBack(t, x.unix, file) })
}
