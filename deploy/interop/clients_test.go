//go:build interop

package interop

import (
	"context"
	"fmt"
	"path/filepath"
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
			d := start(t, dir, "--size", fmt.Sprint(exportSize), "--backend", ground.backend,
				"--listen", "unix://"+filepath.Join(dir, "nbd.sock"), "--listen", "tcp://127.0.0.1:0")
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
			d.stop()
		})
	}
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
	tmemctl := filepath.Join(bin, "tmemctl")
	go func() {
		var o outcome
		for ctx.Err() == nil && o.failed.err == nil {
			for _, action := range []string{"load", "unload"} {
				// Not cut short by ctx: zcache is gone when this ends.
				r := try(context.Background(), tmemctl, "--state-dir", d.stateDir, "backend", action, "zcache")
				if r.err != nil {
					o.failed = r
					break
				}
				// Some stores in each state.
				time.Sleep(50 * time.Millisecond)
			}
			o.rounds++
		}
		ended <- o
	}()
	var last outcome
	stop = func() int {
		cancel()
		if o, first := <-ended; first {
			last = o
			close(ended)
		}
		if last.failed.err != nil {
			d.t.Error(last.failed)
		}
		return last.rounds
	}
	d.t.Cleanup(func() { stop() })
	return stop
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
