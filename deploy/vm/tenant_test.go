//go:build e2e

package vm

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// All that the run with several machines knows of clients and moves, beyond what is in daemon_test.go.

// poolClient is what the scenario reads of "tmemctl client list --json".
type poolClient struct {
	Name     string            `json:"name"`
	Weight   uint32            `json:"weight"`
	Reserved uint64            `json:"reservation_bytes"`
	Kept     uint64            `json:"kept_bytes"`
	Used     uint64            `json:"used_bytes"`
	Refused  map[string]uint64 `json:"refused"`
	Evicted  uint64            `json:"evicted"`
}

// poolClients are the daemon's clients, by name.
func (d *daemon) poolClients(ctx context.Context) map[string]poolClient {
	d.t.Helper()
	var list []poolClient
	if err := json.Unmarshal(d.tmemctl(ctx, "client", "list"), &list); err != nil {
		d.t.Fatalf("tmemctl client list: %v", err)
	}
	clients := make(map[string]poolClient)
	for _, c := range list {
		clients[c.Name] = c
	}
	return clients
}

// exportMove is what the scenario reads of the last line of "tmemctl export move --json".
type exportMove struct {
	Round   int     `json:"round"`
	Sent    uint64  `json:"sent"`
	PauseMS float64 `json:"pause_ms"`
	Done    bool    `json:"done"`
}

// moveExport moves an export to another daemon. A busy test machine may need a longer pause than the default: what counts here
// is that it is told.
func (d *daemon) moveExport(ctx context.Context, name, to string) (last exportMove) {
	d.t.Helper()
	for line := range strings.Lines(string(d.tmemctl(ctx, "export", "move", name, "--to", to, "--max-pause", "2s"))) {
		last = exportMove{}
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			d.t.Fatalf("tmemctl export move: %v: %s", err, line)
		}
	}
	if !last.Done || last.Sent == 0 || last.PauseMS <= 0 {
		d.t.Errorf("tmemctl export move ends with %+v", last)
	}
	return last
}

// nbdSocket is where it serves NBD if it was not told where.
func (d *daemon) nbdSocket() string { return filepath.Join(d.stateDir, "nbd.sock") }

// What the run takes for an even share is one, and what it does not is none.
func TestImbalance(t *testing.T) {
	look := func(a, b, c float64) map[string]poolClient {
		return map[string]poolClient{
			"a": {Weight: 1, Kept: 8 << 20, Used: uint64((8 + a) * (1 << 20))},
			"b": {Weight: 2, Used: uint64(2 * b * (1 << 20))},
			"c": {Weight: 4, Used: uint64(4 * c * (1 << 20))},
		}
	}
	for _, test := range []struct {
		name  string
		looks []map[string]poolClient
		fair  bool
	}{
		{"as it should be", []map[string]poolClient{look(2, 2, 2)}, true},
		{"a little off", []map[string]poolClient{look(2, 1.9, 2.1)}, true},
		{"too much", []map[string]poolClient{look(2, 2.5, 1.9)}, false},
		{"too little", []map[string]poolClient{look(2, 2.1, 1.7), look(2, 2.1, 1.8)}, false},
		{"right on average", []map[string]poolClient{look(2, 2.3, 1.8), look(2, 1.7, 2.2)}, true},
		{"weights ignored", []map[string]poolClient{look(4, 2, 1)}, false},
		{"less than is reserved", []map[string]poolClient{look(-5, 1, 0.5)}, false},
	} {
		if off := imbalance(test.looks); off <= sharePercent != test.fair {
			t.Errorf("%s: off by %.1f %%", test.name, off)
		}
	}
}
