package config

import (
	"strconv"

	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// DefaultZcache is a zcache that nobody configured, but for its limit.
func DefaultZcache() zcache.Config { return zcache.Config{SelfSizing: true} }

// ZcacheSettings are the settings of a zcache.
func ZcacheSettings() Settings[zcache.Config] { return zcacheSettings }

// A table: nothing changes it. The names are zswap's and the kernel zcache's where
// they mean the same.
var zcacheSettings = Settings[zcache.Config]{
	kind: zcache.Kind, size: "max_pool", fresh: DefaultZcache,
	of:    func(b *Backend) *zcache.Config { return &b.Zcache },
	bytes: func(c zcache.Config) int64 { return c.Limit },
	check: func(c zcache.Config) *cli.Error {
		if c.Floor > c.Limit {
			return cli.Misuse("set min_pool to less, or max_pool to more", "min_pool: %s is more than max_pool, %s",
				cli.Bytes(uint64(c.Floor)), cli.Bytes(uint64(c.Limit)))
		}
		return nil
	},
	list: []setting[zcache.Config]{
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
			func(c zcache.Config) string { return showSwitch(c.SelfSizing) }},
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
	},
}
