package daemon

import (
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/nbd"
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
		fmt.Fprintf(&b, "  nbd      %s%s\n", a, d.tlsNote(a.Address))
	}
	fmt.Fprintf(&b, "  admin    %s\n", d.adminAddr)
	if d.metrics != nil {
		fmt.Fprintf(&b, "  metrics  %s\n", metricsURL(d.metricsAddr))
	}
	for _, a := range d.bound {
		if a.Network == "unix" {
			fmt.Fprintf(&b, "\nto swap to it on this host, as root:\n")
		} else {
			fmt.Fprintf(&b, "\nto swap to it by way of %s, as root on the other host:\n", a)
			if d.config.NBD.TLS.Mode == nbd.TLSRequired {
				fmt.Fprintf(&b, "  (add -cacertfile FILE to nbd-client, and -certfile FILE -keyfile FILE if certificates are asked for)\n")
			}
		}
		fmt.Fprintf(&b, "  modprobe nbd\n")
		for i, e := range d.list() {
			fmt.Fprintf(&b, "  nbd-client %s /dev/nbd%d -N %s -b %d\n", clientAddress(a.Address), i, e.Name, pageSize)
			fmt.Fprintf(&b, "  mkswap /dev/nbd%d\n", i)
			fmt.Fprintf(&b, "  swapon --discard /dev/nbd%d\n", i)
		}
	}
	return b.String()
}

// tlsNote says how an address is encrypted.
func (d *Daemon) tlsNote(a config.Address) string {
	t := d.showTLS()
	switch {
	case t == nil || a.Network == "unix":
		return ""
	case !t.Required:
		return ", TLS if the client likes"
	}
	return ", with TLS"
}

// clientAddress is how nbd-client is told an address.
func clientAddress(a config.Address) string {
	if a.Network == "unix" {
		return "-unix " + quote(a.Address)
	}
	host, port, err := net.SplitHostPort(a.Address)
	if err != nil {
		return a.Address
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		// Every address of this machine: its name is the best that we know.
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return host + " " + port
}

// quote makes a path one word for a shell.
func quote(path string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+,:@%"
	if strings.Trim(path, plain) == "" {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
