package main

import (
	"fmt"
	"io"
	"math"
	"slices"
)

// measured is all that a run measured.
type measured struct {
	servers []results
	zram    [][]cell // by round, as zramColumns; none if there is no zram here
	adverse []adversity
}

// target is a figure that the project set itself: a ratio, and its bound.
type target struct {
	what    string
	atLeast bool // the bound is the least, not the most
	bound   float64
	reached float64 // or missing
}

func (t target) verdict() string {
	switch {
	case math.IsNaN(t.reached):
		return "not measured"
	case t.reached == t.bound || (t.reached > t.bound) == t.atLeast:
		return "met"
	}
	return "missed"
}

// Figures of a cell.
func rate(c cell) float64      { return c.rate }
func p50(c cell) float64       { return c.p50 }
func p99(c cell) float64       { return c.p99 }
func processor(c cell) float64 { return c.processor }

// ratio is the median over the rounds of a server's figure to a peer's, in the
// column of that title.
func (m *measured) ratio(name, peer, title string, figure func(cell) float64) float64 {
	subject, other := m.find(name), m.find(peer)
	i := slices.IndexFunc(columns, func(c column) bool { return c.title == title })
	if subject == nil || other == nil || i < 0 {
		return missing
	}
	return subject.median(func(n int) float64 { return figure(subject.rounds[n].cells[i]) / figure(other.rounds[n].cells[i]) })
}

func (m *measured) find(name string) *results {
	for i := range m.servers {
		if m.servers[i].server.name == name {
			return &m.servers[i]
		}
	}
	return nil
}

// ratioToZram is a server's processor time for a request of the swap pattern,
// relative to zram's.
func (m *measured) ratioToZram(name string) float64 {
	subject := m.find(name)
	i := slices.IndexFunc(columns, func(c column) bool { return c.title == swapQD16 })
	if subject == nil || len(m.zram) == 0 {
		return missing
	}
	return subject.median(func(n int) float64 {
		return subject.rounds[n].cells[i].processor / m.zram[n][zramSwap].processor
	})
}

// targets are the figures of the issue on the NBD server, and what was reached.
func (m *measured) targets() []target {
	const more, less = true, false
	engine := func(what, title string, figure func(cell) float64, atLeast bool, bound float64) target {
		return target{"engine alone to nbdkit raw: " + what, atLeast, bound, m.ratio(serverEngine, serverNbdkit, title, figure)}
	}
	all := []target{
		engine("read QD1, requests/s", readQD1, rate, more, 1.3),
		engine("read QD16, requests/s", readQD16, rate, more, 4),
		engine("read QD64, requests/s", readQD64, rate, more, 5.5),
		engine("read 4×QD16, requests/s", read4QD16, rate, more, 4),
		engine("write QD16, requests/s", writeQD16, rate, more, 3),
		engine("read QD16, p99", readQD16, p99, less, 0.25),
		engine("read QD64, p99", readQD64, p99, less, 0.25),
		engine("read QD16, processor", readQD16, processor, less, 0.2),
	}
	for _, name := range []string{serverTmemd, serverKeep} {
		if name == serverKeep && m.find(name) == nil {
			continue
		}
		whole := func(what, peer, title string, figure func(cell) float64, atLeast bool, bound float64) target {
			to := map[string]string{serverNbdkit: "nbdkit raw", serverZstd: "nbdkit zstd"}[peer]
			return target{titles[name] + " to " + to + ": " + what, atLeast, bound, m.ratio(name, peer, title, figure)}
		}
		all = append(all,
			whole("read QD16, requests/s", serverNbdkit, readQD16, rate, more, 2),
			whole("read QD16, requests/s", serverZstd, readQD16, rate, more, 12),
			whole("write QD16, requests/s", serverNbdkit, writeQD16, rate, more, 1),
			whole("write QD16, requests/s", serverZstd, writeQD16, rate, more, 15),
			whole("swap QD16, requests/s", serverNbdkit, swapQD16, rate, more, 1.4),
			whole("swap QD16, requests/s", serverZstd, swapQD16, rate, more, 8),
			whole("read QD1, p50", serverNbdkit, readQD1, p50, less, 1),
			whole("burst of 20 at QD1, p50", serverNbdkit, burst20, p50, less, 1.2),
			target{titles[name] + " to zram lz4: swap pattern, processor", less, 1, m.ratioToZram(name)},
		)
	}
	for _, d := range disturbances {
		all = append(all, target{"tmemd to itself in quiet: read QD16, p99, " + d.title, less, 1.5, m.disturbed(d.title)})
	}
	return all
}

// disturbed is the median ratio of p99 to quiet.
func (m *measured) disturbed(title string) float64 {
	for _, a := range m.adverse {
		if a.title == title && len(a.pairs) > 0 {
			return a.median(func(p pair) float64 { return p.disturbed.p99 / p.quiet.p99 })
		}
	}
	return missing
}

// printVerdict puts the targets beside what was reached. It informs: whether a
// run was worth something is for its reader to say.
func printVerdict(out io.Writer, m *measured) {
	fmt.Fprint(out, "\nTargets, all of them ratios\n\n")
	table := newTable(out)
	fmt.Fprintf(table, "what\ttarget\treached\tverdict\t\n")
	met, all := 0, m.targets()
	for _, t := range all {
		sign := "≤"
		if t.atLeast {
			sign = "≥"
		}
		if t.verdict() == "met" {
			met++
		}
		fmt.Fprintf(table, "%s\t%s %.2f\t%s\t%s\t\n", t.what, sign, t.bound, figure("%.2f", t.reached), t.verdict())
	}
	table.Flush()
	fmt.Fprintf(out, "\n%d of %d met.\n", met, len(all))
}
