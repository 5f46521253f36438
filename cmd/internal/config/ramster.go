package config

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/ramster"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// Ramster is what a ramster is made with, and who tells it of donors beside its own
// list.
type Ramster struct {
	ramster.Config // zero values mean the defaults

	DonorsFile    string // one donor a line, see ReadDonors; absolute, or empty
	DonorsService string // the name of DNS SRV records, or empty
}

const (
	// DefaultRamsterSize is how much page data other hosts may have.
	DefaultRamsterSize = "64GiB"

	minRamsterSize = 1 << 20
	maxRamsterSize = 64 << 40
	defaultStaging = 64 << 20
	stubBytes      = 40 // of memory here for each page that others have
)

// RamsterSettings are the settings of a ramster.
func RamsterSettings() Settings[Ramster] { return ramsterSettings }

// A table: nothing changes it. Durations and copies of 0 are ramster's own defaults.
var ramsterSettings = Settings[Ramster]{
	kind: ramster.Kind, size: "size", fresh: func() Ramster { return Ramster{} },
	of: func(b *Backend) *Ramster { return &b.Ramster },
	bytes: func(c Ramster) int64 {
		staging := c.Staging
		if staging == 0 {
			staging = defaultStaging
		}
		return staging + c.Home + c.Pages*stubBytes
	},
	list: []setting[Ramster]{
		{"size", "64GiB", "the page data that other hosts may have, at most; this one keeps 1 % of it to know where",
			func(c *Ramster, text string, ram int64) *cli.Error {
				size, err := remoteSize(text, ram)
				return assign(&c.Pages, size/backends.PageSize, err, SizeSyntax)
			},
			func(c Ramster) string { return exact(c.Pages * backends.PageSize) }},
		{"donors", "east=tcp://10.0.0.2:10810", "who lends memory: NAME=ADDRESS or ADDRESS, several with commas between",
			func(c *Ramster, text string, _ int64) *cli.Error { return addDonors(&c.Donors, text) },
			func(c Ramster) string { return showDonors(c.Donors) }},
		{"donors_file", "/etc/tmemd/donors", "a file with one donor a line, read again by tmemctl reload",
			func(c *Ramster, text string, _ int64) *cli.Error {
				err := unless(filepath.IsAbs(text), "%q is not an absolute path", text)
				return assign(&c.DonorsFile, filepath.Clean(text), err, "write the whole path, from the / on")
			},
			func(c Ramster) string { return orNone(c.DonorsFile) }},
		{"donors_srv", "_tmemd._tcp.example.org", "DNS SRV records that name donors, looked up each minute",
			func(c *Ramster, text string, _ int64) *cli.Error {
				err := unless(serviceSyntax.MatchString(text), "%q is not the name of SRV records", text)
				return assign(&c.DonorsService, text, err, "write a name such as _tmemd._tcp.example.org")
			},
			func(c Ramster) string { return orNone(c.DonorsService) }},
		{"staging", "64MiB", "memory here for pages on their way to others",
			func(c *Ramster, text string, ram int64) *cli.Error {
				size, err := parseSize(text, ram)
				return assign(&c.Staging, size, err, SizeSyntax)
			},
			func(c Ramster) string { return exact(c.Staging) }},
		{"copies", "2", "how many hosts have each page; 1 is enough where writethrough makes one on storage",
			func(c *Ramster, text string, _ int64) *cli.Error {
				n, err := 0, error(nil)
				if text != defaultWord {
					n, err = strconv.Atoi(text)
					if err != nil || n < 1 || n > ramster.MaxCopies {
						err = fmt.Errorf("%q is no number of copies", text)
					}
				}
				return assign(&c.Copies, n, err, fmt.Sprintf("write a number from 1 to %d", ramster.MaxCopies))
			},
			func(c Ramster) string { return strconv.Itoa(c.Copies) }},
		{"deadline", "500ms", "how long a page is waited for before another copy is asked for",
			func(c *Ramster, text string, _ int64) *cli.Error {
				return assignWithin(&c.Deadline, text, time.Millisecond, time.Minute)
			},
			func(c Ramster) string { return showTime(c.Deadline) }},
		{"patience", "20s", "how long all who have a page may be out of reach before it is an I/O error",
			func(c *Ramster, text string, _ int64) *cli.Error {
				return assignWithin(&c.Patience, text, time.Millisecond, time.Hour)
			},
			func(c Ramster) string { return showTime(c.Patience) }},
		{"lost_after", "30s", "how long a donor is out of reach before its copies are made again elsewhere",
			func(c *Ramster, text string, _ int64) *cli.Error {
				return assignWithin(&c.Lost, text, time.Millisecond, 24*time.Hour)
			},
			func(c Ramster) string { return showTime(c.Lost) }},
		{"repair_rate", "32MiB", "how much is sent in a second, at most, to make copies again",
			func(c *Ramster, text string, ram int64) *cli.Error {
				rate, err := int64(0), error(nil)
				if text != defaultWord {
					rate, err = plainSize(text)
				}
				return assign(&c.Rate, rate, err, "write bytes in a second, such as 32MiB")
			},
			func(c Ramster) string { return exact(c.Rate) }},
		{"home", "256MiB", "memory here for pages that come back while this host has some to spare: a size, or off",
			func(c *Ramster, text string, ram int64) *cli.Error {
				size, err := int64(0), error(nil)
				if text != "off" {
					size, err = parseSize(text, ram)
				}
				return assign(&c.Home, size, err, "write off, or: "+SizeSyntax)
			},
			func(c Ramster) string {
				if c.Home == 0 {
					return "off"
				}
				return exact(c.Home)
			}},
	},
}

