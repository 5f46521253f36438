package config

import (
	"regexp"
	"slices"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

var nameSyntax = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

const nameCure = "use 1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit"

// ownerNames are what metrics and the admin API call the owners of a page that
// are not backends.
var ownerNames = []string{"none", "storage", "hole", "lost"}

// CheckExportName says why an export may not have the name, or nil.
func CheckExportName(name string) *cli.Error {
	if !nameSyntax.MatchString(name) {
		return cli.Misuse(nameCure, "%q is not a name", name)
	}
	return nil
}

// CheckBackendName says why a backend may not have the name, or nil.
func CheckBackendName(name string) *cli.Error {
	if !nameSyntax.MatchString(name) {
		return cli.Misuse(nameCure, "%q is not a name", name)
	}
	if slices.Contains(ownerNames, name) {
		return cli.Misuse("choose another one", "the name %s is taken: it means something else beside backends", name)
	}
	return nil
}
