package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tmemd/tmemd/deploy/corpus"
	"github.com/tmemd/tmemd/frontswap"
)

// foregroundResult is a reader alone, and beside a drain.
type foregroundResult struct {
	alone, during readResult
	drain         float64 // MB/s
}

// readResult is what a reader saw.
type readResult struct {
	rate float64 // reads a second
	p999 float64 // µs
}

// aloneTime is how long the reader is alone.
const aloneTime = time.Second / 2

// measureForeground has half of the blocks in a backend that stays and half in
// one that drains to disk, and reads pages of the first.
func measureForeground(ctx context.Context, content *corpus.Corpus, o options, round uint64) (r foregroundResult, err error) {
	e, err := newExport(o.disk, content, o.pages)
	if err != nil {
		return r, err
	}
	defer func() {
		size, _ := e.device.Size()
		_ = e.device.Trim(0, size) // nothing is left to be drained
		_, undone := e.swap.Unregister(context.Background(), "stays")
		err = errors.Join(err, undone, e.device.Close())
	}()
	stays := func(i int) bool { return i/frontswap.BlockPages%2 == 0 }
	cache, err := e.load("stays")
	if err != nil {
		return r, err
	}
	if err := e.fill(stays); err != nil {
		return r, err
	}
	drains, err := e.load("drains")
	if err != nil {
		return r, err
	}
	// Asked last, so that what it has goes to storage and nothing comes back.
	if err := e.swap.Freeze("stays", "filled"); err != nil {
		return r, err
	}
	if err := e.fill(func(i int) bool { return !stays(i) }); err != nil {
		return r, err
	}
	if err := errors.Join(settle(ctx, cache), settle(ctx, drains)); err != nil {
		return r, err
	}
	inRAM := e.readable(stays)
	runtime.GC()
	alone := make(chan struct{})
	time.AfterFunc(aloneTime, func() { close(alone) })
	if r.alone, err = e.read(inRAM, alone, rand.New(rand.NewPCG(o.seed, round))); err != nil {
		return r, err
	}
	drained := make(chan struct{})
	var failed atomic.Value
	go func() {
		defer close(drained)
		rate, _, err := e.drain("drains")
		if r.drain = rate; err != nil {
			failed.Store(err)
		}
	}()
	r.during, err = e.read(inRAM, drained, rand.New(rand.NewPCG(o.seed, round)))
	<-drained
	if cause, ok := failed.Load().(error); ok {
		err = errors.Join(err, cause)
	}
	return r, errors.Join(err, e.check())
}

// readable lists the pages that can be read without storage.
func (e *export) readable(is func(int) bool) (list []int64) {
	page := make([]byte, pageSize)
	for i := range e.pages {
		if is(i) && e.device.TryReadAt(page, int64(i)*pageSize) {
			list = append(list, int64(i))
		}
	}
	return list
}

// read reads pages of the list at random until done, one after the other, as a
// connection does: what can be served without waiting is, the rest waits.
func (e *export) read(list []int64, done <-chan struct{}, random *rand.Rand) (readResult, error) {
	page := make([]byte, pageSize)
	took := make([]time.Duration, 0, 1<<20)
	start := time.Now()
	for last := start; ; {
		select {
		case <-done:
			slices.Sort(took)
			return readResult{
				rate: float64(len(took)) / last.Sub(start).Seconds(),
				p999: float64(took[len(took)*999/1000]) / float64(time.Microsecond),
			}, nil
		default:
		}
		off := list[random.IntN(len(list))] * pageSize
		if !e.device.TryReadAt(page, off) {
			if _, err := e.device.ReadAt(page, off); err != nil {
				return readResult{}, err
			}
		}
		now := time.Now()
		took = append(took, now.Sub(last))
		last = now
	}
}
