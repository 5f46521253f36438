package main

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/tmemd/tmemd/nbd/client"
)

// checkEvery is the share of reads whose content is compared (M6).
const checkEvery = 16

// column is a workload at a depth: a column of the table.
type column struct {
	title string
	depth int
	make  func(c *client.Content, seed uint64) client.Workload
	way   way
}

// way is how a column's workload is driven.
type way int

const (
	timed  way = iota // for the time of a cell, on one connection
	once              // until the workload ends
	shared            // for the time of a cell, on connectionsAtOnce, each with its part of the pages
	bursts            // for the time of a cell, in bursts with pauses
)

const (
	connectionsAtOnce = 4
	burstPages        = 20
	burstPause        = 5 * time.Millisecond
)

// Titles that the verdict asks for.
const (
	readQD1   = "read QD1"
	readQD16  = "read QD16"
	readQD64  = "read QD64"
	read4QD16 = "read 4×QD16"
	writeQD16 = "write QD16"
	swapQD16  = "swap QD16"
	burst20   = "burst 20"
)

// columns are in this order because the first fills the export, and the last
// ones change it.
var columns = []column{
	{"fill QD16", 16, func(c *client.Content, _ uint64) client.Workload { return client.NewFill(c) }, once},
	{readQD1, 1, randomRead, timed},
	{readQD16, 16, randomRead, timed},
	{readQD64, 64, randomRead, timed},
	{read4QD16, 16, randomRead, shared},
	{writeQD16, 16, randomWrite, timed},
	{burst20, 1, nil, bursts},
	{swapQD16, 16, swapPattern, timed},
}

func randomRead(c *client.Content, seed uint64) client.Workload {
	return client.NewRandomRead(c, seed, checkEvery)
}

func randomWrite(c *client.Content, seed uint64) client.Workload {
	return client.NewRandomWrite(c, seed)
}

func swapPattern(c *client.Content, seed uint64) client.Workload {
	return client.NewSwap(c, seed, checkEvery)
}

// cell is one measurement of one server. What was not measured is missing.
type cell struct {
	rate      float64 // requests a second, without the pauses between bursts
	p50, p99  float64 // µs, of reads; of writes if there are no reads; of whole bursts
	processor float64 // the server's, seconds for a million requests, until it is idle again
}

// missing is a figure that there is none of.
var missing = math.NaN()

var missingCell = cell{missing, missing, missing, missing}

// measure runs the column's workload, on the connection and those that it opens.
func (c column) measure(ctx context.Context, process *running, conn *client.Conn, content *client.Content, seed uint64, duration time.Duration) (_ cell, err error) {
	conns := []*client.Conn{conn}
	if c.way == shared {
		for len(conns) < connectionsAtOnce {
			more, err := client.Dial(ctx, "unix", process.socket, exportName)
			if err != nil {
				return cell{}, err
			}
			defer more.Close()
			conns = append(conns, more)
		}
	}
	before, err := processorTime(process.pid())
	if err != nil {
		return cell{}, err
	}
	result, latencies, err := c.run(ctx, conns, content, seed, duration)
	if err != nil {
		return cell{}, err
	}
	if err := awaitIdle(ctx, process.pid()); err != nil {
		return cell{}, err
	}
	after, err := processorTime(process.pid())
	if err != nil {
		return cell{}, err
	}
	return makeCell(result, latencies, after-before), nil
}

func makeCell(result *client.Result, latencies *client.Histogram, processor time.Duration) cell {
	return cell{
		rate:      result.Rate(),
		p50:       microseconds(latencies.Quantile(0.5)),
		p99:       microseconds(latencies.Quantile(0.99)),
		processor: processor.Seconds() * 1e6 / float64(result.Requests()),
	}
}

// run drives the workload and says which latencies count.
func (c column) run(ctx context.Context, conns []*client.Conn, content *client.Content, seed uint64, duration time.Duration) (*client.Result, *client.Histogram, error) {
	var result *client.Result
	var err error
	switch c.way {
	case bursts:
		return runBursts(ctx, conns[0], client.NewBursts(content, seed, burstPages), duration)
	case shared:
		result, err = c.runShared(ctx, conns, content, seed, duration)
	case once:
		result, err = conns[0].Run(ctx, c.make(content, seed), client.Options{Depth: c.depth})
	default:
		result, err = conns[0].Run(ctx, c.make(content, seed), client.Options{Depth: c.depth, Duration: duration})
	}
	if err != nil {
		return nil, nil, err
	}
	return result, latenciesOf(result), nil
}

// latenciesOf are those of reads, or of writes if there are no reads.
func latenciesOf(result *client.Result) *client.Histogram {
	if result.Reads.Count() == 0 {
		return &result.Writes
	}
	return &result.Reads
}

// runShared drives all connections at once and adds up what they did.
func (c column) runShared(ctx context.Context, conns []*client.Conn, content *client.Content, seed uint64, duration time.Duration) (*client.Result, error) {
	part := content.Pages() / len(conns)
	results, errs := make([]*client.Result, len(conns)), make([]error, len(conns))
	var all sync.WaitGroup
	for i, conn := range conns {
		workload := c.make(content.Part(i*part, part), seed+uint64(i)<<32)
		all.Go(func() {
			results[i], errs[i] = conn.Run(ctx, workload, client.Options{Depth: c.depth, Duration: duration})
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, r := range results[1:] {
		results[0].Merge(r)
	}
	return results[0], nil
}

// runBursts writes bursts at depth 1, with pauses in which a server may do what
// it left for later. The latencies are those of whole bursts.
func runBursts(ctx context.Context, conn *client.Conn, w *client.Bursts, duration time.Duration) (*client.Result, *client.Histogram, error) {
	var all client.Result
	var latencies client.Histogram
	var took time.Duration
	for start := time.Now(); latencies.Count() == 0 || time.Since(start) < duration; {
		time.Sleep(burstPause)
		w.Begin()
		result, err := conn.Run(ctx, w, client.Options{Depth: 1})
		if err != nil {
			return nil, nil, err
		}
		latencies.Add(result.Elapsed, 1)
		took += result.Elapsed
		all.Merge(result)
	}
	all.Elapsed = took
	return &all, &latencies, nil
}
