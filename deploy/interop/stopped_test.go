//go:build interop

package interop

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestStoppedClient stops a client with SIGSTOP in the middle of its writes, with
// requests in the socket and replies that it does not take. Others are served as
// if it were not there, and when it goes on it finds all that was acknowledged.
func TestStoppedClient(t *testing.T) {
	const size = 192 << 20
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			dir := t.TempDir()
			d := start(t, dir, "--size", "192MiB", "--backend", "zcache",
				"--listen", "unix://"+filepath.Join(dir, "nbd.sock"), "--listen", "tcp://127.0.0.1:0")
			file := sample(t, size, 71)
			copier := command(t.Context(), "nbdcopy", "--connections=2", "--requests=64", "--flush", file, d.uri(network))
			if err := copier.Start(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the copy is under way", func() bool { return d.export().SuccStores > 1000 })
			if err := copier.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			before := d.export()
			// Another client writes, reads and checks pages at the end of the export.
			background := startChurn(d.dial("unix"), size/pageSize-1024, size/pageSize)
			time.Sleep(time.Second)
			background.stop(t)
			if after := d.export(); after.Loads-before.Loads < 500 {
				t.Errorf("another client read %d pages in a second", after.Loads-before.Loads)
			}
			if err := copier.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			if err := copier.Wait(); err != nil {
				t.Fatalf("the copy after it went on: %v", err)
			}
			// The end belonged to the other client meanwhile.
			run(t, "nbdcopy", "--connections=2", "--flush", file, d.uri(network))
			copyBack(t, d.uri(network), file)
		})
	}
}
