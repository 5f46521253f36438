// Package cmd_test holds the rule that no single package can: who may import
// whom (ARCHITECTURE.md, "Rooms").
package cmd_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/tmemd/tmemd/"

// rooms says what each folder may import of this module: itself, what lies
// below it, and the folders listed. The first match by longest prefix counts.
var rooms = map[string][]string{
	"nbd":                {},
	"backends/latency":   {},
	"backends/sharedmem": {},
	"backends/arena":     {"backends/sharedmem"},
	"backends/pageindex": {"backends/sharedmem"},
	"backends/pagelz4":   {},
	"backends/pressure":  {},
	"backends/packed":    {"backends", "backends/samefilled"},
	"backends":           {"backends/sharedmem", "backends/arena", "backends/pagelz4", "backends/pressure", "backends/samefilled", "backends/packed", "backends"},
	"backends/ramster":   {"backends/sharedmem", "backends/arena", "backends/pageindex", "backends/pagelz4", "backends/pressure", "backends/samefilled", "backends/packed", "backends"},
	"backends/pagelock":  {},
	"backends/pagemap":   {},
	"frontswap":          {"backends", "backends/sharedmem", "backends/pagelock", "backends/latency"},
	"cleancache":         {"backends", "backends/sharedmem", "backends/pagelock"},
	"tier":               {"frontswap", "cleancache", "backends", "backends/sharedmem", "backends/fault", "backends/packed", "backends/latency"},
	"metrics":            {"tier", "tier/disk", "frontswap", "cleancache", "nbd", "backends", "backends/sharedmem", "backends/latency"},
	"cmd":                {"*"},
	"deploy":             {"*"},
}

// outsiders says who may use a module or package from outside, and why nobody
// else does.
var outsiders = []struct {
	prefix  string
	allowed []string
	reason  string
}{
	{"github.com/prometheus/", []string{"metrics", "cmd"}, "packages count in atomics of their own; metrics reads snapshots"},
	{"github.com/pierrec/lz4", []string{"backends", "deploy"}, "codecs belong to backends"},
	{"github.com/spf13/cobra", []string{"cmd"}, "command lines belong to commands"},
	{"github.com/cpuguy83/go-md2man", []string{"cmd/internal/manpages"}, "manual pages are made when a package is built"},
	{"github.com/coreos/go-systemd", []string{"cmd"}, "only the daemon's command line takes sockets from a service manager"},
	{"crypto/tls", []string{"nbd", "cmd"}, "only what is on a network encrypts"},
	{"charm.land/", []string{"cmd/internal/view", "cmd/internal/ctl"}, "only tmemctl draws; the daemon is locked in memory, all of it"},
	{"github.com/charmbracelet/", []string{"cmd/internal/view", "cmd/internal/ctl"}, "only tmemctl draws; the daemon is locked in memory, all of it"},
	{"filippo.io/age", []string{"cmd"}, "only files that tmemctl keeps are encrypted by it"},
	{"golang.org/x/term", []string{"cmd"}, "the daemon's parts know no terminal"},
	{"github.com/pelletier/go-toml", []string{"cmd"}, "packages take typed configurations"},
	{"github.com/pojntfx/go-nbd/pkg/server", []string{"deploy/bench"}, "its server is an oracle in tests, and a peer to be measured; nothing is served with it"},
	{"github.com/pojntfx/go-nbd/pkg/client", nil, "it works with its own server only"},
	{"github.com/pojntfx/go-nbd", []string{"nbd", "tier", "deploy", "cmd/internal/attach"}, "the protocol belongs to nbd, its client's side to attach, its Backend to tier"},
	{"github.com/mdlayher/", []string{"cmd/internal/attach"}, "only the kernel's NBD driver is asked by netlink"},
	{"os/exec", []string{"deploy"}, "a daemon that serves swap starts no processes"},
	{"net/http", []string{"metrics", "cmd", "deploy"}, "only the edges speak HTTP"},
}

type listedPackage struct {
	ImportPath string
	Imports    []string
}

func TestImportDirection(t *testing.T) {
	packages := list(t)
	if len(packages) < 8 {
		t.Fatalf("only %d packages listed", len(packages))
	}
	for _, p := range packages {
		folder := strings.TrimPrefix(p.ImportPath, module)
		room := roomOf(folder)
		if room == "" {
			t.Errorf("%s is in no room: give it one, or move it", folder)
			continue
		}
		for _, imported := range p.Imports {
			if inside, ok := strings.CutPrefix(imported, module); ok {
				checkInside(t, folder, room, inside)
			} else {
				checkOutside(t, folder, imported)
			}
		}
	}
}

func roomOf(folder string) string {
	best := ""
	for room := range rooms {
		if (folder == room || strings.HasPrefix(folder, room+"/")) && len(room) > len(best) {
			best = room
		}
	}
	return best
}

func checkInside(t *testing.T, folder, room, imported string) {
	allowed := rooms[room]
	if slices.Contains(allowed, "*") || slices.Contains(allowed, imported) || strings.HasPrefix(imported, folder+"/") {
		return
	}
	// Parts of one folder may use each other, but backends stand apart.
	if room != "backends" && roomOf(imported) == room {
		return
	}
	t.Errorf("%s imports %s: %s may import %v only", folder, imported, room, allowed)
}

func checkOutside(t *testing.T, folder, imported string) {
	for _, o := range outsiders {
		if imported != o.prefix && !strings.HasPrefix(imported, o.prefix) {
			continue
		}
		for _, room := range o.allowed {
			if folder == room || strings.HasPrefix(folder, room+"/") {
				return
			}
		}
		t.Errorf("%s imports %s: %s", folder, imported, o.reason)
		return
	}
}

// TestDaemonDrawsNothing: what the daemon is made of is locked in memory, and must not
// have a library for terminals in it, by whatever way.
func TestDaemonDrawsNothing(t *testing.T) {
	for program, draws := range map[string]bool{"./tmemd": false, "./tmemctl": true} {
		out, err := exec.Command("go", "list", "-deps", program).Output()
		if err != nil {
			t.Fatalf("go list -deps %s: %v", program, err)
		}
		if found := strings.Contains(string(out), "charm.land/"); found != draws {
			t.Errorf("%s draws: %v, want %v", program, found, draws)
		}
	}
}

func list(t *testing.T) []listedPackage {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "../...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []listedPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listedPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		packages = append(packages, p)
	}
}
