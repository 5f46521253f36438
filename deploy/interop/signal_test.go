//go:build interop

package interop

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestKill ends tmemd with SIGKILL while a client writes. The next one takes over
// every page that was acknowledged; package crash does that a thousand times.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	d := start(t, dir, "--size=64MiB")
	first, l := d.dial("unix"), newLedger()
	l.fill(t, first, 0, 1000)
	second, others := d.dial("unix"), newLedger()
	ended := make(chan error, 1)
	go func() {
		for number := uint64(1000); ; number++ {
			if err := others.write(second, number%1000+1000); err != nil {
				ended <- err
				return
			}
		}
	}()
	eventually(t, "pages are written", func() bool { return d.export().SuccStores > 1500 })
	d.signal(syscall.SIGKILL)
	if err := d.wait(); err == nil {
		t.Fatal("it ended well")
	}
	<-ended
	checkRestart(t, dir, "--size=64MiB", l, others)
	checkRestart(t, dir, "--size=64MiB", l, others)
}

// TestKillWithoutMemory ends a tmemd with SIGKILL that keeps pages in memory which
// ends with it. They are gone then: the next start says so, and what to do, instead
// of serving what is left.
func TestKillWithoutMemory(t *testing.T) {
	dir := t.TempDir()
	options := []string{"--size", "64MiB", "--backend", "zcache", "--memory-dir", "off"}
	d := start(t, dir, options...)
	c, l := d.dial("unix"), newLedger()
	l.fill(t, c, 0, 1000)
	d.signal(syscall.SIGKILL)
	if err := d.wait(); err == nil {
		t.Fatal("it ended well")
	}

	for i := range 2 {
		t.Run(fmt.Sprintf("refused %d", i+1), func(t *testing.T) {
			refused := launch(t, dir, options...)
			if err := refused.wait(); err == nil || refused.process.ProcessState.ExitCode() != 1 {
				t.Errorf("it ended with %v, want exit status 1", err)
			}
			for _, word := range []string{"error: ", dir, "did not end properly", "hint: ", "--fresh", "mkswap"} {
				if !strings.Contains(refused.log(), word) {
					t.Errorf("it does not mention %q:\n%s", word, refused.log())
				}
			}
		})
	}

	d = start(t, dir, append(options, "--fresh")...)
	c, l = d.dial("unix"), newLedger()
	got := make([]byte, pageSize)
	for number := range int64(1000) {
		if err := c.read(got, number*pageSize); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, make([]byte, pageSize)) {
			t.Fatalf("page %d of a fresh export is not empty", number)
		}
	}
	l.fill(t, c, 0, 100)
	l.checkAll(t, c)
	if err := c.leave(); err != nil {
		t.Error(err)
	}
	d.stop()
	checkRestart(t, dir, "--size=64MiB", l)
}

// TestHangup closes the terminal that tmemd was started from. It may stop for
// that, in its own way, or stay.
func TestHangup(t *testing.T) {
	dir := t.TempDir()
	d := start(t, dir, "--size", "64MiB")
	c, l := d.dial("unix"), newLedger()
	l.fill(t, c, 0, 1000)
	d.signal(syscall.SIGHUP)
	l.fill(t, c, 500, 1500)
	l.checkAll(t, c)
	if err := c.leave(); err != nil {
		t.Error(err)
	}
	if d.running() {
		// The error is that it ended at this moment.
		_ = d.process.Process.Signal(syscall.SIGTERM)
	}
	d.waitDone()
	checkRestart(t, dir, "--size=64MiB", l)
}

// TestLogReaderGone takes away whoever reads what tmemd prints.
func TestLogReaderGone(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	d := launchInto(t, writer, dir, "--size", "64MiB")
	writer.Close()
	read := make(chan error, 1)
	go func() {
		// The beginning of the announcement.
		_, err := io.ReadFull(reader, make([]byte, 100))
		read <- err
	}()
	d.awaitReady()
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	c, l := d.dial("unix"), newLedger()
	l.fill(t, c, 0, 1000)
	reader.Close()
	d.control("backend", "unload", "zcache") // which is worth a line
	l.checkAll(t, c)
	if err := c.leave(); err != nil {
		t.Error(err)
	}
	d.stop()
	checkRestart(t, dir, "--size=64MiB", l)
}
