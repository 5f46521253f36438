package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

// configured runs a daemon with a configuration file, in which DIR is its folder.
func configured(t *testing.T, dir, text string, args ...string) *instance {
	t.Helper()
	log := &logBuffer{}
	return run(t, options(t, dir, log, append(args, "--config", writeConfig(t, dir, text))...), log)
}

func writeConfig(t *testing.T, dir, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tmemd.toml")
	must(t, os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600))
	return path
}

// donorText is the configuration of a donor on a Unix socket.
const donorText = `
[donor]
listen = ["unix://DIR/donor.sock"]
size = "64MiB"
self_sizing = "off"
[[donor.client]]
name = "uid:UID"
quota = "32MiB"
`

// donorFolder is the state folder of a donor. What it lends stays in memory when it
// ends, but not when the test does.
func donorFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() { os.RemoveAll(config.DefaultMemory(dir)) })
	return dir
}

func startDonor(t *testing.T, dir, text string, args ...string) *instance {
	t.Helper()
	text = strings.ReplaceAll(text, "UID", fmt.Sprint(os.Geteuid()))
	return configured(t, dir, text, append([]string{"donor"}, args...)...)
}

func (i *instance) lent() admin.Lent {
	i.t.Helper()
	l, err := i.client.Lent(context.Background())
	must(i.t, err)
	return l
}

// lentPages are the pages of all its clients.
func (i *instance) lentPages() (pages int64) {
	i.t.Helper()
	for _, c := range i.lent().Clients {
		pages += c.Pages
	}
	return pages
}

func (i *instance) donors() map[string]admin.Donor {
	i.t.Helper()
	list, err := i.client.Donors(context.Background())
	must(i.t, err)
	found := map[string]admin.Donor{}
	for _, d := range list {
		found[d.Name] = d
	}
	return found
}

// awaitDonors waits until all of them are up.
func (i *instance) awaitDonors(names ...string) {
	i.t.Helper()
	i.await("donors "+strings.Join(names, ", "), func() bool {
		all := i.donors()
		for _, name := range names {
			if all[name].State != "up" {
				return false
			}
		}
		return len(all) == len(names)
	})
}

const borrows = `
[[export]]
size = "8MiB"
[[backend]]
kind = "ramster"
size = "1GiB"
lost_after = "100ms"
patience = "5s"
donors = ["east=unix://EAST/donor.sock", "west=unix://WEST/donor.sock"]
`

// TestTwoDonors: pages go to both; each of them can go, and one that comes back with what
// it had is believed.
func TestTwoDonors(t *testing.T) {
	dirs := map[string]string{"east": donorFolder(t), "west": donorFolder(t)}
	east, west := startDonor(t, dirs["east"], donorText), startDonor(t, dirs["west"], donorText)
	i := configured(t, t.TempDir(), strings.NewReplacer("EAST", dirs["east"], "WEST", dirs["west"]).Replace(borrows))
	i.awaitDonors("east", "west")
	c := i.attach()
	must(t, c.WritePages(1, 0, 1500))
	i.await("two copies of each page", func() bool {
		all, n := i.donors(), east.lentPages()
		return n > 500 && west.lentPages() == n && all["east"].Pages == n && all["west"].Pages == n
	})
	must(t, c.CheckPages(1, 0, 1500))
	if s := i.status(); s.Backends[0].Kind != "ramster" || s.Exports[0].Pages.Storage > 0 {
		t.Errorf("status %+v", s)
	}

	west.stop()
	must(t, c.CheckPages(1, 0, 1500))
	i.await("west to be missed", func() bool { return i.donors()["west"].State != "up" })
	west = startDonor(t, dirs["west"], donorText)
	i.awaitDonors("east", "west")
	i.await("west to have pages", func() bool { return i.donors()["west"].Pages > 500 })

	// One more, and one less.
	third := donorFolder(t)
	north := startDonor(t, third, donorText)
	ctx := context.Background()
	added, err := i.client.AddDonor(ctx, admin.DonorRequest{Name: "north", Address: "unix://" + third + "/donor.sock"})
	if err != nil || added.Name != "north" || added.Backend != "ramster" {
		t.Fatalf("%+v, %v", added, err)
	}
	i.awaitDonors("east", "west", "north")
	removed, err := i.client.RemoveDonor(ctx, admin.DonorRemoval{Name: "east"})
	if err != nil || !removed.Leaving && removed.State != "gone" {
		t.Fatalf("%+v, %v", removed, err)
	}
	i.awaitDonors("west", "north")
	if n := north.lentPages(); n < 500 {
		t.Errorf("north has %d pages", n)
	}
	east.stop()
	must(t, c.CheckPages(1, 0, 1500))
	must(t, c.Close())
	i.stop()
	if n := west.lentPages() + north.lentPages(); n != 0 {
		t.Errorf("%d pages are left after all went to storage", n)
	}
	west.stop()
	north.stop()
	if _, err := os.Stat(config.DefaultMemory(third)); err != nil {
		t.Errorf("the memory folder of a donor does not outlive it: %v", err)
	}
}
