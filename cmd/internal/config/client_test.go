package config

import (
	"reflect"
	"testing"

	"github.com/tmemd/tmemd/frontswap"
)

func TestClients(t *testing.T) {
	config, err := parseText(t, t.TempDir(), `
[[client]]
name = "vm1"
weight = 2
cap = "4GiB"
reservation = "512MiB"
dedup = true
[[client]]
name = "vm2"
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []Client{
		{Name: "vm1", Quota: frontswap.Quota{Weight: 2, Cap: 4 << 30, Reservation: 512 << 20, Dedup: true}},
		{Name: "vm2", Quota: frontswap.Quota{Weight: 1}},
	}
	if !reflect.DeepEqual(config.Clients, want) {
		t.Errorf("Clients = %+v", config.Clients)
	}
}
