package main

import (
	"fmt"
	"io"
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
	fmt.Fprintf(out, "Servers over a Unix socket, one connection, 4 KiB requests; medians of %d rounds of %v a cell; %d processors\n\n",
		o.rounds, o.cell, runtime.NumCPU())
	fmt.Fprintln(out, "requests/s")
	printColumns(out, all, "%.0f", func(r *results, i int) float64 {
		return r.median(func(n int) float64 { return r.rounds[n].cells[i].rate })
	})
	fmt.Fprintf(out, "\nrequests/s, relative to %s\n", all[0].server.title)
	printColumns(out, all, "%.2f", func(r *results, i int) float64 {
		return r.median(func(n int) float64 { return r.rounds[n].cells[i].rate / all[0].rounds[n].cells[i].rate })
	})
	fmt.Fprintln(out, "\nserver's processor time, seconds for a million requests")
	printColumns(out, all, "%.2f", func(r *results, i int) float64 {
		return r.median(func(n int) float64 { return r.rounds[n].cells[i].processor })
	})
	fmt.Fprintln(out, "\nlatency p50, µs (of reads where there are any)")
	printColumns(out, all, "%.0f", func(r *results, i int) float64 {
		return r.median(func(n int) float64 { return microseconds(r.rounds[n].cells[i].p50) })
	})
	fmt.Fprintln(out, "\nlatency p99, µs")
	printColumns(out, all, "%.0f", func(r *results, i int) float64 {
		return r.median(func(n int) float64 { return microseconds(r.rounds[n].cells[i].p99) })
	})
	fmt.Fprintln(out, "\nmemory, and the load of others while each was measured")
	table := newTable(out)
	fmt.Fprintf(table, "\tbytes a page\tothers' processor %%\tstolen %%\t\n")
	for _, r := range all {
		fmt.Fprintf(table, "%s\t%.0f\t%.0f\t%.0f\t\n", r.server.title,
			r.median(func(n int) float64 { return r.rounds[n].bytesOfPage }),
			r.median(func(n int) float64 { return 100 * r.rounds[n].others }),
			r.median(func(n int) float64 { return 100 * r.rounds[n].stolen }))
	}
	table.Flush()
	fmt.Fprintf(out, "\nLoad average at the end: %s. The engine alone has its memory from the start.\n", loadAverage())
}

func printColumns(out io.Writer, all []results, format string, value func(r *results, column int) float64) {
	table := newTable(out)
	fmt.Fprint(table, "\t")
	for _, c := range columns {
		fmt.Fprintf(table, "%s\t", c.title)
	}
	fmt.Fprintln(table)
	for i := range all {
		fmt.Fprintf(table, "%s\t", all[i].server.title)
		for c := range columns {
			fmt.Fprintf(table, format+"\t", value(&all[i], c))
		}
		fmt.Fprintln(table)
	}
	table.Flush()
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
