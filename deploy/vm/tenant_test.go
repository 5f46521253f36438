//go:build e2e

package vm

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
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
