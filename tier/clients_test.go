package tier

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends/backendtest"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/frontswap"
)

// TestClientsShareZcache: three greedy clients come to share a zcache as their weights
// say, within a tenth, while a modest one keeps all that it wrote.
func TestClientsShareZcache(t *testing.T) {
	const pages = 30000
	f := newFrontswap()
	c, err := zcache.New(zcache.Config{Limit: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	register(t, f, "z", c)
	weights := []uint32{1, 2, 4, 3}
	var devices []*Device
	for i, weight := range weights {
		name := fmt.Sprint(i)
		if err := f.CreateClient(name, frontswap.Quota{Weight: weight}); err != nil {
			t.Fatal(err)
		}
		d, err := Open(Config{
			Name: name, ID: uint32(i + 1), Storage: newMemoryStorage(pages), Empty: true, Client: name, Frontswap: f, Log: quiet(),
		})
		if err != nil {
			t.Fatal(err)
		}
		devices = append(devices, d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var stop atomic.Bool
	var running sync.WaitGroup
	running.Go(func() { f.Balance(ctx) })
	for i, d := range devices {
		running.Go(func() {
			random, page := rand.New(rand.NewPCG(uint64(i), 1)), make([]byte, pageSize)
			for n := uint64(0); !stop.Load(); n++ {
				at := random.Uint64N(pages)
				if i == 3 {
					at = n % 200 // far below its share
				}
				backendtest.FillMixed(page, n<<8|uint64(i))
				if _, err := d.WriteAt(page, int64(at*pageSize)); err != nil {
					t.Error(err)
					return
				}
				if i == 3 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	// Until it is so: how long that takes is the machine's business.
	var shares [3]float64
	fair := false
	for range 200 {
		shares = [3]float64{}
		for range 20 {
			time.Sleep(10 * time.Millisecond)
			for i, s := range f.Clients()[:3] {
				shares[i] += float64(s.Used) / 20
			}
		}
		sum := shares[0] + shares[1] + shares[2]
		fair = sum > 8<<20
		for i, share := range shares {
			want := sum * float64(weights[i]) / 7
			fair = fair && math.Abs(share-want) <= want/10
		}
		if fair {
			break
		}
	}
	if !fair {
		t.Errorf("clients of weight 1, 2 and 4 take %.0f bytes", shares)
	}
	if modest := f.Clients()[3]; modest.Evicted > 0 || modest.Refused != [frontswap.ClientRefusals]uint64{} {
		t.Errorf("the modest client: %+v", modest)
	}
	stop.Store(true)
	cancel()
	running.Wait()
	for _, d := range devices {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := f.Unregister(t.Context(), "z"); err != nil {
		t.Error(err)
	}
}
