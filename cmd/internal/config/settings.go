package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// Setting is one setting of a backend, as its key in the file, tmemctl backend load
// and tmemctl backend set spell it.
type Setting struct{ Key, Value string }

// setting is one setting of a C. The default of most is the zero value of their field,
// which the backend fills in.
type setting[C any] struct {
	key, example, about string

	set  func(c *C, text string, ram int64) *cli.Error
	show func(c C) string
}

// Settings are all settings of the backends of one kind.
type Settings[C any] struct {
	kind  string
	size  string               // the key of what any backend calls its size
	list  []setting[C]         // in the order in which they are shown
	fresh func() C             // one that nobody configured, but for its size
	of    func(b *Backend) *C  // where a Backend has them
	check func(c C) *cli.Error // of settings that are right one by one; begins with a key
	bytes func(c C) int64      // of this host's memory that they allow
}

// kindSettings are Settings of some kind.
type kindSettings interface {
	Keys() []string
	Help() string

	sizeKey() string
	begin(b *Backend)
	set(b *Backend, change Setting, ram int64) *cli.Error
	finish(b *Backend) *cli.Error
}

// settingsOf returns the settings of backends of a kind. All kinds that the daemon
// knows have some.
func settingsOf(kind string) kindSettings {
	for _, s := range []interface {
		kindSettings
		isOf(kind string) bool
	}{zcacheSettings, ramsterSettings} {
		if s.isOf(kind) {
			return s
		}
	}
	return Settings[struct{}]{kind: kind, fresh: func() (none struct{}) { return none }, of: func(*Backend) *struct{} { return new(struct{}) }}
}

// SettingsHelp explains the settings of a kind of backend, one line each.
func SettingsHelp(kind string) string { return settingsOf(kind).Help() }

// SettingKeys lists the settings of a kind of backend.
func SettingKeys(kind string) []string { return settingsOf(kind).Keys() }

func (s Settings[C]) isOf(kind string) bool { return s.kind == kind }

func (s Settings[C]) sizeKey() string { return s.size }

// begin gives a backend the settings that it has if nobody says anything.
func (s Settings[C]) begin(b *Backend) { *s.of(b) = s.fresh() }

func (s Settings[C]) set(b *Backend, change Setting, ram int64) *cli.Error {
	return s.Set(s.of(b), change, ram)
}

// finish checks what there is, and notes what it may take of memory.
func (s Settings[C]) finish(b *Backend) *cli.Error {
	c := *s.of(b)
	if s.bytes != nil {
		b.Memory = s.bytes(c)
	}
	return s.verify(c)
}

// SetAll applies changes: all, or the first that is wrong is the error.
func (s Settings[C]) SetAll(c C, changes []Setting, ram int64) (C, *cli.Error) {
	if len(changes) == 0 {
		return c, cli.Misuse("write KEY=VALUE, such as "+s.list[0].key+"="+s.list[0].example, "nothing to set")
	}
	changed := c
	for i, change := range changes {
		if wrong := once(changes[:i], change); wrong != nil {
			return c, wrong
		}
		if wrong := s.Set(&changed, change, ram); wrong != nil {
			return c, wrong
		}
	}
	if wrong := s.verify(changed); wrong != nil {
		return c, wrong
	}
	return changed, nil
}

// once refuses a setting that is among those before it.
func once(before []Setting, s Setting) *cli.Error {
	if slices.ContainsFunc(before, func(other Setting) bool { return other.Key == s.Key }) {
		return cli.Misuse("give it once", "%s is there twice", s.Key)
	}
	return nil
}

// Set changes one setting. The error's problem begins with the key.
func (s Settings[C]) Set(c *C, change Setting, ram int64) *cli.Error {
	for _, known := range s.list {
		if known.key != change.Key {
			continue
		}
		if wrong := known.set(c, change.Value, ram); wrong != nil {
			return cli.Misuse(wrong.Hint, "%s: %s", change.Key, wrong.Problem)
		}
		return nil
	}
	names := s.Keys()
	if len(names) == 0 {
		return cli.Misuse("remove it", "%s has no settings", s.kind)
	}
	slices.SortStableFunc(names, func(a, b string) int { return distance(change.Key, a) - distance(change.Key, b) })
	if distance(change.Key, names[0]) <= 2 {
		return cli.Misuse("did you mean "+names[0]+"?", "%s has no setting %q", s.kind, change.Key)
	}
	return cli.Misuse("the settings are "+strings.Join(s.Keys(), ", "), "%s has no setting %q", s.kind, change.Key)
}

func (s Settings[C]) verify(c C) *cli.Error {
	if s.check == nil {
		return nil
	}
	return s.check(c)
}

// Show lists the settings in force.
func (s Settings[C]) Show(c C) []Setting {
	var all []Setting
	for _, known := range s.list {
		all = append(all, Setting{known.key, known.show(c)})
	}
	return all
}

// Keys lists the settings that there are.
func (s Settings[C]) Keys() []string {
	var all []string
	for _, known := range s.list {
		all = append(all, known.key)
	}
	return all
}

// Help explains the settings, one line each.
func (s Settings[C]) Help() string {
	var b strings.Builder
	for _, known := range s.list {
		fmt.Fprintf(&b, "  %-30s %s\n", known.key+"="+known.example, known.about)
	}
	return b.String()
}

// defaultWord stands for a setting's default.
const defaultWord = "default"

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

// assignTime is for what can be turned off, which is a negative time.
func assignTime(to *time.Duration, text string) *cli.Error {
	if text == "off" {
		*to = -1
		return nil
	}
	d, err := time.Duration(0), error(nil)
	if text != defaultWord {
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

func showSwitch(on bool) string {
	if on {
		return "on"
	}
	return "off"
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
