package view

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// Orders are what exports can be sorted by, the first at the start.
var Orders = []string{"traffic", "refused", "size", "name"}

// Top is what tmemctl top shows.
type Top struct {
	History  History
	Now      time.Time
	Interval time.Duration
	Paused   bool
	Help     bool
	Order    string // one of Orders
	Gone     string // why the daemon does not answer, or empty
}

const (
	// labelWidth and valueWidth are the columns beside which series are drawn.
	labelWidth = 16
	valueWidth = 22
	// leastExports are the lines that exports get before backends are told at length.
	leastExports = 4
)

// Frame draws one frame: as many lines as the screen has at most, without a newline
// at the end.
func Frame(s Screen, t Top) string {
	var f frame
	f.s = s
	f.head(t)
	switch {
	case t.Help:
		f.help()
	case t.History.last == nil:
		f.add("")
		f.add("no answer yet")
	default:
		f.body(&t)
	}
	keys := "q quit   p pause   s sort: " + t.Order + "   ? help"
	if s.Height == 0 {
		return strings.Join(f.lines, "\n")
	}
	room := max(s.Height-1, 0)
	if len(f.lines) > room {
		f.lines = f.lines[:room]
	}
	for len(f.lines) < room {
		f.lines = append(f.lines, "")
	}
	return strings.Join(append(f.lines, s.paint(faintText, s.clip(keys))), "\n")
}

// frame collects lines.
type frame struct {
	s     Screen
	lines []string
}

func (f *frame) add(line string) { f.lines = append(f.lines, f.s.clip(line)) }

// room is how many lines there still are, with the one for keys taken off.
func (f *frame) room() int {
	if f.s.Height == 0 {
		return 1 << 20
	}
	return max(f.s.Height-1-len(f.lines), 0)
}

func (f *frame) head(t Top) {
	title := "tmemd"
	if last := t.History.last; last != nil {
		title = fmt.Sprintf("tmemd %s, process %d, up %s, %s", last.Status.Version, last.Status.PID, age(last.At.Sub(last.Status.Started)), phaseTexts[last.Status.Phase])
	}
	right := fmt.Sprintf("%s, every %s", t.Now.Format(time.TimeOnly), t.Interval)
	if t.Paused {
		right = "paused, " + right
	}
	if gap := f.s.Width - ansi.StringWidth(title) - len(right); gap >= 2 {
		title += strings.Repeat(" ", gap) + right
	}
	f.add(f.s.paint(boldText, title))
	if t.Gone != "" {
		f.add(f.s.paint(badText, "gone     "+Plain(t.Gone)+"; trying again"))
		return
	}
	if t.History.last == nil {
		return
	}
	troubles := Health(t.History.last.Status, t.History.last.At)
	if len(troubles) == 0 {
		f.add(f.s.paint(goodText, "healthy"))
		return
	}
	line := fmt.Sprintf("%-8s %s", troubles[0].Level, troubles[0].Text)
	if len(troubles) > 1 {
		more := fmt.Sprintf(" (%d more: tmemctl status)", len(troubles)-1)
		if f.s.Width > 0 {
			line = ansi.Truncate(line, max(f.s.Width-len(more), 0), f.s.more())
		}
		line += more
	}
	paint := warnText
	if troubles[0].Level == Bad {
		paint = badText
	}
	f.add(f.s.paint(paint, line))
}

func (f *frame) help() {
	for _, line := range []string{
		"",
		"  q, Esc, Ctrl-C   quit",
		"  p, space         pause: what is shown stays",
		"  s                sort exports by " + strings.Join(Orders, ", "),
		"  ?                this, and back",
		"",
		"  out       pages that clients swap out: backends take or refuse them",
		"  in        pages that clients swap in, from backends and storage",
		"  stores    pages that a backend took",
		"  refused   pages that it did not take; the next one or storage has them",
		"  memory    that a backend has taken, beside its limit",
		"",
		"  A line is as high as its own highest point that is seen; memory, as its limit.",
	} {
		f.add(line)
	}
}

