package ramster

import (
	"context"
	"sync"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/pressure"
)

// background is the goroutines that a cache has while there is a host to ask, or an
// ephemeral export:
//
//	send  sends staged pages to donors
//	land  makes stubs of those that have arrived
//	keep  compares with donors, makes lost copies again, lets donors go, brings pages home
//	follow  says how many may come home
//
// None of them calls the host with a lock held. Without a host there is only the keeper: pages
// of ephemeral exports are sent by who stores them, and nobody is asked about them.
type background struct {
	*Cache
	host   backends.Host // of the exports that are not ephemeral; nil if there are none
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	sizer  pressure.Sizer // run by follow
}

// startBackground starts them. Each waits until those of the one before are gone: there is one
// sender and one keeper. That one is about to be stopped, or was.
func startBackground(c *Cache, host backends.Host, before *background) *background {
	b := &background{Cache: c, host: host}
	b.sizer.Source = c.config.Pressure
	b.ctx, b.cancel = context.WithCancel(context.Background())
	work := []func(){b.keep}
	if host != nil {
		work = append(work, b.send, b.land, b.follow)
	}
	for _, run := range work {
		b.wg.Go(func() {
			if before != nil {
				before.wg.Wait()
			}
			run()
		})
	}
	return b
}

// stop ends the goroutines and waits for them; b may be nil. It does not wait for
// a call of Host.Evict, whose host may be waiting for whoever called this. Such a
// call ends by itself; Close waits for it.
func (b *background) stop() {
	if b == nil {
		return
	}
	b.cancel()
	b.wg.Wait()
}

// sleep returns false if the background ends meanwhile.
func (b *background) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-b.ctx.Done():
		return false
	}
}

// wakeKeeper has the keeper look around.
func (c *Cache) wakeKeeper() {
	select {
	case c.keeper <- struct{}{}:
	default:
	}
}

// evict has the host move the coldest pages to the next place. It returns at once
// when the background ends, see stop.
func (b *background) evict(n uint64) {
	type result struct {
		moved uint64
		err   error
	}
	done := make(chan result, 1)
	b.evictions.Go(func() {
		moved, err := b.host.Evict(b.ctx, n)
		done <- result{moved, err}
	})
	select {
	case <-b.ctx.Done():
	case r := <-done:
		b.counts.evicted.Add(r.moved)
		if r.err != nil && b.ctx.Err() == nil {
			b.config.Log.Warn("pages cannot be taken back from donors", "moved", r.moved, "error", r.err)
		}
	}
}
