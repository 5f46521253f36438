package daemon

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/state"
	"github.com/tmemd/tmemd/frontswap"
)

// TestPlanClients: which clients there are after a start.
func TestPlanClients(t *testing.T) {
	c := &config.Config{
		Clients: []config.Client{
			{Name: "kept", Quota: frontswap.Quota{Weight: 2}}, {Name: "changed", Quota: frontswap.Quota{Weight: 3}}, {Name: "new", Quota: frontswap.Quota{Weight: 4, Cap: 5, Dedup: true}},
		},
		Exports: []config.Export{{Name: "a", Client: "kept"}, {Name: "b", Client: "gone"}},
	}
	last := state.State{
		Clients: []state.Client{
			{Name: "kept", Weight: 1, Frozen: true},
			{Name: "changed", Weight: 9, Cap: 8, Reservation: 7, Dedup: true, Changed: true},
			{Name: "made", Weight: 6, Created: true},
			{Name: "dropped", Weight: 5},
			{Name: "needed", Weight: 4},
			{Name: frontswap.DefaultClient, Weight: 7, Created: true, Changed: true},
		},
		Exports: []state.Export{{Name: "x", Size: 1 << 20, Created: true, Client: "needed"}},
	}
	p, err := makePlan(c, last, false, "boot")
	if err != nil {
		t.Fatal(err)
	}
	want := []state.Client{
		{Name: "kept", Weight: 2, Frozen: true},
		{Name: "changed", Weight: 9, Cap: 8, Reservation: 7, Dedup: true, Changed: true},
		{Name: "new", Weight: 4, Cap: 5, Dedup: true},
		{Name: "made", Weight: 6, Created: true},
		{Name: "needed", Weight: 4, Created: true},
		{Name: frontswap.DefaultClient, Weight: 7, Created: true, Changed: true},
	}
	if !reflect.DeepEqual(p.clients, want) {
		t.Errorf("clients\n%+v, want\n%+v", p.clients, want)
	}
	if p.exports[0].Client != "kept" || p.exports[1].Client != "" || p.exports[2].Client != "needed" {
		t.Errorf("exports belong to %q, %q and %q", p.exports[0].Client, p.exports[1].Client, p.exports[2].Client)
	}
	if len(p.notes) != 2 {
		t.Errorf("said %q", p.notes)
	}
}

// TestClientsOfADaemon: what a client takes is shown, its exports are not destroyed under
// somebody, and what exports promise adds up.
func TestClientsOfADaemon(t *testing.T) {
	dir := t.TempDir()
	i, ctx := start(t, dir), context.Background()
	_, err := i.client.CreateClient(ctx, admin.ClientRequest{Name: "vm1", Weight: 3, Cap: "3MiB"})
	must(t, err)
	_, err = i.client.CreateExport(ctx, admin.CreateRequest{Name: "vm1-swap", Client: "vm1", Size: "4MiB"})
	must(t, err)
	c := i.attachTo("vm1-swap")
	must(t, c.WritePages(3, 0, 400))
	find := func() admin.PoolClient {
		list, err := i.client.Clients(ctx)
		must(t, err)
		for _, p := range list {
			if p.Name == "vm1" {
				return p
			}
		}
		t.Fatal("the client is not listed")
		return admin.PoolClient{}
	}
	if p := find(); p.Pages == 0 || p.UsedBytes == 0 || p.UsedBytes > 3<<20 || p.PromisedBytes != 4<<20 || p.Weight != 3 || p.WorstBytes > 4<<20 {
		t.Errorf("after 400 pages: %+v", p)
	}
	_, err = i.client.DestroyClient(ctx, "vm1", admin.DestroyRequest{})
	if got := reported(err); !strings.HasPrefix(got, "error: exports of the client have NBD clients attached: vm1-swap\nhint: ") {
		t.Errorf("destroy under a client: %q", got)
	}
	must(t, c.CheckPages(3, 0, 400))
	list, err := i.client.Commitments(ctx)
	must(t, err)
	if len(list) != 1 || list[0].Exports != 2 || list[0].PromisedBytes != uint64(4<<20+i.status().Exports[0].SizeBytes) || list[0].FreeBytes == 0 || list[0].WorstBytes > list[0].PromisedBytes {
		t.Errorf("commitments: %+v", list)
	}
	d, err := i.client.DestroyClient(ctx, "vm1", admin.DestroyRequest{RemoveStorage: true, Disconnect: true})
	must(t, err)
	if c.CheckPages(3, 0, 1) == nil {
		t.Error("the NBD client can still read")
	}
	_ = c.Close() // it is closed
	if d.FreedPages == 0 || d.FreedBytes == 0 || len(d.Exports) != 1 || len(d.Storage) != 0 {
		t.Errorf("destroyed: %+v", d)
	}
	if used := i.status().Exports[0].UsedBytes; used != 0 || len(i.status().Exports) != 1 {
		t.Errorf("%d exports are left, the first takes %d bytes", len(i.status().Exports), used)
	}
	i.stop()
}

// TestDedupSetting: what a request says of dedup is taken over, and what it does not say stays.
func TestDedupSetting(t *testing.T) {
	on, off := true, false
	for _, c := range []struct {
		before bool
		said   *bool
		after  bool
	}{{false, nil, false}, {true, nil, true}, {false, &on, true}, {true, &off, false}} {
		q, err := service{}.quota(frontswap.Quota{Weight: 3, Dedup: c.before}, admin.ClientSettings{Dedup: c.said})
		if err != nil || q.Dedup != c.after || q.Weight != 3 {
			t.Errorf("%v: %+v, %v", c, q, err)
		}
	}
}
