package main

import (
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/tmemd/tmemd/deploy/corpus"
)

func newTable(out io.Writer) *tabwriter.Writer {
	return tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
}

// printCorpus says what the pages are.
func printCorpus(out io.Writer, pages *corpus.Corpus, seed uint64) {
	fmt.Fprintf(out, "%d pages of memory, sampled now (seed %d)\n\n", pages.Pages(), seed)
	table := newTable(out)
	fmt.Fprintf(table, "source\tpages\tzero %%\tother same-filled %%\tlz4 ratio\t\n")
	for _, s := range append(slices.Clone(pages.Sources()), pages.Total()) {
		if s.Skipped != "" {
			fmt.Fprintf(table, "%s\t–\t–\t–\t–\t\n", s.Name)
			continue
		}
		fmt.Fprintf(table, "%s\t%d\t%.1f\t%.1f\t%.2f\t\n", s.Name, s.Pages,
			percent(s.Zero, s.Seen), percent(s.SameFilled, s.Seen), s.Ratio())
	}
	table.Flush()
	fmt.Fprintln(out, "\nSame-filled pages were seen in that share and left out.")
	for _, s := range pages.Sources() {
		if s.Skipped != "" {
			fmt.Fprintf(out, "%s is left out: %s.\n", s.Name, s.Skipped)
		}
	}
	if pages.Restricted() {
		fmt.Fprintln(out, "The kernel's page flags cannot be read here (root can): zero pages may be overstated.")
	}
	fmt.Fprintln(out)
}

func percent(part, whole int) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * float64(part) / float64(whole)
}

// printDevice measures the tier in this process and prints the result.
func printDevice(out io.Writer, pages *corpus.Corpus) error {
	before := loadAverage()
	r, err := measureDevice(pages)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Tier, frontswap and zcache in one process, one goroutine, storage in memory (load average %s)\n\n", before)
	table := newTable(out)
	fmt.Fprintf(table, "\tpages/s\tallocations/page\tAllocsPerRun\t\n")
	fmt.Fprintf(table, "out\t%.0f\t%.4f\t%.0f\t\n", r.out.rate, r.out.allocations, r.out.allocationsRun)
	fmt.Fprintf(table, "in\t%.0f\t%.4f\t%.0f\t\n", r.in.rate, r.in.allocations, r.in.allocationsRun)
	table.Flush()

	fmt.Fprintf(out, "\n%d of %d pages stored, %d refused (on storage); bytes for each stored page:\n\n", r.stored, r.pages, r.refused)
	table = newTable(out)
	fmt.Fprintf(table, "compressed\tarena held\tarena resident\tpage map resident\tGo heap\tfixed\tall resident\tratio\t\n")
	fmt.Fprintf(table, "%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f\t\n",
		r.perPage(float64(r.data)), r.perPage(float64(r.held)), r.perPage(float64(r.arena)), r.perPage(float64(r.pageMap)),
		r.perPage(float64(r.heap)), r.perPage(float64(r.fixed)), r.perPage(float64(r.resident())), r.ratio())
	table.Flush()
	fmt.Fprintf(out, "\nFixed are %d KiB of locks and compressors, however many pages there are.\n\n", r.fixed>>10)
	return nil
}

// printServers prints the tables that compare servers.
func printServers(out io.Writer, all []results, o options) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(out, "Servers over a Unix socket, 4 KiB requests on one connection (4×: on four at once); medians of %d rounds of %v a cell; %d processors\n\n",
		o.rounds, o.cell, runtime.NumCPU())
	fmt.Fprintf(out, "requests/s (burst: of %d pages, without the pauses between bursts)\n", burstPages)
	printColumns(out, all, "%.0f", func(r *results, n, i int) float64 { return r.rounds[n].cells[i].rate })
	fmt.Fprintf(out, "\nrequests/s, relative to %s\n", all[0].server.title)
	printColumns(out, all, "%.2f", func(r *results, n, i int) float64 {
		return r.rounds[n].cells[i].rate / all[0].rounds[n].cells[i].rate
	})
	fmt.Fprintln(out, "\nserver's processor time, seconds for a million requests, with what it left for later")
	printColumns(out, all, "%.2f", func(r *results, n, i int) float64 { return r.rounds[n].cells[i].processor })
	fmt.Fprintln(out, "\nlatency p50, µs (of reads where there are any; of a whole burst)")
	printColumns(out, all, "%.0f", func(r *results, n, i int) float64 { return r.rounds[n].cells[i].p50 })
	fmt.Fprintln(out, "\nlatency p99, µs")
	printColumns(out, all, "%.0f", func(r *results, n, i int) float64 { return r.rounds[n].cells[i].p99 })
	fmt.Fprintf(out, "\nlatency p99, relative to %s\n", all[0].server.title)
	printColumns(out, all, "%.2f", func(r *results, n, i int) float64 {
		return r.rounds[n].cells[i].p99 / all[0].rounds[n].cells[i].p99
	})
	for _, r := range all {
		for _, c := range columns {
			if why := r.server.lacks[c.title]; why != "" {
				fmt.Fprintf(out, "\n– %s has no %s: %s.\n", r.server.title, c.title, why)
			}
		}
	}
	fmt.Fprintln(out, "\nmemory, and the load of others while each was measured")
	table := newTable(out)
	fmt.Fprintf(table, "\tbytes a page\tothers' processor %%\tstolen %%\t\n")
	for _, r := range all {
		fmt.Fprintf(table, "%s\t%s\t%.0f\t%.0f\t\n", r.server.title,
			figure("%.0f", r.median(func(n int) float64 { return r.rounds[n].bytesOfPage })),
			r.median(func(n int) float64 { return 100 * r.rounds[n].others }),
			r.median(func(n int) float64 { return 100 * r.rounds[n].stolen }))
	}
	table.Flush()
	fmt.Fprintln(out, "\nServers of plain memory have it from the start; – is a server whose pages are not in its own memory.")
}

