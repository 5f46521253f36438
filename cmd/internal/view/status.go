package view

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// Lists that are longer than this are cut, unless all was asked for.
const (
	mostExports  = 6
	mostRates    = 3
	mostBackends = 6
	mostDisks    = 4
	mostClients  = 3
	mostTroubles = 5
)

// barWidth is how wide bars are.
func (s Screen) barWidth() int {
	if s.Width > 0 && s.Width < 100 {
		return 16
	}
	return 24
}

// Status prints everything at a glance. Without a sample before there are no rates.
func Status(w io.Writer, screen Screen, before *Sample, now Sample, all bool) {
	p := printer{w: w, s: screen, all: all}
	s := now.Status
	p.line("%s", screen.paint(boldText, fmt.Sprintf("tmemd %s, process %d, up %s, %s", s.Version, s.PID, age(now.At.Sub(s.Started)), phaseTexts[s.Phase])))
	p.health(Health(s, now.At))
	p.fact("folder", s.StateDir)
	p.fact("nbd", strings.Join(s.Listen, "  "))
	if s.TLS != nil {
		p.fact("tls", TLSLine(*s.TLS))
	}
	if s.Metrics != "" {
		p.fact("metrics", s.Metrics)
	}
	p.exports(s.Exports)
	p.rates(before, now)
	p.disks(s.Disks)
	if len(s.Backends) > 0 || len(s.Exports) == 0 { // else health says so
		p.backends(s.Backends)
	}
	p.clients(s.Clients, now.At)
	p.memory(s.Memory)
	if len(p.left) > 0 {
		slices.Sort(p.left)
		text := "no room for " + strings.ToLower(strings.Join(slices.Compact(p.left), ", ")) + ": a wider terminal or --json has them"
		fmt.Fprintln(w, screen.paint(faintText, screen.wrap("", text)))
	}
}

// printer prints one status.
type printer struct {
	w    io.Writer
	s    Screen
	all  bool
	left []string // columns that there was no room for
}

func (p *printer) line(format string, args ...any) {
	fmt.Fprintln(p.w, p.s.clip(fmt.Sprintf(format, args...)))
}

func (p *printer) fact(name, value string) {
	fmt.Fprintln(p.w, p.s.wrap(fmt.Sprintf("%-8s ", name), value))
}

func (p *printer) table(columns []Column, rows [][]string, rest int) {
	p.left = append(p.left, Table(p.w, p.s, columns, rows)...)
	printRest(p.w, p.s, rest)
}

func (p *printer) health(list []Trouble) {
	if len(list) == 0 {
		p.line("%s", p.s.paint(goodText, "healthy"))
		return
	}
	shown, rest := cut(list, mostTroubles, p.all)
	for _, t := range shown {
		paint := warnText
		switch t.Level {
		case Bad:
			paint = badText
		case Busy:
			paint = coolText
		}
		for line := range strings.Lines(p.s.wrap(fmt.Sprintf("%-8s ", t.Level), t.Text)) {
			p.line("%s", p.s.paint(paint, strings.TrimRight(line, "\n")))
		}
		if t.Cure != "" {
			fmt.Fprintln(p.w, p.s.wrap("         cure: ", t.Cure))
		}
	}
	printRest(p.w, p.s, rest)
}

// whereParts are the parts of an export's bar.
func whereParts(n admin.PagesByOwner) []part {
	return []part{
		{float64(sumOf(n.Backends)), "█", "#", goodText, "backends", true},
		{float64(max(n.Storage, 0)), "▒", "=", warnText, "storage", true},
		{float64(max(n.Hole, 0)), "·", ".", faintText, "holes", true},
		{float64(max(n.Lost, 0)), "!", "!", badText, "lost", false},
		{float64(max(n.None, 0)), " ", " ", plainText, "untouched", true},
	}
}

