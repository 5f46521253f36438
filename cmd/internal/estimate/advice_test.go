package estimate

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

func newRandom() *rand.Rand { return rand.New(rand.NewPCG(5, 6)) }

// seen is a sample of so many pages of each sort, of a host that has a thousand times
// as many.
func seen(sameFilled, poor, good, coldToo int) *sample {
	s := &sample{processes: 1}
	add := func(n int, v zcache.Verdict) {
		for range n {
			s.judged.add(v)
		}
	}
	add(sameFilled, zcache.Verdict{SameFilled: true})
	add(poor, zcache.Verdict{Zram: backends.PageSize})
	add(good, zcache.Verdict{LZ4: 1200, Zstd: 1190, Cold: 1200, Zram: 1210})
	add(coldToo, zcache.Verdict{LZ4: 1200, Zstd: 800, Cold: 800, Zram: 1210})
	s.looked, s.counted = s.judged.pages, s.judged.pages
	s.candidates = 1000 * s.looked
	return s
}

// TestAdviceIsAccepted is E5: by the configuration file's parser, and by the settings
// that tmemctl backend set uses.
func TestAdviceIsAccepted(t *testing.T) {
	const gib = 1 << 30
	for name, test := range map[string]struct {
		sample *sample
		ram    int64
		want   zcache.Config // Limit, KeepIncompressible and Cold
	}{
		"good":           {seen(100, 0, 100, 900), 64 * gib, zcache.Config{Limit: 1280 << 20, Cold: 10 * time.Minute}},
		"no gain":        {seen(100, 0, 900, 0), 64 * gib, zcache.Config{Limit: 1152 << 20, Cold: -1}},
		"few are poor":   {seen(0, 10, 0, 990), 64 * gib, zcache.Config{Limit: 1312 << 20, Cold: 10 * time.Minute, KeepIncompressible: true}},
		"many are poor":  {seen(0, 500, 0, 500), 64 * gib, zcache.Config{Limit: 688 << 20, Cold: 10 * time.Minute}},
		"little memory":  {seen(0, 0, 0, 1000), gib, zcache.Config{Limit: 512 << 20, Cold: 10 * time.Minute}},
		"all are poor":   {seen(0, 1000, 0, 0), gib, zcache.Config{Limit: 16 << 20, Cold: -1}},
		"all are zeros":  {seen(1000, 0, 0, 0), gib, zcache.Config{Limit: 16 << 20, Cold: -1}},
		"a tiny machine": {seen(0, 0, 0, 1000), 64 << 20, zcache.Config{Limit: 32 << 20, Cold: 10 * time.Minute}},
	} {
		t.Run(name, func(t *testing.T) {
			r := report(Options{RAM: test.ram}, test.sample)
			home := t.TempDir()
			path := filepath.Join(home, "tmemd.toml")
			if err := os.WriteFile(path, []byte(r.TOML), 0o600); err != nil {
				t.Fatal(err)
			}
			host := config.Host{RAM: test.ram, Kinds: []string{zcache.Kind}, Env: func(name string) string { return map[string]string{"HOME": home}[name] }}
			parsed, _, err := config.Parse([]string{"--config", path}, host)
			if err != nil {
				t.Fatalf("%v in\n%s", err, r.TOML)
			}
			if len(parsed.Backends) != 1 {
				t.Fatalf("%d backends in\n%s", len(parsed.Backends), r.TOML)
			}
			got := parsed.Backends[0].Zcache
			if got.Limit/(64<<20) != test.want.Limit/(64<<20) || got.Cold != test.want.Cold || got.KeepIncompressible != test.want.KeepIncompressible {
				t.Errorf("limit %d MiB, cold after %v, keep %v in\n%s\n%s", got.Limit>>20, got.Cold, got.KeepIncompressible, r.TOML, strings.Join(r.Why, "\n"))
			}
			var settings []config.Setting
			for _, text := range r.Settings {
				key, value, _ := strings.Cut(text, "=")
				settings = append(settings, config.Setting{Key: key, Value: value})
			}
			set, wrong := config.ZcacheSettings().SetAll(config.DefaultZcache(), settings, test.ram)
			if wrong != nil {
				t.Fatalf("%v: %v", r.Settings, wrong)
			}
			if set.Limit != got.Limit || set.Cold != got.Cold || set.KeepIncompressible != got.KeepIncompressible {
				t.Errorf("as settings %+v, in the file %+v", set, got)
			}
			if len(r.Why) < len(r.Settings) {
				t.Errorf("settings %v for the reasons %q", r.Settings, r.Why)
			}
		})
	}
}

func TestMeanPoor(t *testing.T) {
	s := new(sample)
	for i := range 100 {
		s.judged.add(zcache.Verdict{LZ4: 2000 + 15*i, Zram: 3000})
	}
	s.looked, s.counted, s.candidates = 100, 100, 100
	if r := report(Options{RAM: 1 << 30}, s); !r.MeanPoor || !slices.ContainsFunc(r.Why, func(w string) bool { return strings.Contains(w, "5/8") }) {
		t.Errorf("mean poor: %v, %q", r.MeanPoor, r.Why)
	}
}

func runCommand(asJSON bool, args ...string) (string, error) {
	var out, log bytes.Buffer
	c := Command(&out, &log, &asJSON)
	c.SetArgs(args)
	c.SilenceErrors, c.SilenceUsage = true, true
	err := c.Execute()
	return out.String() + log.String(), err
}

func TestCommand(t *testing.T) {
	pid := strconv.Itoa(hold(t, "text"))
	out, err := runCommand(true, "--pid", pid, "--pages", "300", "--seed", "4")
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if r.Sampled < 250 || r.Sampled > 300 || r.LZ4.Ratio.Value < 1 || r.LZ4.Ratio.Margin <= 0 || len(r.Settings) != 3 {
		t.Errorf("report %+v", r)
	}
	out, err = runCommand(false, "--pid", pid, "--pages", "300")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"process " + pid, " could be swapped; ", "same-filled", "lz4, all cold", "zram, lz4", "tmemctl backend set zcache max_pool=", "    [[backend]]\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "NaN") || strings.Contains(out, "request done") {
		t.Errorf("E1: printed\n%s", out)
	}
	for _, bad := range [][]string{{"x"}, {"--pid", "0"}, {"--pid", "-3"}, {"--cgroup", ""}, {"--pid", pid, "--cgroup", "/"}, {"--pid", pid, "--pages", "0"}} {
		if out, err := runCommand(false, bad...); err == nil || strings.Contains(out, "ratio") {
			t.Errorf("%q: error %v, printed %q", bad, err, out)
		}
	}
}
