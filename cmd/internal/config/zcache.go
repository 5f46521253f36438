package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// Setting is one setting of a backend, as its key in the file and tmemctl backend
// set spell it.
type Setting struct{ Key, Value string }

// DefaultZcache is a zcache that nobody configured, but for its limit.
func DefaultZcache() zcache.Config { return zcache.Config{SelfSizing: true} }

// defaultWord stands for a setting's default.
const defaultWord = "default"

// zcacheSetting is one setting of a zcache. The default of most is the zero value of
// their field, which zcache fills in.
type zcacheSetting struct {
	key, example, about string

	set  func(c *zcache.Config, text string, ram int64) *cli.Error
	show func(c zcache.Config) string
}

// zcacheSettings are all settings of a zcache, in the order in which they are
// shown. The names are zswap's and the kernel zcache's where they mean the same.
var zcacheSettings = []zcacheSetting{
	{"max_pool", "20%", "the memory for pages, at most: a size or a percentage of RAM",
		func(c *zcache.Config, text string, ram int64) *cli.Error {
			if text == defaultWord {
				text = DefaultBackendSize
			}
			size, err := BackendSize(text, ram)
			return assign(&c.Limit, size, err, SizeSyntax)
		},
		func(c zcache.Config) string { return exact(c.Limit) }},
	{"self_sizing", "on", "whether the pool shrinks while the host is short of memory, and grows back",
		func(c *zcache.Config, text string, _ int64) *cli.Error {
			on, err := parseSwitch(text, DefaultZcache().SelfSizing)
			return assign(&c.SelfSizing, on, err, "write on or off")
		},
		func(c zcache.Config) string {
			if c.SelfSizing {
				return "on"
			}
			return "off"
		}},
	{"min_pool", "5%", "what self_sizing leaves of the pool: a size or a percentage of RAM",
		func(c *zcache.Config, text string, ram int64) *cli.Error {
			size, err := parseSize(text, ram)
			return assign(&c.Floor, size, err, SizeSyntax)
		},
		func(c zcache.Config) string { return exact(c.FloorBytes()) }},
	{"codec", "lz4", "what compresses new pages: lz4, or zstd, which is slower and makes less of them",
		func(c *zcache.Config, text string, _ int64) *cli.Error {
			codecs := map[string]zcache.Codec{defaultWord: zcache.LZ4, "lz4": zcache.LZ4, "zstd": zcache.Zstd}
			codec, known := codecs[text]
			return assign(&c.Codec, codec, unless(known, "%q compresses no pages", text), "write lz4 or zstd")
		},
		func(c zcache.Config) string { return c.Codec.String() }},
	{"incompressible", "refuse", "what becomes of pages that do not compress: refuse, or keep, so that pages go in the order of their age",
		func(c *zcache.Config, text string, _ int64) *cli.Error {
			policies := map[string]bool{defaultWord: false, "refuse": false, "keep": true}
			keep, known := policies[text]
			return assign(&c.KeepIncompressible, keep, unless(known, "%q is no policy", text), "write refuse or keep")
		},
		func(c zcache.Config) string {
			if c.KeepIncompressible {
				return "keep"
			}
			return "refuse"
		}},
	{"accept_threshold_percent", "90", "once the pool was full, it takes pages again when it is down to so much of that",
		func(c *zcache.Config, text string, _ int64) *cli.Error { return assignPercent(&c.AcceptPercent, text) },
		func(c zcache.Config) string { return strconv.Itoa(c.AcceptPercent) }},
	{"staging", "64MiB", "the part of the pool for pages that are compressed behind: a size, or off; up to 64 MiB",
		func(c *zcache.Config, text string, ram int64) *cli.Error {
			size, err := int64(-1), error(nil)
			if text != "off" {
				size, err = parseSize(text, ram)
			}
			return assign(&c.Staging, size, err, "write off, or: "+SizeSyntax)
		},
		func(c zcache.Config) string {
			if c.StagingBytes() == 0 {
				return "off"
			}
			return exact(c.StagingBytes())
		}},
	{"cold_after", "10m", "after how long without use a page is recompressed with zstd: a time, or off",
		func(c *zcache.Config, text string, _ int64) *cli.Error { return assignTime(&c.Cold, text) },
		func(c zcache.Config) string { return showTime(c.Cold) }},
	{"cold_cpu_percent", "10", "what recompression may take of one processor",
		func(c *zcache.Config, text string, _ int64) *cli.Error { return assignPercent(&c.ColdPercent, text) },
		func(c zcache.Config) string { return strconv.Itoa(c.ColdPercent) }},
	{"scrub_period", "6h", "in what time every page is verified once: a time, or off",
		func(c *zcache.Config, text string, _ int64) *cli.Error { return assignTime(&c.Scrub, text) },
		func(c zcache.Config) string { return showTime(c.Scrub) }},
}

