//go:build e2e

package vm

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/tmemd/tmemd/nbd/tlstest"
)

// All that the run with other hosts knows of how memory is lent and borrowed, beyond what is in daemon_test.go.

const (
	ramsterName = "ramster"
	ownerName   = "owner" // in its certificate
	donorPort   = "10810"
	donorSize   = "256MiB" // room for all that the guest swaps out
	stateUp     = "up"
)

// lender is what the scenario reads of "tmemctl donor list --json": a donor as its owner sees it.
type lender struct {
	Name     string `json:"name"`
	State    string `json:"state"`
	Leaving  bool   `json:"leaving"`
	Pages    int64  `json:"pages"`
	Rejected uint64 `json:"rejected_replies"`
	Missing  uint64 `json:"missing_pages"`
	Missed   uint64 `json:"missed_deadlines"`
	Sessions uint64 `json:"sessions"`
}

// donor is a tmemd on a host of the network that lends memory and does nothing else.
type donor struct {
	*daemon
	host int
}

func donorName(host int) string { return fmt.Sprintf("donor%d", host) }

// prepareDonor makes the files of a donor, and issues its certificate. It is not started.
func prepareDonor(t *testing.T, bin string, n *network, a *tlstest.Authority, host int) *donor {
	t.Helper()
	d := &donor{daemon: newDaemon(t, bin, donorName(host)), host: host}
	certificate, key := tlstest.WriteFiles(t, d.stateDir, "host", a.Issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: donorName(host)}, IPAddresses: []net.IP{net.ParseIP(n.address(host))},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}))
	// How much it lends does not depend on what else this machine does just now.
	config := writeConfig(t, d.stateDir, `
		metrics = "off"
		[donor]
		listen = ["tcp://%s"]
		size = "%s"
		self_sizing = "off"
		[donor.tls]
		certificate = "%s"
		key = "%s"
		client_ca = "%s"
		[[donor.client]]
		name = "cert:%s"
		quota = "%s"
		`, net.JoinHostPort(n.address(host), donorPort), donorSize, certificate, key, a.WriteFile(t, d.stateDir, "owners.crt"), ownerName, donorSize)
	d.launcher = n.on(host)
	d.args = []string{"donor", "--config", config, "--state-dir", d.stateDir, "--memory-dir", d.memory}
	return d
}

// prepareOwner writes the configuration of one that swaps into the memory of donors, and returns its path. Its staging area is less
// than the guest swaps out at once: what finds no room goes to storage.
func prepareOwner(t *testing.T, n *network, a *tlstest.Authority, hosts ...int) string {
	t.Helper()
	dir := t.TempDir()
	certificate, key := tlstest.WriteFiles(t, dir, "host", a.Client(t, ownerName))
	var donors []string
	for _, host := range hosts {
		donors = append(donors, donorName(host)+"="+donorAddress(n, host))
	}
	list, err := json.Marshal(donors) // as TOML has it, too
	if err != nil {
		t.Fatal(err)
	}
	return writeConfig(t, dir, `
		[ramster.tls]
		certificate = "%s"
		key = "%s"
		ca = "%s"
		[[backend]]
		kind = "ramster"
		size = "512MiB"
		staging = "8MiB"
		patience = "20s"
		lost_after = "5s"
		donors = %s
		`, certificate, key, a.WriteFile(t, dir, "donors.crt"), list)
}

func donorAddress(n *network, host int) string {
	return "tcp://" + net.JoinHostPort(n.address(host), donorPort)
}

func writeConfig(t *testing.T, dir, format string, values ...any) string {
	t.Helper()
	path := filepath.Join(dir, "tmemd.toml")
	if err := os.WriteFile(path, fmt.Appendf(nil, format, values...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// forget takes away what it keeps in memory, as a host that is started anew does. It must not be running.
func (d *donor) forget() {
	d.t.Helper()
	if err := os.RemoveAll(d.memory); err != nil {
		d.t.Fatal(err)
	}
}

// lent is how many pages it has, by its own count.
func (d *donor) lent(ctx context.Context) (pages int64) {
	d.t.Helper()
	var now struct {
		Clients []struct {
			Name  string `json:"name"`
			Pages int64  `json:"pages"`
		} `json:"clients"`
	}
	if err := json.Unmarshal(d.tmemctl(ctx, "lend", "status"), &now); err != nil {
		d.t.Fatalf("tmemctl lend status: %v", err)
	}
	for _, c := range now.Clients {
		pages += c.Pages
	}
	return pages
}

// lenders are the owner's donors.
func (d *daemon) lenders(ctx context.Context) []lender {
	d.t.Helper()
	var list []lender
	if err := json.Unmarshal(d.tmemctl(ctx, "donor", "list"), &list); err != nil {
		d.t.Fatalf("tmemctl donor list: %v", err)
	}
	return list
}
