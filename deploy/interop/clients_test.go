//go:build interop

package interop

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// exportSize is the size of the exports that other people's clients use.
const exportSize = 64 << 20

// target is where a client finds the export.
type target struct {
	unix, tcp string // URIs
	socket    string // path
	hostPort  string
}

// uris are the ways to the export, by network.
func (x target) uris() map[string]string { return map[string]string{"unix": x.unix, "tcp": x.tcp} }

func TestClients(t *testing.T) {
	clients := []struct {
		name string
		run  func(*testing.T, target)
	}{
		{"nbdinfo", testNbdinfo},
		{"nbdcopy", testNbdcopy},
		{"nbdsh", testNbdsh},
		{"block status", testStatus},
		{"qemu-io", testQemuIO},
		{"qemu-img", testQemuImg},
		{"fio", testFio},
		{"nbd-client", testNbdClient},
		{"nbdkit", testNbdkit},
	}
	grounds := []struct {
		name    string
		backend string // --backend
		plugged bool   // loaded and unloaded underneath
	}{
		{"no backend", "none", false},
		{"zcache", "zcache", false},
		{"zcache loaded and unloaded", "none", true},
	}
	for _, ground := range grounds {
		t.Run(ground.name, func(t *testing.T) {
			dir := t.TempDir()
			options := []string{
				"--size", fmt.Sprint(exportSize), "--backend", ground.backend,
				"--listen", "unix://" + filepath.Join(dir, "nbd.sock"), "--listen", "tcp://127.0.0.1:0",
			}
			d := start(t, dir, options...)
			x := target{unix: d.uri("unix"), tcp: d.uri("tcp"), socket: d.address("unix"), hostPort: d.address("tcp")}
			stop := func() int { return 0 }
			if ground.plugged {
				stop = d.plug()
			}
			for _, client := range clients {
				t.Run(client.name, func(t *testing.T) { client.run(t, x) })
			}
			if rounds := stop(); ground.plugged && rounds < 3 {
				t.Errorf("zcache was loaded and unloaded %d times only", rounds)
			}
			checkAccounts(t, d, ground.backend == "zcache" || ground.plugged)
			t.Run("restart", func(t *testing.T) { testRestart(t, d, options) })
		})
	}
}

// testRestart stops the daemon with an image in the export, whose holes are
// zeroed without giving up their space, and reads the image back from the next.
func testRestart(t *testing.T, d *daemon, options []string) {
	file := sample(t, exportSize, 41)
	run(t, "nbdcopy", append(copyOptions, "--allocated", file, d.uri("unix"))...)
	d.stop()
	d = start(t, d.stateDir, options...)
	copyBack(t, d.uri("unix"), file)
	d.stop()
}

// plug loads and unloads zcache until stop is called, which returns how many
// times it did both.
func (d *daemon) plug() (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	type outcome struct {
		rounds int
		failed result
	}
	ended := make(chan outcome, 1)
	go func() {
		var o outcome
		for ctx.Err() == nil && o.failed.err == nil {
			o.failed = d.plugOnce()
			o.rounds++
		}
		ended <- o
	}()
	stop = sync.OnceValue(func() int {
		cancel()
		o := <-ended
		if o.failed.err != nil {
			d.t.Error(o.failed)
		}
		return o.rounds
	})
	d.t.Cleanup(func() { stop() })
	return stop
}

// plugOnce loads zcache, gives it some stores, and unloads it. It returns what
// failed.
func (d *daemon) plugOnce() result {
	for _, action := range []string{"load", "unload"} {
		// Not cut short when the test ends: that would look like a failure.
		r := try(context.Background(), filepath.Join(bin, "tmemctl"), "--state-dir", d.stateDir, "backend", action, "zcache")
		if r.err != nil {
			return r
		}
		time.Sleep(50 * time.Millisecond)
	}
	return result{}
}

// checkAccounts looks at what the daemon counted: no client saw an error, and
// the backend did take part, or was not there.
func checkAccounts(t *testing.T, d *daemon, backend bool) {
	t.Helper()
	e := d.export()
	for command, n := range e.Errors {
		if n != 0 {
			t.Errorf("%d %s requests were answered with an error", n, command)
		}
	}
	if e.LoadErrors != 0 || e.Storage.ReadErrors != 0 || e.Storage.WriteErrors != 0 {
		t.Errorf("%d load errors, %d read errors, %d write errors of storage",
			e.LoadErrors, e.Storage.ReadErrors, e.Storage.WriteErrors)
	}
	if (e.SuccStores > 0) != backend {
		t.Errorf("backends took %d pages; a backend was loaded: %v", e.SuccStores, backend)
	}
}
