package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tmemd/tmemd/deploy/corpus"
	"github.com/tmemd/tmemd/nbd/client"
)

// round is one server from start to end.
type round struct {
	cells       []cell  // as columns
	bytesOfPage float64 // memory that the server took for each page, or missing
	others      float64 // share of the machine's processors that others used
	stolen      float64 // share that the hypervisor gave to other machines
}

// results are all rounds of one server.
type results struct {
	server server
	rounds []round
}

// measureRounds measures all servers in rounds (M2), and zram at the end of each.
func (m *measured) measureRounds(ctx context.Context, servers []server, zram bool, pages *corpus.Corpus, o options) error {
	m.servers = make([]results, len(servers))
	for i, s := range servers {
		m.servers[i].server = s
	}
	for n := range o.rounds {
		for i := range servers {
			turn := (i + n) % len(servers)
			s := servers[turn]
			folder := filepath.Join(o.folder, fmt.Sprintf("%s-%d", s.name, n))
			r, err := measureServer(ctx, s, folder, pages, o)
			if err != nil {
				return fmt.Errorf("measure %s: %w", s.name, err)
			}
			m.servers[turn].rounds = append(m.servers[turn].rounds, r)
		}
		if zram {
			cells, err := measureZram(ctx, o.folder, pages, o)
			if err != nil {
				return err
			}
			m.zram = append(m.zram, cells)
		}
	}
	return nil
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
		if s.lacks[c.title] != "" {
			r.cells = append(r.cells, missingCell)
			continue
		}
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
			if s.outside {
				r.bytesOfPage = missing
			}
		}
	}
	r.others, r.stolen, err = load.stop()
	return r, err
}

// load watches what others than this process and a server do on the machine (M5).
type load struct {
	pid     int // of the server; 0 for none
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
	if l.pid != 0 {
		l.server, err = processorTime(l.pid)
	}
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
