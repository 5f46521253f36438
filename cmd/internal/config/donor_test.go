package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/backends/ramster/donor"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/nbd"
)

func TestDonor(t *testing.T) {
	dir := peerFolder(t)
	text := donorTLS + `
[donor]
listen = ["tcp://0.0.0.0:10810", "unix://DIR/donor.sock", "vsock://any:10810"]
size = "50%"
self_sizing = "off"
min_size = "1GiB"
socket_mode = "0660"
socket_group = 7
[[donor.client]]
name = "cert:host1"
quota = "4GiB"
weight = 3
[[donor.client]]
name = "uid:0"
quota = "25%"
[[donor.client]]
name = "cid:5"
quota = 1048576
`
	for _, args := range [][]string{nil, {"donor"}} {
		config, err := parseRemote(t, dir, text, args...)
		if err != nil {
			t.Fatal(err)
		}
		want := &Donor{
			Listen: []Address{{"tcp", "0.0.0.0:10810"}, {"unix", dir + "/donor.sock"}, {"vsock", "any:10810"}},
			Size:   8 * gib, MinSize: gib, Socket: Socket{Mode: 0o660, Owner: -1, Group: 7},
			TLS:     PeerTLS{TLS: TLS{nbd.TLSRequired, dir + "/host.crt", dir + "/host.key", dir + "/others.crt"}},
			Clients: map[string]donor.Grant{"cert:host1": {Quota: 4 * gib, Weight: 3}, "uid:0": {Quota: 4 * gib, Weight: 1}, "cid:5": {Quota: 1 << 20, Weight: 1}},
		}
		if !reflect.DeepEqual(config.Donor, want) {
			t.Errorf("got %+v, want %+v", config.Donor, want)
		}
		if alone := args != nil; config.DonorOnly != alone || (len(config.Exports)+len(config.Backends)+len(config.Listen) == 0) != alone {
			t.Errorf("%v: %+v", args, config)
		}
	}
	if cid, port := (Address{"vsock", "any:10810"}).Vsock(); cid != 1<<32-1 || port != 10810 {
		t.Errorf("any is %d, %d", cid, port)
	}
	if cid, port := (Address{"vsock", "3:7"}).Vsock(); cid != 3 || port != 7 {
		t.Errorf("3:7 is %d, %d", cid, port)
	}
}

// TestDonorServesNoDisks: what would be ignored is refused, with the cure.
func TestDonorServesNoDisks(t *testing.T) {
	dir := t.TempDir()
	makeFile(t, filepath.Join(dir, "base.img"), 8192)
	const text = `
[donor]
listen = ["unix://DIR/donor.sock"]
[[donor.client]]
name = "uid:0"
quota = "1GiB"
[[base]]
name = "debian"
path = "DIR/base.img"
uuid = "0e3a5c84-93f1-4d2e-a1b7-5f60c9d8e721"
[[disk]]
name = "one"
path = "DIR/one.overlay"
base = "debian"
`
	if _, err := parseRemote(t, dir, text); err != nil {
		t.Errorf("tmemd refuses it: %v", err)
	}
	_, err := parseRemote(t, dir, text, "donor")
	got := fmt.Sprint(err)
	for _, want := range []string{"base: tmemd donor serves no disks", "disk: tmemd donor serves no disks"} {
		if !strings.Contains(got, want) {
			t.Errorf("tmemd donor says %q, want %q in it", got, want)
		}
	}
	var told *cli.Error
	if !errors.As(err, &told) || !strings.Contains(told.Hint, "without the word donor") || !strings.Contains(told.Excerpt, "[[base]]") {
		t.Errorf("tmemd donor says %+v", told)
	}
}
