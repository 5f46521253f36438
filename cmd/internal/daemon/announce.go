package daemon

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
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
	for _, s := range d.listDisks() {
		size, _ := s.device.Size() // never an error
		fmt.Fprintf(&b, "  disk     %s, %s, %s\n", s.Name, cli.Bytes(uint64(size)), s.Path)
	}
	for _, s := range d.frontswap.Backends() {
		fmt.Fprintf(&b, "  backend  %s, up to %s\n", s.Name, cli.Bytes(s.Stats.LimitBytes))
	}
	if len(d.config.Backends) == 0 && !d.config.DonorOnly {
		fmt.Fprintf(&b, "  backend  none: pages go to storage\n")
	}
	for _, a := range d.bound {
		fmt.Fprintf(&b, "  nbd      %s%s\n", a, d.tlsNote(a.Address))
	}
	if d.lent != nil {
		for _, a := range d.lent.bound {
			fmt.Fprintf(&b, "  lends    up to %s on %s\n", cli.Bytes(uint64(d.config.Donor.Size)), a)
		}
	}
	fmt.Fprintf(&b, "  admin    %s\n", d.adminAddr)
	if d.metrics != nil {
		fmt.Fprintf(&b, "  metrics  %s\n", metricsURL(d.metricsAddr))
		if d.config.StatusPage {
			fmt.Fprintf(&b, "  status   http://%s/\n", d.metricsAddr)
		}
	}
	for _, a := range d.bound {
		if len(d.list()) == 0 {
			break
		}
		if a.Network == "unix" {
			fmt.Fprintf(&b, "\nto swap to it on this host, as root:\n")
		} else {
			fmt.Fprintf(&b, "\nto swap to it by way of %s, as root on the other host:\n", a)
		}
		fmt.Fprintf(&b, "  modprobe nbd\n")
		encrypted := a.Network != "unix" && d.config.NBD.TLS.Mode == nbd.TLSRequired
		for i, e := range d.list() {
			if encrypted {
				announceEncrypted(&b, a.Address, e.Name, i)
			} else {
				fmt.Fprintf(&b, "  %s attach /dev/nbd%d --server %s --export %s --detach\n", d.ctl(a.Network), i, clientAddress(a.Address), e.Name)
			}
		}
	}
	return b.String()
}

// announceEncrypted is for TLS: the kernel speaks none, so nbd-client stays in
// between, and tmemctl attach would have nothing to hand over.
func announceEncrypted(b *strings.Builder, a config.Address, export string, number int) {
	address := strings.TrimPrefix(clientAddress(a), "tcp://")
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = address, ""
	}
	fmt.Fprintf(b, "  nbd-client %s %s /dev/nbd%d -N %s -b %d -cacertfile FILE [-certfile FILE -keyfile FILE]\n", host, port, number, export, pageSize)
	fmt.Fprintf(b, "  mkswap /dev/nbd%d && swapon --discard /dev/nbd%d\n", number, number)
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

// ctl is how to call tmemctl: on this host by its path beside this program, unless it is found by its name. sudo, for one, has a
// PATH of its own.
func (d *Daemon) ctl(network string) string {
	const name = "tmemctl"
	folder := filepath.Dir(d.options.Program)
	beside := filepath.Join(folder, name)
	if _, err := os.Stat(beside); err != nil || network != "unix" || slices.Contains(filepath.SplitList(os.Getenv("PATH")), folder) {
		return name
	}
	return beside
}