func (p *printer) exports(list []admin.Export) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(p.w)
	columns := []Column{
		{Title: "EXPORT", Left: true}, {Title: "SIZE"}, {Title: "CLIENTS", Rank: 3}, {Title: "WHERE", Left: true, Rank: 1},
		{Title: "BACKENDS"}, {Title: "STORAGE"}, {Title: "HOLES", Rank: 4},
	}
	shown, rest := cut(list, mostExports, p.all)
	var rows [][]string
	signs := admin.PagesByOwner{}
	for _, e := range shown {
		signs.Lost += e.Pages.Lost
		rows = append(rows, []string{
			e.Name, cli.Bytes(uint64(e.SizeBytes)), strconv.Itoa(e.Clients), stacked(p.s, p.s.barWidth(), whereParts(e.Pages)),
			pages(sumOf(e.Pages.Backends)), pages(e.Pages.Storage), pages(e.Pages.Hole),
		})
	}
	p.table(columns, rows, rest)
	p.line("%s", legend(p.s, whereParts(signs)))
	for _, e := range shown {
		if e.Writethrough != "" && e.Writethrough != "off" {
			p.line("%s copies pages to storage: %s", e.Name, Writethrough(e))
		}
	}
}

// Writethrough says how far copies behind are.
func Writethrough(e admin.Export) string {
	if e.PendingBlocks > 0 {
		return fmt.Sprintf("%s (%s to check)", e.Writethrough, cli.Bytes(uint64(e.PendingBlocks)<<20))
	}
	return e.Writethrough
}

func (p *printer) rates(before *Sample, now Sample) {
	if before == nil {
		return
	}
	rates := ExportRates(*before, now)
	if len(rates) == 0 {
		return
	}
	var total Rates
	var names []string
	for _, e := range now.Status.Exports {
		if r, found := rates[e.Name]; found {
			total.add(r)
			names = append(names, e.Name)
		}
	}
	// The busiest first; those that are equal stay in order.
	slices.SortStableFunc(names, func(a, b string) int {
		return descending(rates[a].Out+rates[a].In, rates[b].Out+rates[b].In)
	})
	fmt.Fprintln(p.w)
	columns := []Column{
		{Title: "PAGES/S", Left: true}, {Title: "OUT"}, {Title: "IN"}, {Title: "FROM STORAGE", Rank: 2}, {Title: "TO STORAGE"}, {Title: "REFUSED"},
	}
	row := func(name string, r Rates) []string {
		return []string{name, perSecond(r.Out), perSecond(r.In), perSecond(r.FromStorage), perSecond(r.ToStorage), perSecond(r.Refused)}
	}
	var rows [][]string
	if len(names) > 1 {
		rows = append(rows, row("all", total))
	}
	shown, rest := cut(names, mostRates, p.all)
	for _, name := range shown {
		rows = append(rows, row(name, rates[name]))
	}
	p.table(columns, rows, rest)
}

func (p *printer) disks(list []admin.Disk) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(p.w)
	columns := []Column{
		{Title: "DISK", Left: true}, {Title: "SIZE"}, {Title: "CLIENTS", Rank: 3}, {Title: "MODE", Left: true, Rank: 4}, {Title: "CACHED"},
		{Title: "HITS", Rank: 5}, {Title: "MISSES", Rank: 6}, {Title: "HIT RATE"}, {Title: "PUTS", Rank: 7}, {Title: "INVALIDATES", Rank: 8}, {Title: "ERRORS", Rank: 2},
	}
	shown, rest := cut(list, mostDisks, p.all)
	var rows [][]string
	for _, d := range shown {
		mode, rate := d.Mode, "-"
		if d.ReadOnly {
			mode += ", read only"
		}
		if gets := d.SuccGets + d.FailedGets; gets > 0 {
			rate = fmt.Sprintf("%.1f %%", 100*float64(d.SuccGets)/float64(gets))
		}
		rows = append(rows, []string{
			d.Name, cli.Bytes(uint64(d.SizeBytes)), strconv.Itoa(d.Clients), mode, pages(sumOf(d.Backends)), count(d.SuccGets), count(d.FailedGets),
			rate, count(d.Puts), count(d.Invalidates), count(sumOf(d.Errors)),
		})
	}
	p.table(columns, rows, rest)
}