var serviceSyntax = regexp.MustCompile(`^_[A-Za-z0-9-]{1,62}\._(tcp|udp)(\.[A-Za-z0-9_-]{1,63})+\.?$`)

func remoteSize(text string, ram int64) (int64, error) {
	if text == defaultWord {
		text = DefaultRamsterSize
	}
	parsed, err := ParseSize(text)
	if err != nil {
		return 0, err
	}
	size := parsed.Of(ram)
	if size < minRamsterSize || size > maxRamsterSize {
		return 0, fmt.Errorf("%q is outside %s to %s", text, cli.Bytes(minRamsterSize), cli.Bytes(maxRamsterSize))
	}
	return size, nil
}

// plainSize is a size of a page or more that is no percentage.
func plainSize(text string) (int64, error) {
	parsed, err := ParseSize(text)
	if err != nil {
		return 0, err
	}
	size, absolute := parsed.Bytes()
	if !absolute || size < backends.PageSize || size > maxRamsterSize {
		return 0, fmt.Errorf("%q is outside %s to %s", text, cli.Bytes(backends.PageSize), cli.Bytes(maxRamsterSize))
	}
	return size, nil
}

func assignWithin(to *time.Duration, text string, least, most time.Duration) *cli.Error {
	d, err := time.Duration(0), error(nil)
	if text != defaultWord {
		d, err = time.ParseDuration(text)
		if err != nil || d < least || d > most {
			err = fmt.Errorf("%q is not a time between %s and %s", text, showTime(least), showTime(most))
		}
	}
	return assign(to, d, err, "write a number with ms, s, m or h, such as 500ms")
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}

// addDonors adds donors to a list.
func addDonors(list *[]ramster.Donor, text string) *cli.Error {
	all := slices.Clone(*list)
	for word := range strings.SplitSeq(text, ",") {
		d, wrong := ParseDonor(word)
		if wrong != nil {
			return wrong
		}
		if wrong := amongDonors(all, d); wrong != nil {
			return wrong
		}
		all = append(all, d)
	}
	*list = all
	return nil
}

// amongDonors refuses a donor whose name or address another one has.
func amongDonors(list []ramster.Donor, d ramster.Donor) *cli.Error {
	for _, other := range list {
		switch {
		case other.Address == d.Address:
			return cli.Misuse("remove one of them", "%s is there twice", d.Address)
		case other.Name == d.Name:
			return cli.Misuse("give each a name of its own: NAME=ADDRESS", "%s and %s are both called %s", other.Address, d.Address, d.Name)
		}
	}
	return nil
}

func showDonors(list []ramster.Donor) string {
	var words []string
	for _, d := range list {
		words = append(words, d.Name+"="+d.Address)
	}
	return orNone(strings.Join(words, ","))
}

// ReadDonors reads a file with a donor on each line, as donors spells them. Empty
// lines and those that begin with # do not count.
func ReadDonors(path string) ([]ramster.Donor, *cli.Error) {
	const hint = "give it a text file with NAME=ADDRESS on each line"
	st, err := os.Stat(path)
	if err == nil && st.Size() > maxFileSize {
		err = fmt.Errorf("%s has %s, the limit is %s", path, cli.Bytes(uint64(st.Size())), cli.Bytes(maxFileSize))
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, cli.Failure(hint, "%v", err)
	}
	var list []ramster.Donor
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if wrong := addDonors(&list, line); wrong != nil {
			return nil, cli.Failure(wrong.Hint, "%s:%d: %s", path, number, wrong.Problem)
		}
	}
	return list, nil
}
