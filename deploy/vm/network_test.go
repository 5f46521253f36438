//go:build e2e

package vm

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
)

const (
	networks  = 64 // that there can be at once on a machine
	mostHosts = 8  // of one of them

	namespaces = "/run/netns" // where iproute2 has their names
)

// network is some hosts on one wire, which is a bridge: network namespaces with an address each. This machine is on it too. A host's
// link can be cut. All of it is gone at the end of the test; what a killed one left, the next one removes.
type network struct {
	t      *testing.T
	number int // unlike that of any other network on this machine
	hosts  int
	claim  net.Listener // keeps the number, and ends with the process however that ends
}

// newNetwork makes a network. It takes root, and iproute2.
func newNetwork(ctx context.Context, t *testing.T, hosts int) *network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces take root: run this test as root, or with sudo")
	}
	n := &network{t: t, hosts: hosts}
	t.Cleanup(func() {
		if n.claim != nil {
			n.remove()
			n.claim.Close()
		}
	})
	for number := range networks {
		// The name of a socket without a file: it is a namespace's own, as the names of links are.
		claim, err := net.Listen("unix", fmt.Sprintf("@tmemd-vm-network-%d", number))
		if err != nil {
			continue // of another test that is running
		}
		(&network{t: t, number: number, hosts: mostHosts}).remove()
		if n.claim != nil {
			claim.Close()
			continue
		}
		n.number, n.claim = number, claim
	}
	if n.claim == nil {
		t.Fatalf("%d tests have networks on this machine already", networks)
	}
	n.ip(ctx, "link", "add", n.bridge(), "type", "bridge")
	n.ip(ctx, "address", "add", n.address(0)+"/24", "dev", n.bridge())
	n.ip(ctx, "link", "set", n.bridge(), "up")
	for host := 1; host <= hosts; host++ {
		n.plug(ctx, host)
	}
	return n
}

// plug makes a host and connects it.
func (n *network) plug(ctx context.Context, host int) {
	n.t.Helper()
	within := []string{"-netns", n.namespace(host)}
	n.ip(ctx, "netns", "add", n.namespace(host))
	n.ip(ctx, "link", "add", n.link(host), "type", "veth", "peer", "name", "eth0", "netns", n.namespace(host))
	n.ip(ctx, append(within, "address", "add", n.address(host)+"/24", "dev", "eth0")...)
	n.ip(ctx, append(within, "link", "set", "lo", "up")...)
	n.ip(ctx, append(within, "link", "set", "eth0", "up")...)
	n.ip(ctx, "link", "set", n.link(host), "master", n.bridge(), "up")
}

// cut has frames to and from a host vanish without a word, until heal.
func (n *network) cut(ctx context.Context, host int) {
	n.t.Helper()
	n.ip(ctx, "link", "set", n.link(host), "down")
}

func (n *network) heal(ctx context.Context, host int) {
	n.t.Helper()
	n.ip(ctx, "link", "set", n.link(host), "up")
}

// on is the beginning of a command line that runs a program on a host.
func (n *network) on(host int) []string {
	n.t.Helper()
	ip, err := findTool("ip")
	if err != nil {
		n.t.Fatal(err)
	}
	return []string{ip, "netns", "exec", n.namespace(host)}
}

// address is that of a host, or with 0 of this machine: in a range that is for tests of networks (RFC 2544).
func (n *network) address(host int) string { return fmt.Sprintf("198.18.%d.%d", n.number, host+1) }

func (n *network) bridge() string { return fmt.Sprintf("tmemd%dbr", n.number) }

// link is this machine's end of a host's cable; the other end is eth0 there.
func (n *network) link(host int) string { return fmt.Sprintf("tmemd%dh%d", n.number, host) }

func (n *network) namespace(host int) string {
	return fmt.Sprintf("tmemd-vm-%d-donor%d", n.number, host)
}

// remove removes what there is of a network with this number.
func (n *network) remove() {
	ctx := context.Background() // the test's has ended
	for host := 1; host <= n.hosts; host++ {
		n.removeLink(ctx, n.link(host))
		if _, err := os.Lstat(filepath.Join(namespaces, n.namespace(host))); err == nil {
			n.try(ctx, "netns", "delete", n.namespace(host))
		}
	}
	n.removeLink(ctx, n.bridge())
}

func (n *network) removeLink(ctx context.Context, name string) {
	if _, err := net.InterfaceByName(name); err == nil {
		n.try(ctx, "link", "delete", name)
	}
}

// try is ip for what is to be removed: the rest is removed nevertheless.
func (n *network) try(ctx context.Context, args ...string) {
	n.t.Helper()
	if _, err := runTool(ctx, "", "ip", args...); err != nil {
		n.t.Error(err)
	}
}

func (n *network) ip(ctx context.Context, args ...string) {
	n.t.Helper()
	if _, err := runTool(ctx, "", "ip", args...); err != nil {
		n.t.Fatalf("%v (network namespaces take root, with all its capabilities)", err)
	}
}

// Two networks at once are different ones, and what a killed test left is gone when the next one begins.
func TestNetworksDoNotClash(t *testing.T) {
	first, second := newNetwork(t.Context(), t, 2), newNetwork(t.Context(), t, 1)
	if first.number == second.number {
		t.Fatalf("both networks have the number %d", first.number)
	}
	first.claim.Close() // as it is when the process is killed
	first.claim = nil
	third := newNetwork(t.Context(), t, 1)
	if third.number == second.number {
		t.Errorf("a third network has the number %d of one that is in use", third.number)
	}
	if _, err := net.InterfaceByName(first.link(2)); err == nil {
		t.Errorf("link %s is there still: its test was killed", first.link(2))
	}
	if _, err := os.Lstat(filepath.Join(namespaces, first.namespace(2))); err == nil {
		t.Errorf("namespace %s is there still: its test was killed", first.namespace(2))
	}
	if _, err := net.InterfaceByName(second.link(1)); err != nil {
		t.Errorf("link %s of a test that is running: %v", second.link(1), err)
	}
}
