package admin

import (
	"context"
	"errors"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// TestMemory: what is about memory that hosts lend each other reaches the service, and
// its answers and errors the client.
func TestMemory(t *testing.T) {
	c := NewClient(start(t, &fakeService{}, nil))
	defer c.Close()
	ctx := context.Background()
	if list, err := c.Donors(ctx); err != nil || len(list) != 1 || list[0].Name != "east" || list[0].Pages != 12 {
		t.Errorf("donors: %+v, %v", list, err)
	}
	if d, err := c.AddDonor(ctx, DonorRequest{Backend: "b", Name: "west", Address: "unix:///x"}); err != nil || d != (Donor{Backend: "b", Name: "west", Address: "unix:///x"}) {
		t.Errorf("add: %+v, %v", d, err)
	}
	var told *cli.Error
	if _, err := c.AddDonor(ctx, DonorRequest{Name: "east"}); !errors.As(err, &told) || told.Problem != "there is such a donor" || told.Hint != "choose another name" {
		t.Errorf("add twice: %v", err)
	}
	for now, leaving := range map[bool]bool{false: true, true: false} {
		if d, err := c.RemoveDonor(ctx, DonorRemoval{Name: "west", Now: now}); err != nil || d.Name != "west" || d.Leaving != leaving {
			t.Errorf("remove: %+v, %v", d, err)
		}
	}
	if _, err := c.Lent(ctx); !errors.As(err, &told) || told.Problem != "this tmemd lends no memory" || told.Hint != "write [donor]" {
		t.Errorf("lent: %v", err)
	}
	frozen := true
	if l, err := c.SetLent(ctx, LentSettings{Frozen: &frozen}); err != nil || !l.Frozen || len(l.Clients) != 1 || l.Clients[0].QuotaBytes != 5 {
		t.Errorf("set: %+v, %v", l, err)
	}
}