// SetZcache changes one setting. The error's problem begins with the key.
func SetZcache(c *zcache.Config, s Setting, ram int64) *cli.Error {
	for _, known := range zcacheSettings {
		if known.key != s.Key {
			continue
		}
		if wrong := known.set(c, s.Value, ram); wrong != nil {
			return cli.Misuse(wrong.Hint, "%s: %s", s.Key, wrong.Problem)
		}
		return nil
	}
	names := ZcacheKeys()
	slices.SortStableFunc(names, func(a, b string) int { return distance(s.Key, a) - distance(s.Key, b) })
	if distance(s.Key, names[0]) <= 2 {
		return cli.Misuse("did you mean "+names[0]+"?", "zcache has no setting %q", s.Key)
	}
	return cli.Misuse("the settings are "+strings.Join(ZcacheKeys(), ", "), "zcache has no setting %q", s.Key)
}

// CheckZcache says what is wrong with settings that are right one by one.
func CheckZcache(c zcache.Config) *cli.Error {
	if c.Floor > c.Limit {
		return cli.Misuse("set min_pool to less, or max_pool to more", "min_pool: %s is more than max_pool, %s",
			cli.Bytes(uint64(c.Floor)), cli.Bytes(uint64(c.Limit)))
	}
	return nil
}

// ShowZcache lists the settings in force.
func ShowZcache(c zcache.Config) []Setting {
	var all []Setting
	for _, s := range zcacheSettings {
		all = append(all, Setting{s.key, s.show(c)})
	}
	return all
}

// ZcacheKeys lists the settings that there are.
func ZcacheKeys() []string {
	var all []string
	for _, s := range zcacheSettings {
		all = append(all, s.key)
	}
	return all
}

// ZcacheHelp explains the settings, one line each.
func ZcacheHelp() string {
	var b strings.Builder
	for _, s := range zcacheSettings {
		fmt.Fprintf(&b, "  %-30s %s\n", s.key+"="+s.example, s.about)
	}
	return b.String()
}

func unless(known bool, format string, args ...any) error {
	if known {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func assign[T any](to *T, value T, err error, hint string) *cli.Error {
	if err != nil {
		return cli.Misuse(hint, "%v", err)
	}
	*to = value
	return nil
}

// parseSize is 0 for the default.
func parseSize(text string, ram int64) (int64, error) {
	if text == defaultWord {
		return 0, nil
	}
	return BackendSize(text, ram)
}

func assignPercent(to *int, text string) *cli.Error {
	n, err := 0, error(nil)
	if text != defaultWord {
		n, err = strconv.Atoi(strings.TrimSuffix(text, "%"))
		if err != nil || n < 1 || n > 100 {
			err = fmt.Errorf("%q is not a percentage", text)
		}
	}
	return assign(to, n, err, "write a whole number from 1 to 100")
}

const maxTime = 365 * 24 * time.Hour

func assignTime(to *time.Duration, text string) *cli.Error {
	d, err := time.Duration(-1), error(nil)
	switch text {
	case "off":
	case defaultWord:
		d = 0
	default:
		d, err = time.ParseDuration(text)
		if err != nil || d < time.Second || d > maxTime {
			err = fmt.Errorf("%q is not a time between a second and a year", text)
		}
	}
	return assign(to, d, err, "write a number with s, m or h, such as 10m, or off")
}

func showTime(d time.Duration) string {
	if d <= 0 {
		return "off"
	}
	text := d.String()
	for _, zero := range []string{"0s", "0m"} {
		if rest, found := strings.CutSuffix(text, zero); found && rest != "" && rest[len(rest)-1] > '9' {
			text = rest
		}
	}
	return text
}

func parseSwitch(text string, fallback bool) (bool, error) {
	switch text {
	case "on", "true": // TOML has a word of its own
		return true, nil
	case "off", "false":
		return false, nil
	case defaultWord:
		return fallback, nil
	}
	return false, fmt.Errorf("%q is neither on nor off", text)
}

// exact spells a size so that it can be read back as it is.
func exact(bytes int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if bytes != 0 && bytes%unit.size == 0 {
			return strconv.FormatInt(bytes/unit.size, 10) + unit.name
		}
	}
	return strconv.FormatInt(bytes, 10)
}
