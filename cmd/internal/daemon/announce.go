package daemon

import (
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

// Announcement is what the user is told at the start: what is served, where, and
// the exact commands to attach it.
func (d *Daemon) Announcement() string {
	var b strings.Builder
	fmt.Fprintf(&b, "tmemd %s, process %d\n", d.options.Version, os.Getpid())
	for _, e := range d.list() {
		fmt.Fprintf(&b, "  export   %s, %s, storage %s\n", e.Name, cli.Bytes(uint64(e.Size)), e.Storage)
	}
	for _, s := range d.frontswap.Backends() {
		fmt.Fprintf(&b, "  backend  %s, up to %s\n", s.Name, cli.Bytes(s.Stats.LimitBytes))
	}
	if len(d.config.Backends) == 0 {
		fmt.Fprintf(&b, "  backend  none: pages go to storage\n")
	}
	for _, a := range d.bound {
		fmt.Fprintf(&b, "  nbd      %s\n", a)
	}
	fmt.Fprintf(&b, "  admin    unix://%s\n", d.folder.Path("admin.sock"))
	if d.metrics != nil {
		fmt.Fprintf(&b, "  metrics  %s\n", metricsURL(d.metricsAddr))
	}
	for _, a := range d.bound {
		if a.Network == "unix" {
			fmt.Fprintf(&b, "\nto swap to it on this host, as root:\n")
		} else {
			fmt.Fprintf(&b, "\nto swap to it by way of %s, as root on the other host:\n", a)
		}
		fmt.Fprintf(&b, "  modprobe nbd\n")
		for i, e := range d.list() {
			fmt.Fprintf(&b, "  tmemctl attach /dev/nbd%d --server %s --export %s --detach\n", i, clientAddress(a), e.Name)
		}
	}
	return b.String()
}

// clientAddress is how tmemctl attach is told an address.
func clientAddress(a config.Address) string {
	if a.Network == "unix" {
		return quote(a.String())
	}
	host, port, err := net.SplitHostPort(a.Address)
	if err != nil {
		return a.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		// Every address of this machine: its name is the best that we know.
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return "tcp://" + net.JoinHostPort(host, port)
}

// quote makes a path one word for a shell.
func quote(path string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+,:@%"
	if strings.Trim(path, plain) == "" {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
