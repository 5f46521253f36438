package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// operator does what an operator can do to a daemon, at random, until ctx ends.
// That it is refused, or the daemon gone, is no error.
type operator struct {
	random *rand.Rand
	client *admin.Client
	done   int // requests that were not refused
}

func newOperator(p place, seed uint64) *operator {
	return &operator{random: rand.New(rand.NewPCG(seed, 99)), client: admin.NewClient(filepath.Join(p.dir, "admin.sock"))}
}

func (o *operator) run(ctx context.Context) {
	defer o.client.Close()
	for ctx.Err() == nil {
		if o.act(ctx) == nil {
			o.done++
		}
		time.Sleep(time.Duration(o.random.IntN(20)) * time.Millisecond)
	}
}

func (o *operator) act(ctx context.Context) error {
	// A move that hangs is the test's to end.
	ctx, cancel := context.WithTimeout(ctx, time.Duration(1+o.random.IntN(100))*time.Millisecond)
	defer cancel()
	name, other := o.name(), o.name()
	quiet := func(admin.MoveEvent) {}
	size := fmt.Sprintf("%dMiB", 1+o.random.IntN(6))
	switch o.random.IntN(12) {
	case 0, 1, 2:
		_, err := o.client.Load(ctx, admin.LoadRequest{Kind: "zcache", Name: name, Size: size})
		return err
	case 3:
		return o.client.Unload(ctx, name, quiet)
	case 4:
		return o.client.Replace(ctx, name, admin.LoadRequest{Kind: "zcache", Name: other, Size: size}, quiet)
	case 5:
		_, err := o.client.Freeze(ctx, name, "at random")
		return err
	case 6:
		_, err := o.client.Thaw(ctx, name)
		return err
	case 7:
		return o.client.Shrink(ctx, name, admin.MoveRequest{Pages: 1 + o.random.Uint64N(300)}, quiet)
	case 8:
		return o.client.Migrate(ctx, name, admin.MoveRequest{Pages: 1 + o.random.Uint64N(300)}, quiet)
	case 9:
		_, err := o.client.Order(ctx, []string{name})
		return err
	case 10:
		mode := []string{"off", "async", "sync"}[o.random.IntN(3)]
		_, err := o.client.SetExport(ctx, "swap", admin.ExportSettings{Writethrough: mode})
		return err
	}
	if o.random.IntN(2) == 0 {
		_, err := o.client.CreateExport(ctx, admin.CreateRequest{Name: "extra", Size: "2MiB"})
		return err
	}
	return o.client.DeleteExport(ctx, "extra", admin.DeleteRequest{RemoveStorage: true})
}

func (o *operator) name() string { return []string{"zcache", "b", "c"}[o.random.IntN(3)] }
