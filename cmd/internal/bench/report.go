package bench

import (
	"fmt"
	"io"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/nbd/client"
)

// Report is what was measured. Its JSON is an interface: names keep their meaning.
type Report struct {
	Server            string    `json:"server"`
	Export            string    `json:"export"`
	DeviceBytes       int64     `json:"device_bytes"`
	FirstByte         int64     `json:"first_byte"`
	RangeBytes        int64     `json:"range_bytes"`
	Pattern           Pattern   `json:"pattern"`
	Depth             int       `json:"depth"`
	Connections       int       `json:"connections"`
	RequestBytes      int       `json:"request_bytes"`
	Seed              uint64    `json:"seed"`
	Content           string    `json:"content,omitempty"` // of what was written
	Seconds           float64   `json:"seconds"`
	Requests          uint64    `json:"requests"`
	Bytes             int64     `json:"bytes"` // read and written
	RequestsPerSecond float64   `json:"requests_per_second"`
	BytesPerSecond    float64   `json:"bytes_per_second"`
	Reads             Latency   `json:"reads"`
	Writes            Latency   `json:"writes"`
	Discards          Latency   `json:"discards"`
	Verified          *Verified `json:"verified,omitempty"`
}

// Latency is how long requests of one sort took, from the moment before they were sent
// to the moment after they were received. Percentiles are rounded down by 1.6 % at most.
type Latency struct {
	Requests uint64        `json:"requests"`
	P50      time.Duration `json:"p50_ns"`
	P90      time.Duration `json:"p90_ns"`
	P99      time.Duration `json:"p99_ns"`
	P999     time.Duration `json:"p99_9_ns"`
	Max      time.Duration `json:"max_ns"`
}

// Verified is what became of the pages that were read with Options.Verify.
type Verified struct {
	Right      uint64   `json:"right_pages"`
	Unstamped  uint64   `json:"unstamped_pages"` // nobody knows what they should be
	Wrong      uint64   `json:"wrong_pages"`
	WrongPages []string `json:"wrong,omitempty"` // the first of them
}

func latency(h *client.Histogram) Latency {
	return Latency{
		Requests: h.Count(), P50: h.Quantile(0.5), P90: h.Quantile(0.9), P99: h.Quantile(0.99), P999: h.Quantile(0.999), Max: h.Longest(),
	}
}

func (r *run) report(result *client.Result) Report {
	seconds := result.Elapsed.Seconds()
	report := Report{
		Server: r.Network + "://" + r.Address, Export: r.Export, DeviceBytes: r.conns[0].Size(), FirstByte: r.First, RangeBytes: r.Range,
		Pattern: r.Pattern, Depth: r.Depth, Connections: r.Connections, RequestBytes: r.Size, Seed: r.Seed,
		Seconds: seconds, Requests: result.Requests(), Bytes: result.Bytes,
		RequestsPerSecond: result.Rate(), BytesPerSecond: float64(result.Bytes) / max(seconds, 1e-9),
		Reads: latency(&result.Reads), Writes: latency(&result.Writes), Discards: latency(&result.Others),
	}
	if r.content != nil {
		report.Content = r.Content
	}
	if r.Verify {
		v := new(Verified)
		for _, p := range r.parts {
			v.Right += p.verified
			v.Unstamped += p.unstamped
			v.Wrong += p.wrong
			v.WrongPages = append(v.WrongPages, p.told[:min(len(p.told), mostTold-min(mostTold, len(v.WrongPages)))]...)
		}
		report.Verified = v
	}
	return report
}

// print prints the report for people.
func (r Report) print(w io.Writer) {
	export := r.Export
	if export == "" {
		export = "the default export"
	}
	fmt.Fprintf(w, "%s of %s, %s\n", export, r.Server, cli.Bytes(uint64(r.DeviceBytes)))
	fmt.Fprintf(w, "%s, %s at a time over %s, %d connection%s of depth %d\n\n",
		r.Pattern, cli.Bytes(uint64(r.RequestBytes)), cli.Bytes(uint64(r.RangeBytes)), r.Connections, plural(r.Connections), r.Depth)
	fmt.Fprintf(w, "%.0f requests/s, %s/s: %d requests in %.1f s\n", r.RequestsPerSecond, cli.Bytes(uint64(r.BytesPerSecond)), r.Requests, r.Seconds)
	fmt.Fprintf(w, "%-9s %10s %9s %9s %9s %9s %9s\n", "latency", "requests", "p50", "p90", "p99", "p99.9", "max")
	for _, line := range []struct {
		name string
		Latency
	}{{"reads", r.Reads}, {"writes", r.Writes}, {"discards", r.Discards}} {
		if line.Requests == 0 {
			continue
		}
		fmt.Fprintf(w, "%-9s %10d %9s %9s %9s %9s %9s\n", line.name, line.Requests,
			short(line.P50), short(line.P90), short(line.P99), short(line.P999), short(line.Max))
	}
	if v := r.Verified; v != nil {
		fmt.Fprintf(w, "verified: %d pages right, %d wrong", v.Right, v.Wrong)
		if v.Unstamped > 0 {
			fmt.Fprintf(w, "; %d were not written by bench --verify --seed %d, and say nothing", v.Unstamped, r.Seed)
		}
		fmt.Fprintln(w)
	}
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// short spells a time in three digits or so.
func short(d time.Duration) string {
	switch {
	case d < 10*time.Microsecond:
		return fmt.Sprintf("%.1fµs", float64(d)/1e3)
	case d < time.Millisecond:
		return fmt.Sprintf("%.0fµs", float64(d)/1e3)
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2fms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%.0fms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.2fs", d.Seconds())
}