func (p *printer) backends(list []admin.Backend) {
	fmt.Fprintln(p.w)
	if len(list) == 0 {
		p.line("no backend is loaded: pages go to storage")
		return
	}
	columns := []Column{
		{Title: "BACKEND", Left: true}, {Title: "KIND", Left: true, Rank: 5}, {Title: "STATE", Left: true}, {Title: "DATA"}, {Title: "MEMORY"},
		{Title: "LIMIT", Rank: 1}, {Title: "RATIO"}, {Title: "REFUSED", Rank: 3}, {Title: "ERRORS", Rank: 2},
	}
	shown, rest := cut(list, mostBackends, p.all)
	var rows [][]string
	for _, b := range shown {
		state := b.State
		if state != "active" {
			state = p.s.paint(warnText, state)
		}
		rows = append(rows, []string{
			b.Name, b.Kind, state, pages(int64(b.Pages + b.EphemeralPages)), cli.Bytes(b.HeldBytes), cli.Bytes(b.LimitBytes), Ratio(b),
			count(sumOf(b.Refused)), count(b.LoadErrors),
		})
	}
	p.table(columns, rows, rest)
}

// Ratio is how many bytes of pages one byte of memory holds.
func Ratio(b admin.Backend) string {
	if b.Pages+b.EphemeralPages == 0 || b.HeldBytes == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", float64((b.Pages+b.EphemeralPages)*backends.PageSize)/float64(b.HeldBytes))
}

// attached is the connections of one client to one export.
type attached struct {
	name, export string
	connections  int
	since        time.Time
}

// groupClients puts connections together: a client opens several to one export.
func groupClients(list []admin.Attachment) (groups []attached) {
	for _, c := range list {
		name := ClientName(c)
		i := slices.IndexFunc(groups, func(g attached) bool { return g.name == name && g.export == c.Export })
		if i < 0 {
			groups, i = append(groups, attached{name: name, export: c.Export, since: c.Since}), len(groups)
		}
		groups[i].connections++
		if c.Since.Before(groups[i].since) {
			groups[i].since = c.Since
		}
	}
	return groups
}

// ClientName says who a client is: its process, or its host, and its certificate.
func ClientName(c admin.Attachment) string {
	name := c.Remote
	if c.PID != 0 {
		name = fmt.Sprintf("process %d", c.PID)
	} else if i := strings.LastIndexByte(name, ':'); i > 0 {
		name = name[:i] // each connection has a port of its own
	}
	switch {
	case c.Certificate != "":
		return fmt.Sprintf("%s (%s)", name, Word(c.Certificate))
	case c.Encrypted:
		return name + " (TLS)"
	}
	return name
}

// Word keeps what somebody put into a certificate from being more than a word on a
// terminal.
func Word(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return !strconv.IsGraphic(r) || r == ' ' }) || name == "" {
		return strconv.QuoteToGraphic(name)
	}
	return name
}

func (p *printer) clients(list []admin.Attachment, now time.Time) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(p.w)
	shown, rest := cut(groupClients(list), mostClients, p.all)
	var rows [][]string
	for _, c := range shown {
		rows = append(rows, []string{c.name, c.export, strconv.Itoa(c.connections), age(now.Sub(c.since))})
	}
	p.table([]Column{{Title: "CLIENT", Left: true}, {Title: "EXPORT", Left: true}, {Title: "CONNECTIONS", Rank: 2}, {Title: "FOR", Rank: 1}}, rows, rest)
}

func (p *printer) memory(list []admin.Memory) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintln(p.w)
	var resident, mapped int64
	var parts []string
	for _, m := range list {
		resident, mapped = resident+m.Resident, mapped+m.Mapped
		if m.Resident > 0 || p.all {
			parts = append(parts, m.Purpose+" "+cli.Bytes(uint64(max(m.Resident, 0))))
		}
	}
	text := fmt.Sprintf("%s taken, %s mapped", cli.Bytes(uint64(max(resident, 0))), cli.Bytes(uint64(max(mapped, 0))))
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	p.fact("memory", text)
}

// TLSLine says how NBD is encrypted.
func TLSLine(t admin.TLS) string {
	line := "optional"
	if t.Required {
		line = "required on TCP"
	}
	if t.ClientCertificates {
		line += ", clients show certificates"
	}
	return line + ", " + CertificateLine(t)
}

// CertificateLine says what the daemon shows of itself.
func CertificateLine(t admin.TLS) string {
	return fmt.Sprintf("ours is %s, good until %s", Word(t.Certificate), t.Expires.UTC().Format(time.DateTime))
}
