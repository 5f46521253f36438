package observebench

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tmemd/tmemd/nbd/client"
)

const (
	dipSeconds = 45 // so many looks, one a second
	window     = 200 * time.Millisecond
	slice      = 10 * time.Millisecond
	// Of 45 sorted values, the 16th and the 30th enclose the median in 95 % of cases.
	dipLowest, dipHighest = 15, 29
)

// counted counts the requests of a workload by when they were answered.
type counted struct {
	client.Workload
	start  time.Time
	slices [(dipSeconds + 2) * time.Second / slice]uint32
}

// Done counts one.
func (c *counted) Done(r *client.Request) {
	if i := int(time.Since(c.start) / slice); i < len(c.slices) {
		c.slices[i]++
	}
	c.Workload.Done(r)
}

// lost is the time's worth of requests that are missing in the window after at, beside the window
// before it.
func (c *counted) lost(at time.Duration) time.Duration {
	sum := func(from time.Duration) (n float64) {
		for _, count := range c.slices[from/slice : (from+window)/slice] {
			n += float64(count)
		}
		return n
	}
	before, after := sum(at-window), sum(at)
	return time.Duration((before - after) / before * float64(window))
}

// dips looks at the daemon once a second, under load, and compares the requests right after each
// look with those right before: what others on the machine do changes little in between. Half a
// second after each look it compares in the same way where there was none.
func (d *daemon) dips(b *testing.B, w client.Workload) (looks, controls []time.Duration) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := &counted{Workload: w, start: time.Now()}
	at, failed := make(chan time.Duration, dipSeconds), make(chan error, 1)
	go func() {
		defer close(at)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for range dipSeconds {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			at <- time.Since(c.start)
			if err := d.look(); err != nil {
				failed <- err
				return
			}
		}
	}()
	_, err := d.conn.Run(ctx, c, client.Options{Depth: depth, Duration: (dipSeconds + 1) * time.Second})
	cancel()
	if err != nil {
		b.Fatal(err)
	}
	for t := range at {
		looks, controls = append(looks, c.lost(t)), append(controls, c.lost(t+time.Second/2))
	}
	select {
	case err := <-failed:
		b.Fatal(err)
	default:
	}
	return looks, controls
}

// dipSummary is the median, and its interval if there are enough.
func dipSummary(lost []time.Duration) string {
	if len(lost) != dipSeconds {
		return fmt.Sprintf("%d looks instead of %d", len(lost), dipSeconds)
	}
	slices.Sort(lost)
	share := func(i int) float64 { return 100 * lost[i].Seconds() }
	return fmt.Sprintf("%.2f %% (%.2f to %.2f)", share(len(lost)/2), share(dipLowest), share(dipHighest))
}

// BenchmarkDips prints the share of requests that a look each second costs.
func BenchmarkDips(b *testing.B) {
	content := sample(b)
	d := start(b, build(b), content)
	for _, w := range workloads {
		looks, controls := d.dips(b, w.make(d.content, 1))
		fmt.Printf("%s, watched once a second: %s of the requests lost; without a look: %s\n", w.name, dipSummary(looks), dipSummary(controls))
	}
}
