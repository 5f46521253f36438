package estimate

import (
	"fmt"
	"math"
	"strings"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

const (
	mib = 1 << 20

	// poolFree is the part of a pool that zcache keeps free.
	poolFree = 0.05
	// poolSlack is for chunks that are not full, one for each size in use.
	poolSlack = 4 * mib
	// poolStep is what the size is rounded up to, poolLeast the least.
	poolStep, poolLeast = 16 * mib, 16 * mib
	// ramPart is the most of the machine's memory that is worth giving to a pool: what
	// is in it has to be taken out before it can be used.
	ramPart = 0.5

	// keepCost is what keeping pages that do not compress may add to the pool.
	keepCost = 0.10
	// coldGain is what recompression has to save to be worth a processor's time.
	coldGain = 0.10
	// mostlyPoor is the share of pages that do not compress above which zcache helps
	// little.
	mostlyPoor = 0.5
)

// advise chooses settings, in the words of tmemctl backend set.
func (r *Report) advise(ram int64) {
	set := func(key, value, format string, args ...any) {
		r.Settings = append(r.Settings, key+"="+value)
		r.Why = append(r.Why, key+"="+value+": "+fmt.Sprintf(format, args...))
	}
	chosen := r.LZ4
	keep := r.Refused.Value > 0 && r.Keep.Pool.Value <= (1+keepCost)*r.LZ4.Pool.Value
	if keep {
		chosen = r.Keep
	}
	most := chosen.Pool.Value + chosen.Pool.Margin
	wanted := int64(math.Ceil((most/(1-poolFree)+poolSlack)/poolStep)) * poolStep
	limit := max(poolLeast, int64(float64(ram)*ramPart)/poolStep*poolStep)
	pool := min(max(wanted, poolLeast), limit)
	why := fmt.Sprintf("room for all of it, %s at most, and a twentieth free", cli.Bytes(uint64(most)))
	if pool < wanted {
		why = fmt.Sprintf("all of it would take %s; this is half of this machine's memory, and the coldest pages go to storage", cli.Bytes(uint64(wanted)))
	}
	set("max_pool", fmt.Sprintf("%dMiB", pool/mib), "%s", why)
	if keep {
		set("incompressible", "keep", "it takes %s more, and nothing goes to storage for what is in it", cli.Bytes(uint64(r.Keep.Pool.Value-r.LZ4.Pool.Value)))
	} else if r.Refused.Value == 0 {
		set("incompressible", "refuse", "no page that does not compress was seen")
	} else {
		set("incompressible", "refuse", "%s do not compress, and would take more than their own size", percent(r.Refused))
	}
	saved := r.LZ4.Pool.Value - r.Cold.Pool.Value
	part := saved / max(1, r.LZ4.Pool.Value)
	if part >= coldGain {
		set("cold_after", "10m", "zstd saves up to %s (%.0f %%) of what lz4 takes, once all is cold", cli.Bytes(uint64(saved)), 100*part)
	} else {
		set("cold_after", "off", "zstd would save %.0f %% of what lz4 takes, which is not worth a processor's time", 100*part)
	}
	if r.Refused.Value > mostlyPoor {
		r.Why = append(r.Why, "most of it does not compress: zcache is of little use here, storage and other hosts' memory serve it as well")
	}
	if r.MeanPoor {
		r.Why = append(r.Why, "pages compress to more than 5/8 on average: while they do, those above it are refused too, about half")
	}
	var b strings.Builder
	b.WriteString("[[backend]]\nkind = \"zcache\"\n")
	for _, setting := range r.Settings {
		key, value, _ := strings.Cut(setting, "=")
		fmt.Fprintf(&b, "%s = %q\n", key, value)
	}
	r.TOML = b.String()
}
