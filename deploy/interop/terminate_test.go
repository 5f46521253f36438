//go:build interop

package interop

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// drainSettings is an export with zcache whose storage is on the disk. The
// state folder is elsewhere, so that only pages are slow.
func drainSettings(t *testing.T, disk *slowDisk) string {
	return settings(t, fmt.Sprintf(`
[[export]]
size = "64MiB"
storage = %q

[[backend]]
kind = "zcache"
size = "64MiB"
`, filepath.Join(disk.dir, "swap.img")))
}

// Pages that a test's two clients write: the first all of its own before the
// fault, the second on and on.
const (
	pagesOfFirst = 6000
	pagesOfBoth  = 8000
)

func TestTerminateWhileUnloading(t *testing.T) {
	disk := newSlowDisk(t, 160<<20)
	dir, options := t.TempDir(), drainSettings(t, disk)
	d := start(t, dir, options)
	first, second := d.dial("unix"), d.dial("unix")
	l := newLedger()
	l.fill(t, first, 0, pagesOfFirst)
	if b := d.needZcache("active"); b.Pages < pagesOfFirst/2 {
		t.Fatalf("zcache has %d pages of %d", b.Pages, pagesOfFirst)
	}

	disk.freeze()
	background := startChurn(second, pagesOfFirst, pagesOfBoth)
	unloaded := make(chan result, 1)
	go func() { unloaded <- d.tmemctl("backend", "unload", "zcache") }()
	eventually(t, "zcache is draining", func() bool {
		b, found := d.zcache()
		return found && b.State == "draining"
	})
	d.signal(syscall.SIGTERM)
	eventually(t, "tmemd is on its way out", func() bool { return d.status().Phase == "draining" })

	// The drain hangs in a write, with pages locked. Loads go on.
	l.checkAll(t, first)
	if c, err := dial("unix", d.address("unix"), "swap"); err == nil {
		c.close()
		t.Error("a new client was let in")
	}
	if r := d.tmemctl("backend", "load", "zcache", "--name", "another"); r.err == nil || !strings.Contains(r.stderr, "being stopped") {
		t.Errorf("want a refusal to load a backend:\n%v", r)
	}

	stop := disk.crawl()
	r := <-unloaded
	stop()
	if r.err != nil {
		t.Fatal(r)
	}
	eventually(t, "every page is on storage", func() bool { return d.status().Phase == "waiting" })
	if _, found := d.zcache(); found {
		t.Error("zcache is still there")
	}

	// Attached clients are served for as long as they stay.
	l.fill(t, first, 0, 100)
	l.checkAll(t, first)
	others := background.stop(t)
	others.checkAll(t, second)
	if err := second.leave(); err != nil {
		t.Error(err)
	}
	if !d.running() || d.status().Phase != "waiting" {
		t.Fatal("tmemd did not wait for the last client")
	}
	if err := first.leave(); err != nil {
		t.Error(err)
	}
	d.waitDone()
	checkRestart(t, dir, options, l, others)
}

// checkRestart starts a tmemd again where one ended well and reads everything.
func checkRestart(t *testing.T, dir, options string, ledgers ...*ledger) {
	t.Helper()
	d := start(t, dir, options)
	c := d.dial("unix")
	for _, l := range ledgers {
		l.checkAll(t, c)
	}
	if err := c.leave(); err != nil {
		t.Error(err)
	}
	d.stop()
}

func TestSecondSignal(t *testing.T) {
	t.Run("while pages are moved", func(t *testing.T) {
		disk := newSlowDisk(t, 160<<20)
		dir, options := t.TempDir(), drainSettings(t, disk)
		d := start(t, dir, options)
		c := d.dial("unix")
		l := newLedger()
		l.fill(t, c, 0, pagesOfFirst)
		disk.freeze()
		d.signal(syscall.SIGTERM)
		eventually(t, "tmemd is on its way out", func() bool { return d.status().Phase == "draining" })
		d.signal(syscall.SIGTERM)
		eventually(t, "the log tells of the second signal", func() bool {
			return strings.Contains(d.log(), "will not wait for clients, but for pages")
		})
		l.checkAll(t, c)
		if b := d.needZcache("draining"); b.Pages == 0 {
			t.Error("the drain was not waited for")
		}
		disk.thaw()
		d.waitDone()
		if err := l.check(c, 0); err == nil {
			t.Error("the client was not sent away")
		}
		checkRestart(t, dir, options, l)
	})

	t.Run("while clients are waited for", func(t *testing.T) {
		dir := t.TempDir()
		options := settings(t, "[[export]]\nsize = \"64MiB\"\n")
		d := start(t, dir, options)
		background := startChurn(d.dial("unix"), 0, pagesOfFirst)
		d.signal(syscall.SIGTERM)
		eventually(t, "every page is on storage", func() bool { return d.status().Phase == "waiting" })
		d.signal(syscall.SIGTERM)
		d.waitDone()
		// It ends by itself, in the middle of a request or between two.
		if err := <-background.ended; err == nil {
			t.Error("the client was not sent away")
		}
		checkRestart(t, dir, options, background.ledger)
	})
}
