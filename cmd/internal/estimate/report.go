package estimate

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/tmemd/tmemd/backends/pagemap"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// Options says what to estimate.
type Options struct {
	Scope
	Pages int    // sampled at most
	Seed  uint64 // of the choice
	RAM   int64  // of this machine
}

// Report is the estimate. Its JSON is an interface: names keep their meaning. Ratios
// count same-filled pages as kept, which take no memory.
type Report struct {
	Scope      string `json:"scope"`
	Processes  int    `json:"processes"`
	Denied     int    `json:"processes_denied"` // whose memory the caller may not read
	Restricted bool   `json:"restricted"`       // without root's view of which pages can be swapped
	Bytes      Value  `json:"bytes"`            // of all pages that could be swapped
	Sampled    int64  `json:"sampled_pages"`

	SameFilled Value `json:"same_filled_share"` // of all pages
	Refused    Value `json:"refused_share"`     // of all pages, by lz4: above 7/8 of their size
	MeanPoor   bool  `json:"mean_poor"`         // compressed pages are above 5/8 on average: more are refused

	LZ4      Codec    `json:"lz4"`
	Cold     Codec    `json:"lz4_cold"` // with every page recompressed by zstd that gains by it
	Zstd     Codec    `json:"zstd"`     // for new pages
	Keep     Codec    `json:"lz4_keep"` // incompressible=keep
	Zram     Zram     `json:"zram_lz4"`
	Settings []string `json:"settings"` // KEY=VALUE, for tmemctl backend set
	TOML     string   `json:"toml"`
	Why      []string `json:"why"`
}

// Codec is what would become of all pages under one policy.
type Codec struct {
	Ratio     Value `json:"ratio"`         // bytes of pages to bytes of arena, all included
	Pool      Value `json:"pool_bytes"`    // arena that they take
	DataRatio Value `json:"data_ratio"`    // bytes of pages to bytes that the codec made of them
	Storage   Value `json:"storage_bytes"` // pages that are refused, and go to storage
}

// Zram is what zram with lz4 would make of the same pages, all of which it keeps.
type Zram struct {
	DataRatio Value `json:"data_ratio"` // orig_data_size / compr_data_size of its mm_stat
}

// Run samples and estimates. tell is called while it works.
func Run(ctx context.Context, o Options, tell func(Status)) (Report, error) {
	if o.Pages < 1 {
		return Report{}, cli.Misuse("more pages make margins smaller, in more time", "--pages %d is nothing to go by", o.Pages)
	}
	pids, err := o.processes()
	if err != nil {
		return Report{}, err
	}
	s, err := take(ctx, pids, o.Pages, o.Seed, tell)
	if err != nil {
		return Report{}, err
	}
	if s.counted == 0 {
		return Report{}, cli.Failure("has it any memory of its own in use? what is swapped out already is not seen", "%s has no pages that could be swapped", o.Scope)
	}
	return report(o, s), nil
}

func report(o Options, s *sample) Report {
	all, n := s.pages(), s.judged.pages
	t := &s.judged
	r := Report{
		Scope: o.Scope.String(), Processes: s.processes, Denied: s.denied, Restricted: s.restricted,
		Bytes: s.bytes(s.counted), Sampled: n,
		SameFilled: share(t.sameFilled, n, all),
		Refused:    share(n-t.of[newLZ4].kept, n, all),
		LZ4:        s.codec(newLZ4), Cold: s.codec(cold), Zstd: s.codec(newZstd), Keep: s.codec(keepRaw),
		Zram: Zram{s.codec(inZram).DataRatio},
	}
	lz4 := &t.of[newLZ4]
	r.MeanPoor = lz4.data > zcache.MaxMean*lz4.compressed && lz4.maxMeanCandidate > 0
	r.advise(o.RAM)
	return r
}

// bytes estimates what so many of the pages that were looked at stand for. Those that
// turned out not to be swappable count as looked at.
func (s *sample) bytes(pages int64) Value {
	all := float64(s.candidates)
	part := share(pages, s.looked, all)
	return Value{part.Value * all * pagemap.PageSize, part.Margin * all * pagemap.PageSize}
}

func (s *sample) codec(p policy) Codec {
	of, n := &s.judged.of[p], s.judged.pages
	c := Codec{
		Ratio: of.ratio(n, s.pages()), Pool: of.memory(s.looked, float64(s.candidates)), Storage: s.bytes(n - of.kept),
	}
	if p == keepRaw || p == inZram {
		c.Storage = Value{} // by rule, not by chance
	}
	if of.data > 0 {
		c.DataRatio.Value = float64(of.kept) * pagemap.PageSize / float64(of.data)
		c.DataRatio.Margin = c.Ratio.Margin * c.DataRatio.Value / max(c.Ratio.Value, 1e-9)
	}
	return c
}

// print prints the report for people.
func (r Report) print(w io.Writer) {
	fmt.Fprintf(w, "%s: %s could be swapped", r.Scope, amount(r.Bytes))
	if r.Processes != 1 {
		fmt.Fprintf(w, ", of %d processes", r.Processes)
	}
	fmt.Fprintf(w, "; %d pages of it were sampled\n", r.Sampled)
	if r.Denied > 0 {
		fmt.Fprintf(w, "not in it, as the caller may not read their memory: %d of the processes; root may read most\n", r.Denied)
	}
	if r.Restricted {
		fmt.Fprintln(w, "zeros that were never written and locked memory may be in it: only root sees them apart")
	}
	fmt.Fprintf(w, "\nsame-filled  %s of all pages, kept for nothing\nrefused      %s by lz4, as they do not compress\n\n", percent(r.SameFilled), percent(r.Refused))
	fmt.Fprintf(w, "%-34s %-14s %-22s %s\n", "", "ratio", "pool for all of it", "left to storage")
	for _, line := range []struct {
		name string
		Codec
	}{
		{"lz4", r.LZ4}, {"lz4, all cold and zstd by then", r.Cold}, {"lz4, incompressible=keep", r.Keep}, {"codec=zstd", r.Zstd},
	} {
		fmt.Fprintf(w, "%-34s %-14s %-22s %s\n", line.name, decimals(line.Ratio), amount(line.Pool), amount(line.Storage))
	}
	fmt.Fprintf(w, "%-34s %s compressed, for comparison\n", "zram, lz4", decimals(r.Zram.DataRatio))
	fmt.Fprintf(w, "\nMargins are for 95 in 100 samples. Sizes are of the pool's memory with all overhead.\n\n")
	for _, line := range r.Why {
		fmt.Fprintf(w, "- %s\n", line)
	}
	fmt.Fprintf(w, "\nuse: tmemctl backend set zcache %s\nor, in the configuration file:\n\n", strings.Join(r.Settings, " "))
	for line := range strings.Lines(r.TOML) {
		fmt.Fprintf(w, "    %s", line)
	}
}

func percent(v Value) string { return fmt.Sprintf("%.1f %% ± %.1f", 100*v.Value, 100*v.Margin) }

func decimals(v Value) string {
	if v.Value == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f ± %.2f", v.Value, v.Margin)
}

func amount(v Value) string {
	if v.Value == 0 {
		return "-"
	}
	return cli.Bytes(uint64(v.Value)) + " ± " + cli.Bytes(uint64(v.Margin))
}