// series adds a line with a label, a value, and what it was before.
func (f *frame) series(label, value string, points []float64, most float64, paint style) {
	width := f.s.Width
	if width == 0 {
		width = 80
	}
	text := fmt.Sprintf("%-*s%*s  ", labelWidth, label, valueWidth, value)
	f.add(text + f.s.paint(paint, spark(f.s, width-len(text), points, most)))
}

func (f *frame) rate(h *History, label, name string, paint style) {
	r := h.now(name)
	value := fmt.Sprintf("%s/s %9s", perSecond(r), cli.Bytes(uint64(r*backends.PageSize)))
	f.series("  "+label, value, h.series[name], 0, paint)
}

func (f *frame) title(name, text string) {
	f.add(f.s.paint(boldText, fmt.Sprintf("%-*s", labelWidth, name)) + text)
}

func (f *frame) body(t *Top) {
	h, status := &t.History, t.History.last.Status
	groups := groupClients(status.Clients)
	f.title("CLIENTS", clientsLine(groups, len(status.Clients)))
	f.rate(h, "out", "out", coolText)
	f.rate(h, "in", "in", goodText)
	f.tiers(h, status)
	f.title("STORAGE", storageLine(status))
	f.rate(h, "written", "storage written", warnText)
	f.rate(h, "read", "storage read", warnText)
	if len(status.Disks) > 0 && f.room() > leastExports+3 {
		f.title("DISKS", fmt.Sprintf("%d", len(status.Disks)))
		f.rate(h, "hits", "disk hits", goodText)
		f.rate(h, "misses", "disk misses", warnText)
	}
	f.exports(h, status, t.Order)
}

func clientsLine(groups []attached, connections int) string {
	if len(groups) == 0 {
		return "nobody is attached"
	}
	var names []string
	for _, g := range groups {
		names = append(names, g.name)
	}
	names = slices.Compact(names)
	return fmt.Sprintf("%d, with %d connections: %s", len(names), connections, some(names))
}

func storageLine(s admin.Status) string {
	var n, taken int64
	for _, e := range s.Exports {
		n += max(e.Pages.Storage, 0)
		taken += e.Storage.AllocatedBytes
	}
	return fmt.Sprintf("%s of pages, %s of disk", pages(n), cli.Bytes(uint64(max(taken, 0))))
}

// tiers shows backends: with a line for each series if there is room, else in a line
// each.
func (f *frame) tiers(h *History, status admin.Status) {
	if len(status.Backends) == 0 {
		f.title("BACKENDS", "none is loaded: pages go to storage")
		return
	}
	const below = 3 // lines of storage
	each := 4
	if len(status.Backends) == 1 {
		each = 5
	}
	donors := h.last.Donors
	if each*len(status.Backends)+len(donors) > f.room()-below-leastExports {
		f.shortTiers(h, status.Backends)
	} else {
		for _, b := range status.Backends {
			f.tier(h, b, len(status.Backends) == 1)
		}
	}
	for i, d := range donors {
		if f.room() < below+leastExports {
			f.add(fmt.Sprintf("  %s and %d more donors (tmemctl donor list)", ellipsis(f.s), len(donors)-i))
			break
		}
		value := fmt.Sprintf("%s %9s", d.State, time.Duration(d.LatencySeconds*float64(time.Second)).Round(time.Microsecond))
		f.series("  "+Plain(d.Name), value, h.series["donor/"+d.Backend+"/"+d.Name], 0, coolText)
	}
}

func (f *frame) tier(h *History, b admin.Backend, only bool) {
	state := ""
	if b.State != "active" {
		state = b.State + ", "
	}
	f.title("BACKEND "+b.Name, fmt.Sprintf("%s%s of pages, ratio %s", state, pages(int64(b.Pages+b.EphemeralPages)), Ratio(b)))
	f.series("  memory", memoryOf(b), h.series["backend/"+b.Name+"/held"], float64(b.LimitBytes), goodText)
	f.rate(h, "stores", "backend/"+b.Name+"/stores", coolText)
	if only { // the exports count loads, not the backends
		f.rate(h, "loads", "loads", goodText)
	}
	f.rate(h, "refused", "backend/"+b.Name+"/refused", warnText)
}

