//go:build interop

package interop

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// TestVanish lets clients go away in the middle of a WRITE. What was not sent
// whole was not written, and nobody else notices.
func TestVanish(t *testing.T) {
	// Requests of 64 pages, and of 1024, which do not fit a connection's buffer.
	const header, some, many = 28, 64, 1024
	tests := []struct {
		name  string
		pages int // of the request, from the first page on
		sent  int // bytes of it: header, then payload
	}{
		{"in the header", some, header / 2},
		{"after the header", some, header},
		{"in the payload", some, header + some*pageSize/2},
		{"before the last byte", some, header + some*pageSize - 1},
		{"in a large payload", many, header + many*pageSize/2},
	}
	ways := []struct {
		network string
		reset   bool // the connection, instead of ending it
	}{{"unix", false}, {"tcp", false}, {"tcp", true}}
	for _, kind := range []string{"none", "zcache"} {
		t.Run("backend "+kind, func(t *testing.T) {
			dir := t.TempDir()
			d := start(t, dir, "--size", "64MiB", "--backend", kind,
				"--listen", "unix://"+filepath.Join(dir, "nbd.sock"), "--listen", "tcp://127.0.0.1:0")
			c, l := d.dial("unix"), newLedger()
			l.fill(t, c, 0, many)
			background := startChurn(d.dial("unix"), many, 2*many)
			for _, way := range ways {
				for _, test := range tests {
					t.Run(fmt.Sprintf("%s over %s, reset %v", test.name, way.network, way.reset), func(t *testing.T) {
						vanish(t, way.network, d.address(way.network), test.pages, test.sent, way.reset)
						eventually(t, "the server lets go of the client", func() bool { return d.export().Clients == 2 })
						l.checkAll(t, c)
					})
				}
			}
			background.stop(t).checkAll(t, c)
			if kind == "zcache" {
				// It takes the lock of every page: none was left behind.
				d.control("backend", "unload", "zcache")
			}
			l.fill(t, c, 0, many)
			l.checkAll(t, c)
		})
	}
}

// vanish sends so many bytes of a WRITE of the first pages and goes.
func vanish(t *testing.T, network, address string, pages, sent int, reset bool) {
	t.Helper()
	c, err := dial(network, address, "swap")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	request := c.request(protocol.TRANSMISSION_TYPE_REQUEST_WRITE, 0, pages*pageSize)
	for number := range pages {
		request = append(request, page(uint64(number), 1<<40)...)
	}
	if _, err := c.socket.Write(request[:sent]); err != nil {
		t.Fatal(err)
	}
	if tcp, ok := c.socket.(*net.TCPConn); ok && reset {
		if err := tcp.SetLinger(0); err != nil {
			t.Fatal(err)
		}
	}
}