// figure formats a figure, or says that there is none.
func figure(format string, value float64) string {
	if math.IsNaN(value) {
		return "–"
	}
	return fmt.Sprintf(format, value)
}

// printColumns prints the medians over the rounds of what value says of a server
// in a column.
func printColumns(out io.Writer, all []results, format string, value func(r *results, round, column int) float64) {
	table := newTable(out)
	fmt.Fprint(table, "\t")
	for _, c := range columns {
		fmt.Fprintf(table, "%s\t", c.title)
	}
	fmt.Fprintln(table)
	for s := range all {
		r := &all[s]
		fmt.Fprintf(table, "%s\t", r.server.title)
		for c := range columns {
			fmt.Fprintf(table, "%s\t", figure(format, r.median(func(n int) float64 { return value(r, n, c) })))
		}
		fmt.Fprintln(table)
	}
	table.Flush()
}

// printZram prints what the kernel's zram does with the same pages.
func printZram(out io.Writer, rounds [][]cell) {
	if len(rounds) == 0 {
		return
	}
	fmt.Fprint(out, "\nzram (lz4) in the same rounds: one thread, O_DIRECT, no server\n\n")
	table := newTable(out)
	fmt.Fprintf(table, "\trequests/s\tprocessor s a million\tp50 µs\tp99 µs\t\n")
	for i, c := range zramColumns {
		of := func(figure func(cell) float64) float64 {
			values := make([]float64, len(rounds))
			for n := range rounds {
				values[n] = figure(rounds[n][i])
			}
			return median(values)
		}
		fmt.Fprintf(table, "%s\t%.0f\t%.2f\t%.1f\t%.1f\t\n", c.title, of(rate), of(processor), of(p50), of(p99))
	}
	table.Flush()
	fmt.Fprintln(out, "\nThe processor time is the thread's, system calls and the choice of pages included.")
}

// printAdverse prints what disturbances do to the reads of others.
func printAdverse(out io.Writer, all []adversity, o options) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(out, "\nAdverse conditions: tmemd, read QD16 of pages in memory; %d cells of %v each, a quiet one before each disturbed one\n\n", o.adverse, o.cell)
	table := newTable(out)
	fmt.Fprintf(table, "\trequests/s\tp50 µs\tp99 µs\tquiet p99 µs\tp99 to quiet\tp50 to quiet\t\n")
	for _, a := range all {
		if len(a.pairs) == 0 {
			continue
		}
		fmt.Fprintf(table, "%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.2f\t%.2f\t\n", a.title,
			a.median(func(p pair) float64 { return p.disturbed.rate }),
			a.median(func(p pair) float64 { return p.disturbed.p50 }),
			a.median(func(p pair) float64 { return p.disturbed.p99 }),
			a.median(func(p pair) float64 { return p.quiet.p99 }),
			a.median(func(p pair) float64 { return p.disturbed.p99 / p.quiet.p99 }),
			a.median(func(p pair) float64 { return p.disturbed.p50 / p.quiet.p50 }))
	}
	table.Flush()
	fmt.Fprintf(out, `
slow reader: a client asks for megabytes and reads %d bytes each %v.
idle connections: %d other clients are attached and ask for nothing.
stuck page: another client waits for a page that storage keeps for %v, again and again.
quiet again: two quiet cells in a row, which says how much a cell varies by itself.
`, crawlBytes, crawlPause, o.idle, o.stuck)
}

// median is the median over the pairs.
func (a *adversity) median(value func(pair) float64) float64 {
	values := make([]float64, len(a.pairs))
	for i, p := range a.pairs {
		values[i] = value(p)
	}
	return median(values)
}

// median is the median of what value says of each round.
func (r *results) median(value func(round int) float64) float64 {
	values := make([]float64, len(r.rounds))
	for n := range values {
		values[n] = value(n)
	}
	return median(values)
}

// median sorts the values, at least one.
func median(values []float64) float64 {
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
