package bench

import (
	"net"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// defaultPort is NBD's.
const defaultPort = "10809"

// target is an export of a server.
type target struct {
	network, address string // as package net calls them
	export           string
}

const targetSyntax = "write nbd+unix:///EXPORT?socket=PATH, nbd://HOST:PORT/EXPORT, unix:///PATH or tcp://HOST:PORT, the last two with --export"

// parseTarget reads a URI as the NBD project defines it (doc/uri.md), or an address as
// tmemd takes it. export is the flag's.
func parseTarget(text, export string) (target, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" {
		return target{}, cli.Misuse(targetSyntax, "%q is not the address of an NBD server", text)
	}
	t := target{export: export}
	switch u.Scheme {
	case "nbd+unix":
		t.network, t.address = "unix", u.Query().Get("socket")
	case "unix":
		t.network, t.address = "unix", u.Path
	case "nbd", "tcp":
		t.network, t.address = "tcp", u.Host
		if u.Host != "" && u.Port() == "" {
			t.address = net.JoinHostPort(u.Hostname(), defaultPort)
		}
	case "nbds", "nbds+unix":
		return target{}, cli.Misuse("measure it in the clear, over a Unix socket or a private network", "bench does not speak TLS")
	default:
		return target{}, cli.Misuse(targetSyntax, "%q has the unknown scheme %q", text, u.Scheme)
	}
	if t.address == "" || t.network == "unix" && u.Host != "" {
		return target{}, cli.Misuse(targetSyntax, "%q says nothing of where the server is", text)
	}
	if t.network == "unix" {
		if t.address, err = filepath.Abs(t.address); err != nil {
			return target{}, err
		}
	}
	if u.Scheme == "nbd" || u.Scheme == "nbd+unix" {
		named := strings.TrimPrefix(u.Path, "/")
		if named != "" && export != "" && named != export {
			return target{}, cli.Misuse("leave one of them out", "the URI names the export %q, --export %q", named, export)
		}
		if named != "" {
			t.export = named
		}
	}
	return t, nil
}
