//go:build interop

package interop

import (
	"fmt"
	"strings"
	"testing"
)

// TestBlockDevice has storage on a block device.
func TestBlockDevice(t *testing.T) {
	device := strings.TrimSpace(run(t, "losetup", "--find", "--show", image(t, exportSize)))
	t.Cleanup(func() { runLater(t, "losetup", "--detach", device) })
	dir := t.TempDir()
	options := settings(t, fmt.Sprintf(`
[[export]]
size = %d
storage = %q

[[backend]]
kind = "zcache"
size = "64MiB"
`, exportSize, device))

	d := start(t, dir, options)
	if e := d.export(); e.Storage.Path != device || !e.Storage.Direct {
		t.Errorf("storage is %+v, want %s past the page cache", e.Storage, device)
	}
	file := sample(t, exportSize, 31)
	copyIn(t, file, d.uri("unix"))
	copyBack(t, d.uri("unix"), file)
	d.control("backend", "unload", "zcache")
	copyBack(t, d.uri("unix"), file)

	c, l := d.dial("unix"), newLedger()
	d.control("backend", "load", "zcache")
	l.fill(t, c, 1000, 3000)
	l.checkAll(t, c)
	if err := c.leave(); err != nil {
		t.Error(err)
	}
	checkAccounts(t, d, true)
	d.stop()

	// The device alone is the export now.
	checkRestart(t, dir, options, l)
}
