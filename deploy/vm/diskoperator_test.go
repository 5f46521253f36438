//go:build e2e

package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// diskOperator does to backends what may be done while a guest works on a disk.
type diskOperator struct {
	*diskScenario
	disk       string
	random     *rand.Rand
	loaded     string // the backend, or empty
	backends   int    // that there were
	operations int
}

const (
	roomyCache = "48MiB"
	tinyCache  = "1MiB" // the least that there may be
)

func (s *diskScenario) operator(disk string) *diskOperator {
	return &diskOperator{diskScenario: s, disk: disk, random: rand.New(rand.NewPCG(1, 2))}
}

func (o *diskOperator) tmemctl(args ...string) []byte {
	o.operations++
	printed, err := o.daemon.run(context.Background(), args...) // to its end, though the guest is done
	if err != nil {
		o.Error(err)
	}
	return printed
}

// load loads a backend, in the place of the one that is there.
func (o *diskOperator) load() {
	o.backends++
	name := fmt.Sprint("cache", o.backends)
	if o.loaded == "" {
		o.tmemctl("backend", "load", "zcache", "--name", name, "--size", roomyCache)
	} else {
		o.tmemctl("backend", "replace", o.loaded, "--with", "zcache", "--name", name, "--size", roomyCache)
	}
	o.loaded = name
}

// pause waits for a random time, and says whether to go on.
func (o *diskOperator) pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Duration(o.random.IntN(400)) * time.Millisecond):
		return true
	}
}

// await waits until something holds. The guest has to work for as long as it takes.
func (o *diskOperator) await(ctx context.Context, what string, holds func() bool) {
	for !holds() {
		select {
		case <-ctx.Done():
			o.Errorf("the guest is done, and still not: %s", what)
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// operate squeezes a backend and lets it grow again, then loads, squeezes, replaces, freezes and unloads backends at random until it
// is told to stop, and counts.
func (o *diskOperator) operate(ctx context.Context) (operations int) {
	limit := func(size string) { o.tmemctl("backend", "set", o.loaded, "max_pool="+size) }
	o.load()
	o.await(ctx, "the cache is used", func() bool { return o.held() > 1<<20 })
	limit(tinyCache)
	o.await(ctx, "the cache is squeezed", func() bool { return o.held() <= 1<<20 })
	limit(roomyCache)
	o.await(ctx, "the cache grows again, and is read from", func() bool { return o.held() > 1<<20 && o.hits() > 0 })
	for o.pause(ctx) {
		if o.loaded == "" {
			o.load()
			continue
		}
		switch o.random.IntN(6) {
		case 0:
			o.tmemctl("backend", "unload", o.loaded)
			o.loaded = ""
		case 1:
			o.load()
		case 2:
			o.tmemctl("backend", "freeze", o.loaded)
			o.tmemctl("backend", "thaw", o.loaded)
		case 3:
			o.tmemctl("disk", "set", o.disk, "mode="+[]string{"inclusive", "exclusive"}[o.random.IntN(2)])
		default:
			limit(fmt.Sprintf("%dMiB", 1+o.random.IntN(40)))
		}
	}
	return o.operations
}

func (o *diskOperator) status() (s status) {
	if err := json.Unmarshal(o.tmemctl("status"), &s); err != nil {
		o.Errorf("tmemctl status: %v", err)
	}
	return s
}

// hits is how many pages of the disk came from the cache.
func (o *diskOperator) hits() (pages uint64) {
	for _, d := range o.status().Disks {
		if d.Name == o.disk {
			pages = d.SuccGets
		}
	}
	return pages
}

// held is what the backend holds.
func (o *diskOperator) held() int64 {
	for _, b := range o.status().Backends {
		if b.Name == o.loaded {
			return b.Held
		}
	}
	o.Errorf("there is no backend %s", o.loaded)
	return 0
}

// lose has a backend lose single pages, or every one, and refuse some, or all, first of all in turn; kills tmemd, which comes back
// with the backend, and with an empty cache; then does all of that to the backend at random until it is told to stop, and counts.
func (o *diskOperator) lose(ctx context.Context) (operations int) {
	o.load()
	o.await(ctx, "the cache is used", func() bool { return o.held() > 1<<20 })
	for _, rules := range [][]string{{"load every=3 gone", "store every=4 refuse"}, {"load gone", "store refuse"}} {
		o.set(rules...)
		o.await(ctx, fmt.Sprintf("each of the rules %q did its work", rules), func() bool {
			times := o.fired()
			return len(times) == len(rules) && slices.Min(times) > 0
		})
	}
	for range 2 {
		o.daemon.kill() // what the guest asks for waits
		o.daemon.start(o.ctx)
		o.operations++
		o.pause(ctx)
	}
	for o.pause(ctx) {
		n := 2 + o.random.IntN(20)
		switch o.random.IntN(7) {
		case 0:
			o.load()
		case 1:
			o.set(fmt.Sprintf("load every=%d gone", n))
		case 2:
			o.set(fmt.Sprintf("load every=%d gone", n), fmt.Sprintf("store every=%d refuse", n))
		case 3:
			o.set(fmt.Sprintf("load every=%d corrupt", n))
		case 4:
			o.set(fmt.Sprintf("load every=%d transient", n))
		case 5:
			o.set("load gone")
		default:
			o.tmemctl("fault", "clear", o.loaded)
		}
	}
	return o.operations
}

// set gives the backend rules by which it fails.
func (o *diskOperator) set(rules ...string) {
	o.tmemctl(append([]string{"fault", "set", o.loaded}, rules...)...)
}

// fired is how often each of the rules did its work.
func (o *diskOperator) fired() (times []uint64) {
	var targets []struct {
		Target string `json:"target"`
		Rules  []struct {
			Fired uint64 `json:"fired"`
		} `json:"rules"`
	}
	if err := json.Unmarshal(o.tmemctl("fault", "list"), &targets); err != nil {
		o.Errorf("tmemctl fault list: %v", err)
	}
	for _, target := range targets {
		if target.Target == o.loaded {
			for _, r := range target.Rules {
				times = append(times, r.Fired)
			}
		}
	}
	return times
}
