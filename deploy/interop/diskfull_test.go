//go:build interop

package interop

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const fullExportPages = 8192

// startOnFullDisk is a tmemd whose disk has filled up, state folder and all, and
// whose zcache has too: 4 MiB of it. The client c and what it wrote are returned.
func startOnFullDisk(t *testing.T) (d *daemon, disk *smallDisk, options string, c *client, l *ledger) {
	t.Helper()
	disk = newSmallDisk(t, 16<<20)
	options = settings(t, `
[[export]]
size = "32MiB"

[[backend]]
kind = "zcache"
size = "4MiB"
`)
	d = start(t, filepath.Join(disk.dir, "state"), options)
	c, l = d.dial("unix"), newLedger()
	l.fill(t, c, 0, 300)
	disk.fill()
	return d, disk, options, c, l
}

// fillPool writes until neither zcache nor the disk takes a page, and returns
// how many were taken. Only errors that say that there is no room are right.
func fillPool(t *testing.T, c *client, l *ledger) (taken int) {
	t.Helper()
	refusedInRow := 0
	for number := uint64(300); number < fullExportPages && refusedInRow < 200; number++ {
		switch err := l.write(c, number); {
		case err == nil:
			taken++
			refusedInRow = 0
		case errors.Is(err, syscall.ENOSPC):
			refusedInRow++
		default:
			t.Fatalf("write page %d: %v", number, err)
		}
	}
	if refusedInRow < 200 {
		t.Fatalf("there is room for the whole export: %d pages were taken", taken)
	}
	return taken
}

// overwrite writes every tenth page of the ledger again, whatever comes of it.
func overwrite(t *testing.T, c *client, l *ledger) (refused int) {
	t.Helper()
	for number := uint64(0); number < fullExportPages; number += 10 {
		if _, known := l.rounds[number]; !known {
			continue
		}
		switch err := l.write(c, number); {
		case errors.Is(err, syscall.ENOSPC):
			refused++
		case err != nil:
			t.Fatalf("write page %d: %v", number, err)
		}
	}
	return refused
}

func TestDiskFull(t *testing.T) {
	d, disk, options, c, l := startOnFullDisk(t)

	// The pool takes pages until it is full too. Noise has nowhere to go from the
	// start; it is a third of all.
	before := d.needZcache("active").Pages
	taken := fillPool(t, c, l)
	if taken < 500 || d.needZcache("active").Pages < before+500 {
		t.Errorf("zcache took %d pages while the disk was full", taken)
	}
	l.checkAll(t, c)
	if refused := overwrite(t, c, l); refused == 0 {
		t.Error("noise over pages in zcache was taken, though there is no room for it")
	}
	l.checkAll(t, c)

	// It cannot be unloaded, says so, and keeps what it has.
	r := d.tmemctl("backend", "unload", "zcache")
	if r.err == nil || !strings.Contains(r.stderr, "no space left on device") || !strings.Contains(r.stderr, "make room") {
		t.Errorf("want the unload to fail and say why and what to do:\n%v", r)
	}
	b := d.needZcache("frozen")
	if b.Pages == 0 || !strings.Contains(b.Reason, "no space left on device") {
		t.Errorf("zcache has %d pages, frozen because of %q", b.Pages, b.Reason)
	}
	l.checkAll(t, c)
	if refused := overwrite(t, c, l); refused == 0 {
		t.Error("a frozen backend took pages")
	}
	l.checkAll(t, c)

	// With room it is unloaded, and clients get no more errors.
	disk.grow(128 << 20)
	d.control("backend", "unload", "zcache")
	if _, found := d.zcache(); found {
		t.Error("zcache is still there")
	}
	l.checkAll(t, c)
	if refused := overwrite(t, c, l); refused != 0 {
		t.Errorf("%d pages were refused though there is room", refused)
	}
	l.fill(t, c, 300, fullExportPages)
	if err := c.flush(); err != nil {
		t.Errorf("flush: %v", err)
	}
	l.checkAll(t, c)
	if err := c.leave(); err != nil {
		t.Error(err)
	}
	d.stop()
	checkRestart(t, d.stateDir, options, l)
}

func TestTerminateWithFullDisk(t *testing.T) {
	d, disk, options, c, l := startOnFullDisk(t)
	fillPool(t, c, l)
	d.signal(syscall.SIGTERM)
	eventually(t, "the log says that it does not stop", func() bool {
		return strings.Contains(d.log(), "the stop failed")
	})
	if !strings.Contains(d.log(), "no space left on device") {
		t.Error("the log does not say why")
	}
	eventually(t, "tmemd is back", func() bool { return d.status().Phase == "serving" })
	l.checkAll(t, c)

	// Back means for everybody.
	another := d.dial("unix")
	l.checkAll(t, another)
	if err := another.leave(); err != nil {
		t.Error(err)
	}

	disk.grow(128 << 20)
	d.signal(syscall.SIGTERM)
	eventually(t, "every page is on storage", func() bool { return d.status().Phase == "waiting" })
	l.checkAll(t, c)
	if err := c.leave(); err != nil {
		t.Error(err)
	}
	d.waitDone()
	checkRestart(t, d.stateDir, options, l)
}
