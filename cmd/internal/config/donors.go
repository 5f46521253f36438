package config

import (
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/tmemd/tmemd/backends/ramster"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/nbd"
)

// DonorPort is where donors listen, if nobody says otherwise.
const DonorPort = 10810

// DonorSyntax is the cure for what names no donor.
const DonorSyntax = "write NAME=ADDRESS, or ADDRESS alone; addresses are tcp://HOST:PORT, unix:///PATH and vsock://CID:PORT"

// vsockAny stands for every address of this machine.
const vsockAny = "any"

// ParseDonor reads a donor: NAME=ADDRESS, or ADDRESS alone, which makes the name.
func ParseDonor(text string) (ramster.Donor, *cli.Error) {
	text = strings.TrimSpace(text)
	name, address, named := strings.Cut(text, "=")
	if !named || strings.Contains(name, "://") {
		name, address, named = "", text, false
	}
	a, err := parseHostAddress(address, false)
	if err != nil {
		return ramster.Donor{}, cli.Misuse(DonorSyntax, "%v", err)
	}
	if !named {
		name = donorName(a)
	}
	switch {
	case !nameSyntax.MatchString(name) && named:
		return ramster.Donor{}, cli.Misuse(nameCure, "%q is not a name", name)
	case !nameSyntax.MatchString(name) || len(name) > ramster.MaxName:
		return ramster.Donor{}, cli.Misuse("give it one: NAME="+a.String(), "%s makes no name", a)
	case len(a.String()) > ramster.MaxAddress:
		return ramster.Donor{}, cli.Misuse("use a shorter one", "the address %s has %d bytes, the limit is %d", a, len(a.String()), ramster.MaxAddress)
	}
	return ramster.Donor{Name: name, Address: a.String()}, nil
}

var noName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// donorName is what a donor is called that nobody gave a name.
func donorName(a Address) string {
	name := a.Address
	switch a.Network {
	case "unix":
		name = strings.TrimSuffix(filepath.Base(name), ".sock")
	case "vsock":
		name = "vsock-" + name
	}
	name = strings.TrimSuffix(name, ":"+strconv.Itoa(DonorPort))
	return strings.Trim(noName.ReplaceAllString(name, "-"), "-")
}

// ParseDonorAddress reads an address of a donor.
func ParseDonorAddress(text string) (Address, error) { return parseHostAddress(text, false) }

// parseHostAddress reads addresses that other hosts may have too. With anywhere, every
// address of a machine is one.
func parseHostAddress(text string, anywhere bool) (Address, error) {
	rest, found := strings.CutPrefix(text, "vsock://")
	if !found {
		a, err := parseAddress(text)
		if err == nil && a.Network == "tcp" && !anywhere && strings.HasSuffix(a.Address, ":0") {
			err = fmt.Errorf("%q names no port", text)
		}
		return a, err
	}
	cid, port, found := strings.Cut(rest, ":")
	if _, err := strconv.ParseUint(cid, 10, 32); err != nil && (cid != vsockAny || !anywhere) {
		return Address{}, fmt.Errorf("%q has the context %q, which is not a number", text, cid)
	}
	if _, err := strconv.ParseUint(port, 10, 32); err != nil || !found {
		return Address{}, fmt.Errorf("%q has the port %q, which is not a number", text, port)
	}
	return Address{Network: "vsock", Address: rest}, nil
}

// Vsock returns the numbers of a vsock address.
func (a Address) Vsock() (cid, port uint32) {
	first, second, _ := strings.Cut(a.Address, ":")
	number, err := strconv.ParseUint(first, 10, 32)
	if err != nil {
		number = 1<<32 - 1 // VMADDR_CID_ANY
	}
	cid = uint32(number)
	number, _ = strconv.ParseUint(second, 10, 32) // parsed before
	return cid, uint32(number)
}

// IsLoopback says whether HOST:PORT is the host's own, by number.
func IsLoopback(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	ip := net.ParseIP(host)
	return err == nil && ip != nil && ip.IsLoopback()
}

// PeerTLS is how the connections of owners and donors of memory are encrypted, on one
// side. Over TCP both show certificates.
type PeerTLS struct {
	TLS
	Plain bool // somebody said that there is none, which is for loopback
}

// Check says why an address may not be used, or nil. table is where TLS is configured.
func (t PeerTLS) Check(a Address, table TLSTable) *cli.Error {
	cure := fmt.Sprintf("set certificate, key and %s in [%s]", table.authorities(), table)
	switch {
	case a.Network != "tcp" || t.Mode == nbd.TLSRequired:
		return nil
	case !t.Plain:
		return cli.Misuse(cure+`, or mode = "off" if the address is loopback`, "%s needs TLS", a)
	case IsLoopback(a.Address):
		return nil
	}
	return cli.Misuse(cure, "%s needs TLS, and it is off: it is not a loopback address", a)
}

// CheckDonors says why one of the donors may not be used, or nil.
func (t PeerTLS) CheckDonors(list []ramster.Donor) *cli.Error {
	for _, d := range list {
		a, err := ParseDonorAddress(d.Address)
		if err != nil {
			return cli.Misuse(DonorSyntax, "%v", err)
		}
		if wrong := t.Check(a, RamsterTLS); wrong != nil {
			return wrong
		}
	}
	return nil
}
