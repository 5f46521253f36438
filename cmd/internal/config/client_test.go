package config

import (
	"reflect"
	"testing"

	"github.com/tmemd/tmemd/frontswap"
)

// TestClients: clients and templates are read, and a host that has them begins with no
// export that nobody asked for.
func TestClients(t *testing.T) {
	c, err := parseText(t, t.TempDir(), `
[[client]]
name = "a"
weight = 3
cap = "4GiB"
reservation = "1GiB"
dedup = true
[[client]]
name = "b"
[[template]]
name = "small"
size = "2GiB"
client = "a"
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []Client{{Name: "a", Quota: frontswap.Quota{Weight: 3, Cap: 4 << 30, Reservation: 1 << 30, Dedup: true}}, {Name: "b", Quota: frontswap.Quota{Weight: 1}}}
	if !reflect.DeepEqual(c.Clients, want) {
		t.Errorf("Clients = %+v", c.Clients)
	}
	if s := c.Template("small"); s == nil || s.Size != "2GiB" || s.Client != "a" {
		t.Errorf("template %+v", s)
	}
	if len(c.Exports) != 0 {
		t.Errorf("there are %d exports", len(c.Exports))
	}
}
