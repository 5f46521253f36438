package journal

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// Limits of what is kept.
const (
	MaxLines   = 1000
	maxBytes   = 512 << 10 // of all lines
	maxText    = 2 << 10   // of a message or value
	lineCost   = 128       // of a line beside its text
	cutMessage = " (cut)"
)

// Journal is the latest lines, and the level.
type Journal struct {
	level *slog.LevelVar

	mu      sync.Mutex
	lines   []admin.LogLine // guarded by mu
	bytes   int             // guarded by mu
	number  uint64          // guarded by mu: of the latest line
	changed chan struct{}   // guarded by mu: closed at the next line; nil while nobody waits
}

var _ admin.Journal = (*Journal)(nil)

// New returns an empty journal with a level.
func New(level slog.Level) *Journal {
	j := &Journal{level: new(slog.LevelVar)}
	j.level.Set(level)
	return j
}

// Leveler is the level that a handler of the same log is to have.
func (j *Journal) Leveler() slog.Leveler { return j.level }

// Level returns the level.
func (j *Journal) Level() slog.Level { return j.level.Level() }

// SetLevel changes it, from the next line on.
func (j *Journal) SetLevel(l slog.Level) { j.level.Set(l) }

// Since returns lines after a number that have the level, the latest of them if there
// are more than most, and the number to ask after next time.
func (j *Journal) Since(after uint64, least slog.Level, most int) (lines []admin.LogLine, next uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := len(j.lines) - 1; i >= 0 && len(lines) < most; i-- {
		line := j.lines[i]
		if line.Number <= after {
			break
		}
		var level slog.Level
		if level.UnmarshalText([]byte(line.Level)) == nil && level >= least {
			lines = append(lines, line)
		}
	}
	slices.Reverse(lines)
	return lines, j.number
}

// Forgotten is how many lines there were that are kept no more.
func (j *Journal) Forgotten() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.number - uint64(len(j.lines))
}

// Changed returns a channel that is closed when there are lines after a number.
func (j *Journal) Changed(after uint64) <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.number > after {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	if j.changed == nil {
		j.changed = make(chan struct{})
	}
	return j.changed
}

func (j *Journal) add(line admin.LogLine) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.number++
	line.Number = j.number
	j.lines = append(j.lines, line)
	j.bytes += cost(line)
	for len(j.lines) > MaxLines || j.bytes > maxBytes && len(j.lines) > 1 {
		j.bytes -= cost(j.lines[0])
		j.lines[0] = admin.LogLine{}
		j.lines = j.lines[1:]
	}
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
}

func cost(line admin.LogLine) int {
	n := lineCost + len(line.Message)
	for _, a := range line.Attributes {
		n += len(a.Key) + len(a.Value) + 32
	}
	return n
}

// cut shortens what is too long, and leaves whole letters.
func cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	end := maxText
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return strings.Clone(text[:end]) + cutMessage
}

// Handler returns a handler that keeps lines here, and hands them on to next, which
// has to have the level of Leveler.
func (j *Journal) Handler(next slog.Handler) slog.Handler { return &handler{journal: j, next: next} }

// handler is immutable.
type handler struct {
	journal *Journal
	next    slog.Handler
	prefix  string          // of keys: groups, with a dot after each
	with    []admin.Setting // attributes of every line
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.journal.Level() }

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	line := admin.LogLine{Time: r.Time, Level: r.Level.String(), Message: cut(r.Message), Attributes: append([]admin.Setting(nil), h.with...)}
	r.Attrs(func(a slog.Attr) bool {
		line.Attributes = collect(line.Attributes, h.prefix, a)
		return true
	})
	h.journal.add(line)
	return h.next.Handle(ctx, r)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := append([]admin.Setting(nil), h.with...)
	for _, a := range attrs {
		with = collect(with, h.prefix, a)
	}
	return &handler{h.journal, h.next.WithAttrs(attrs), h.prefix, with}
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return &handler{h.journal, h.next.WithGroup(name), h.prefix + name + ".", h.with}
}

// collect spells an attribute as package slog's text handler does.
func collect(to []admin.Setting, prefix string, a slog.Attr) []admin.Setting {
	value := a.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, inner := range value.Group() {
			to = collect(to, prefix, inner)
		}
		return to
	}
	if a.Equal(slog.Attr{}) {
		return to
	}
	return append(to, admin.Setting{Key: prefix + a.Key, Value: cut(value.String())})
}
