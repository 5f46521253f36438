package config

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// Address is where to listen: a network as package net calls it ("unix",
// "tcp") and an address in it.
type Address struct {
	Network string
	Address string
}

// String returns the address as --listen takes it.
func (a Address) String() string { return a.Network + "://" + a.Address }

const addressSyntax = "write unix:///PATH or tcp://HOST:PORT, where port 0 picks a free one"

// A socket's path has to fit into the kernel's struct sockaddr_un with its NUL.
const maxSocketPath = 107

// ParseAddress reads an address as --listen takes it.
func ParseAddress(text string) (Address, error) { return parseAddress(text) }

// parseAddress reads what --listen and listen take.
func parseAddress(text string) (Address, error) {
	network, rest, _ := strings.Cut(text, "://")
	switch network {
	case "unix":
		if !filepath.IsAbs(rest) {
			return Address{}, fmt.Errorf("%q has no absolute path", text)
		}
		path := filepath.Clean(rest)
		if err := checkSocketPath(path); err != nil {
			return Address{}, err
		}
		return Address{Network: "unix", Address: path}, nil
	case "tcp":
		if err := checkHostPort(rest); err != nil {
			return Address{}, err
		}
		return Address{Network: "tcp", Address: rest}, nil
	}
	return Address{}, fmt.Errorf("%q is not an address", text)
}

func checkSocketPath(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("the path of the socket %s has %d bytes, the system allows %d", path, len(path), maxSocketPath)
	}
	return nil
}

// checkHostPort takes HOST:PORT with a host that is not left out: listening on
// every address of the machine has to be spelled out.
func checkHostPort(text string) error {
	host, port, err := net.SplitHostPort(text)
	var bad *net.AddrError
	if errors.As(err, &bad) {
		return fmt.Errorf("%q: %s", text, bad.Err)
	}
	if err != nil {
		return err
	}
	if host == "" {
		return fmt.Errorf("%q names no host", text)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q has the port %q, which is not a number up to 65535", text, port)
	}
	return nil
}