func memoryOf(b admin.Backend) string {
	if b.LimitBytes == 0 {
		return cli.Bytes(b.HeldBytes)
	}
	return cli.Bytes(b.HeldBytes) + " of " + cli.Bytes(b.LimitBytes)
}

func (f *frame) shortTiers(h *History, list []admin.Backend) {
	most := max((f.room()-3-leastExports)-1, 1)
	shown, rest := cut(list, most, f.s.Height == 0)
	columns := []Column{
		{Title: "BACKEND", Left: true}, {Title: "STATE", Left: true, Rank: 3}, {Title: "MEMORY"}, {Title: "RATIO", Rank: 2},
		{Title: "STORES/S"}, {Title: "REFUSED/S"}, {Title: "MEMORY", Left: true, Rank: 4},
	}
	var rows [][]string
	for _, b := range shown {
		rows = append(rows, []string{
			b.Name, b.State, memoryOf(b), Ratio(b), perSecond(h.now("backend/" + b.Name + "/stores")), perSecond(h.now("backend/" + b.Name + "/refused")),
			spark(f.s, 16, h.series["backend/"+b.Name+"/held"], float64(b.LimitBytes)),
		})
	}
	f.table(columns, rows)
	f.rate(h, "loads", "loads", goodText)
	if rest > 0 {
		f.add(fmt.Sprintf("  %s and %d more", ellipsis(f.s), rest))
	}
}

func (f *frame) table(columns []Column, rows [][]string) {
	var text strings.Builder
	Table(&text, f.s, columns, rows)
	for line := range strings.Lines(text.String()) {
		f.add(strings.TrimSuffix(line, "\n"))
	}
}

func (f *frame) exports(h *History, status admin.Status, order string) {
	room := f.room()
	if len(status.Exports) == 0 || room < 2 {
		return
	}
	list := slices.Clone(status.Exports)
	slices.SortStableFunc(list, func(a, b admin.Export) int { return compareExports(h, a, b, order) })
	shown, rest := cut(list, max(room-2, 1), f.s.Height == 0)
	columns := []Column{
		{Title: "EXPORT", Left: true}, {Title: "SIZE", Rank: 3}, {Title: "WHERE", Left: true, Rank: 4}, {Title: "OUT/S"}, {Title: "IN/S"},
		{Title: "REFUSED/S", Rank: 1}, {Title: "BACKENDS", Rank: 2}, {Title: "STORAGE", Rank: 2},
	}
	var rows [][]string
	for _, e := range shown {
		r := h.rates[e.Name]
		rows = append(rows, []string{
			e.Name, cli.Bytes(uint64(e.SizeBytes)), stacked(f.s, f.s.barWidth(), whereParts(e.Pages)), perSecond(r.Out), perSecond(r.In),
			perSecond(r.Refused), pages(sumOf(e.Pages.Backends)), pages(e.Pages.Storage),
		})
	}
	f.table(columns, rows)
	if rest > 0 {
		f.add(fmt.Sprintf("%s and %s more", ellipsis(f.s), count(uint64(rest))))
	}
}

func compareExports(h *History, a, b admin.Export, order string) int {
	x, y := h.rates[a.Name], h.rates[b.Name]
	switch order {
	case "traffic":
		return descending(x.Out+x.In, y.Out+y.In)
	case "refused":
		return descending(x.Refused, y.Refused)
	case "size":
		return descending(float64(a.SizeBytes), float64(b.SizeBytes))
	}
	return strings.Compare(a.Name, b.Name)
}

func descending(a, b float64) int {
	switch {
	case a > b:
		return -1
	case a < b:
		return 1
	}
	return 0
}
