package config

import (
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends/zcache"
)

// TestZcacheSettings sets each setting, and reads it back as it is shown.
func TestZcacheSettings(t *testing.T) {
	var c zcache.Config
	c.Codec = zcache.LZ4
	for _, test := range []struct{ key, value, shown string }{
		{"max_pool", "50%", "8GiB"},
		{"max_pool", "1073741825", "1073741825"},
		{"max_pool", "1GiB", "1GiB"},
		{"self_sizing", "on", "on"},
		{"self_sizing", "off", "off"},
		{"self_sizing", "default", "on"},
		{"min_pool", "100MiB", "100MiB"},
		{"min_pool", "default", "256MiB"},
		{"codec", "zstd", "zstd"},
		{"codec", "default", "lz4"},
		{"incompressible", "keep", "keep"},
		{"incompressible", "default", "refuse"},
		{"accept_threshold_percent", "75%", "75"},
		{"accept_threshold_percent", "100", "100"},
		{"staging", "off", "off"},
		{"staging", "3MiB", "3MiB"},
		{"staging", "default", "64MiB"},
		{"cold_after", "90s", "1m30s"},
		{"cold_after", "120m", "2h"},
		{"cold_after", "off", "off"},
		{"cold_cpu_percent", "5", "5"},
		{"scrub_period", "10h", "10h"},
		{"scrub_period", "60s", "1m"},
		{"scrub_period", "off", "off"},
	} {
		if wrong := ZcacheSettings().Set(&c, Setting{test.key, test.value}, 16*gib); wrong != nil {
			t.Errorf("%s=%s: %v", test.key, test.value, wrong)
			continue
		}
		for _, s := range ZcacheSettings().Show(c) {
			if s.Key != test.key {
				continue
			}
			if s.Value != test.shown {
				t.Errorf("%s=%s is shown as %s, want %s", test.key, test.value, s.Value, test.shown)
			}
			if wrong := ZcacheSettings().Set(&c, s, 16*gib); wrong != nil {
				t.Errorf("%s does not take what is shown: %v", test.key, wrong)
			}
		}
	}
}

func TestZcacheSettingsRefused(t *testing.T) {
	was := zcache.Config{Limit: 1 << 30, SelfSizing: true}
	for _, test := range []struct{ key, value, want string }{
		{"max_pool", "17GiB", "max_pool: \"17GiB\" is more than the RAM of this machine, 16 GiB"},
		{"max_pool", "1KiB", "max_pool: \"1KiB\" is too small for a backend, which needs 1 MiB or more"},
		{"min_pool", "lots", "min_pool: \"lots\" is not a size"},
		{"self_sizing", "maybe", "self_sizing: \"maybe\" is neither on nor off"},
		{"codec", "raw", "codec: \"raw\" compresses no pages"},
		{"incompressible", "drop", "incompressible: \"drop\" is no policy"},
		{"accept_threshold_percent", "0", "accept_threshold_percent: \"0\" is not a percentage"},
		{"accept_threshold_percent", "101", "accept_threshold_percent: \"101\" is not a percentage"},
		{"cold_cpu_percent", "ten", "cold_cpu_percent: \"ten\" is not a percentage"},
		{"staging", "-1", "staging: \"-1\" is not a size"},
		{"cold_after", "0s", "cold_after: \"0s\" is not a time between a second and a year"},
		{"scrub_period", "9000h", "scrub_period: \"9000h\" is not a time between a second and a year"},
		{"codecs", "lz4", "zcache has no setting \"codecs\""},
		{"colour", "red", "zcache has no setting \"colour\""},
	} {
		c := was
		wrong := ZcacheSettings().Set(&c, Setting{test.key, test.value}, 16*gib)
		if wrong == nil || wrong.Problem != test.want || wrong.Hint == "" {
			t.Errorf("%s=%s: %v, want %s and a hint", test.key, test.value, wrong, test.want)
		}
		if c != was {
			t.Errorf("%s=%s is refused and changes something: %+v", test.key, test.value, c)
		}
	}
}

// TestZcacheInFile gives every setting in a file, by the examples that errors and
// manuals show, and expects none to be forgotten.
func TestZcacheInFile(t *testing.T) {
	var text strings.Builder
	text.WriteString("[[backend]]\nkind = \"zcache\"\n")
	for _, key := range ZcacheSettings().Keys() {
		found := false
		for _, known := range keys {
			if known.name == "backend."+key {
				text.WriteString(known.example + "\n")
				found = true
			}
		}
		if !found {
			t.Errorf("%s is no key of the file", key)
		}
	}
	config, err := parseText(t, t.TempDir(), text.String())
	if err != nil {
		t.Fatal(err)
	}
	size := int64(16*gib) / 5 >> 20 << 20
	want := zcache.Config{
		Limit: size, SelfSizing: true, Floor: 16 * gib / 20 >> 20 << 20, Codec: zcache.LZ4, AcceptPercent: 90, Staging: 64 << 20,
		Cold: 10 * time.Minute, ColdPercent: 10, Scrub: 6 * time.Hour,
	}
	if b := config.Backends[0]; b.Zcache != want || b.Memory != size {
		t.Errorf("got %+v, want %+v", b, want)
	}
	config, err = parseText(t, t.TempDir(), "[[backend]]\nkind = \"zcache\"\nself_sizing = false\nincompressible = \"keep\"\nmax_pool = 67108864\n")
	if err != nil {
		t.Fatal(err)
	}
	if b := config.Backends[0]; b.Zcache.Limit != 64<<20 || b.Zcache.SelfSizing || !b.Zcache.KeepIncompressible {
		t.Errorf("got %+v", b)
	}
}
