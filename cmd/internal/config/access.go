package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/nbd"
)

// AccessSyntax is the cure for a rule that there is not.
const AccessSyntax = "write cert:NAME (common name, DNS name or URI in a client's certificate), cert:* for any certificate, " +
	"uid:NUMBER or gid:NUMBER (who connects to a Unix socket)"

const maxCertificateName = 1024 // bytes

// ParseAccess reads the rules of an export. No rules at all are nil.
func ParseAccess(rules []string) (*nbd.Access, error) {
	if len(rules) == 0 {
		return nil, nil
	}
	var a nbd.Access
	for _, rule := range rules {
		if err := addRule(&a, rule); err != nil {
			return nil, err
		}
	}
	return &a, nil
}

func addRule(a *nbd.Access, rule string) error {
	kind, value, _ := strings.Cut(rule, ":")
	switch kind {
	case "cert":
		switch {
		case value == "" || len(value) > maxCertificateName:
			return fmt.Errorf("%q names no certificate", rule)
		case value == "*":
			a.AnyCertificate = true
		default:
			a.Certificates = append(a.Certificates, value)
		}
		return nil
	case "uid", "gid":
		// The highest number is no user: system calls take it for "none".
		number, err := strconv.ParseUint(value, 10, 32)
		if err != nil || number == 1<<32-1 {
			return fmt.Errorf("%q has no number of a user or group", rule)
		}
		if kind == "uid" {
			a.UIDs = append(a.UIDs, uint32(number))
		} else {
			a.GIDs = append(a.GIDs, uint32(number))
		}
		return nil
	}
	return fmt.Errorf("%q is no rule", rule)
}

// NeedsCertificates says whether one of the rules is about certificates.
func NeedsCertificates(rules []string) bool {
	return slices.ContainsFunc(rules, func(rule string) bool { return strings.HasPrefix(rule, "cert:") })
}

// CheckAccess says what is wrong with the rules of an export, for this
// configuration of TLS, or nil. index is that of the rule, or -1 for all.
func CheckAccess(rules []string, t TLS) (index int, wrong *cli.Error) {
	for i, rule := range rules {
		if _, err := ParseAccess([]string{rule}); err != nil {
			return i, cli.Misuse(AccessSyntax, "%v", err)
		}
		if NeedsCertificates([]string{rule}) && (t.Mode == nbd.TLSOff || t.ClientCA == "") {
			return i, cli.Misuse("set client_ca in [nbd.tls] to the authority that signs certificates of clients",
				"%q fits nobody: clients are not asked for certificates", rule)
		}
	}
	return -1, nil
}

// access reads the rules of an export or disk. tls was read before.
func (p *parser) access(key string, entry []string) []string {
	if entry == nil {
		return nil
	}
	p.from(key, "")
	if len(entry) == 0 {
		p.reject(key, "leave it out, or list who may: "+exampleOf("export.allow"), "nobody may open the export")
		return nil
	}
	if i, wrong := CheckAccess(entry, p.config.NBD.TLS); wrong != nil {
		at := fmt.Sprintf("%s[%d]", key, i)
		p.from(at, "")
		p.reject(at, wrong.Hint, "%s", wrong.Problem)
		return nil
	}
	return entry
}
