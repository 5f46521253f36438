package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tmemd/tmemd/deploy/bench/client"
	"github.com/tmemd/tmemd/deploy/corpus"
)

// checkEvery is the share of reads whose content is compared (M6).
const checkEvery = 16

// column is a workload at a depth: a column of the table.
type column struct {
	title string
	depth int
	make  func(c *client.Content, seed uint64) client.Workload
	ends  bool // by itself, not after a time
}

var columns = []column{
	{"fill QD16", 16, func(c *client.Content, _ uint64) client.Workload { return client.NewFill(c) }, true},
	{"read QD1", 1, randomRead, false},
	{"read QD16", 16, randomRead, false},
	{"read QD64", 64, randomRead, false},
	{"write QD16", 16, randomWrite, false},
	{"swap QD16", 16, swapPattern, false},
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

// cell is one measurement of one server.
type cell struct {
	rate      float64       // requests a second
	p50, p99  time.Duration // of reads; of writes if there are no reads
	processor float64       // the server's, seconds for a million requests
}

// round is one server from start to end.
type round struct {
	cells       []cell  // as columns
	bytesOfPage float64 // memory that the server took for each page
	others      float64 // share of the machine's processors that others used
	stolen      float64 // share that the hypervisor gave to other machines
}

// results are all rounds of one server.
type results struct {
	server server
	rounds []round
}

// measureServers measures all servers in rounds (M2).
func measureServers(ctx context.Context, servers []server, pages *corpus.Corpus, o options) ([]results, error) {
	all := make([]results, len(servers))
	for i, s := range servers {
		all[i].server = s
	}
	for n := range o.rounds {
		for i := range servers {
			turn := (i + n) % len(servers)
			s := servers[turn]
			folder := filepath.Join(o.folder, fmt.Sprintf("%s-%d", s.name, n))
			r, err := measureServer(ctx, s, folder, pages, o)
			if err != nil {
				return nil, fmt.Errorf("measure %s: %w", s.name, err)
			}
			all[turn].rounds = append(all[turn].rounds, r)
		}
	}
	return all, nil
}

// measureServer takes one server through all columns.
func measureServer(ctx context.Context, s server, folder string, pages *corpus.Corpus, o options) (round, error) {
	process, conn, err := s.start(ctx, folder, pages.Pages())
	if err != nil {
		return round{}, err
	}
	defer process.end()
	defer conn.Close()

	load, err := startLoad(process.pid())
	if err != nil {
		return round{}, err
	}
	empty, err := residentBytes(process.pid())
	if err != nil {
		return round{}, err
	}
	var r round
	content := client.NewContent(pages, 0, pages.Pages())
	for i, c := range columns {
		measured, err := c.measure(ctx, process, conn, content, o.seed+uint64(i), o.cell)
		if err != nil {
			return round{}, fmt.Errorf("%s: %w", c.title, err)
		}
		r.cells = append(r.cells, measured)
		if i == 0 {
			full, err := residentBytes(process.pid())
			if err != nil {
				return round{}, err
			}
			r.bytesOfPage = float64(full-empty) / float64(pages.Pages())
		}
	}
	r.others, r.stolen, err = load.stop()
	return r, err
}

// measure runs the column's workload on the connection.
func (c column) measure(ctx context.Context, process *running, conn *client.Conn, content *client.Content, seed uint64, duration time.Duration) (cell, error) {
	if c.ends {
		duration = 0
	}
	before, err := processorTime(process.pid())
	if err != nil {
		return cell{}, err
	}
	result, err := conn.Run(ctx, c.make(content, seed), client.Options{Depth: c.depth, Duration: duration})
	if err != nil {
		return cell{}, err
	}
	after, err := processorTime(process.pid())
	if err != nil {
		return cell{}, err
	}
	latencies := &result.Reads
	if latencies.Count() == 0 {
		latencies = &result.Writes
	}
	return cell{
		rate:      result.Rate(),
		p50:       latencies.Quantile(0.5),
		p99:       latencies.Quantile(0.99),
		processor: (after - before).Seconds() * 1e6 / float64(result.Requests()),
	}, nil
}

// load watches what others do on the machine (M5).
type load struct {
	pid     int
	machine machineTime
	own     time.Duration
	server  time.Duration
}

func startLoad(pid int) (load, error) {
	l := load{pid: pid}
	err := l.read()
	return l, err
}

func (l *load) read() (err error) {
	if l.machine, err = readMachineTime(); err != nil {
		return err
	}
	if l.own, err = ownProcessorTime(); err != nil {
		return err
	}
	l.server, err = processorTime(l.pid)
	return err
}

// stop returns the shares of the machine's time since startLoad.
func (l load) stop() (others, stolen float64, err error) {
	now := load{pid: l.pid}
	if err := now.read(); err != nil {
		return 0, 0, err
	}
	total := now.machine.total - l.machine.total
	if total <= 0 {
		return 0, 0, nil
	}
	busy := now.machine.busy - l.machine.busy - (now.own - l.own) - (now.server - l.server)
	return max(0, busy.Seconds()/total.Seconds()), (now.machine.stolen - l.machine.stolen).Seconds() / total.Seconds(), nil
}
