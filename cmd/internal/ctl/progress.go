package ctl

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// lineEvery is how often progress is told where it cannot be drawn.
const lineEvery = 2 * time.Second

// progressReport tells how far an unload is: as a bar that is drawn over on a
// terminal, as lines elsewhere, or as JSON.
type progressReport struct {
	out   io.Writer
	now   func() time.Time
	json  bool
	width func() int // of the terminal; nil if there is none

	told  time.Time // when the latest line was printed
	drawn int       // length of the bar on the terminal
}

func newProgress(out io.Writer, asJSON bool, now func() time.Time) *progressReport {
	p := &progressReport{out: out, json: asJSON, now: now}
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		p.width = func() int {
			width, _, err := term.GetSize(int(file.Fd()))
			if err != nil {
				return 80
			}
			return width
		}
	}
	return p
}

// report tells about one event of the daemon.
func (p *progressReport) report(e admin.MoveEvent) {
	switch {
	case p.json:
		text, err := json.Marshal(e)
		if err == nil {
			fmt.Fprintf(p.out, "%s\n", text)
		}
	case e.Error != "": // told as an error
	case p.width != nil:
		p.draw(e)
	case e.Done:
		fmt.Fprintln(p.out, doneLine(e))
	case e.Left > 0 && p.now().Sub(p.told) >= lineEvery:
		p.told = p.now()
		fmt.Fprintln(p.out, progressLine(e))
	}
}

// draw draws the bar over the last one. The last event leaves a line.
func (p *progressReport) draw(e admin.MoveEvent) {
	line := bar(e, p.width())
	if e.Done {
		line = doneLine(e)
	}
	fmt.Fprintf(p.out, "\r%-*s", p.drawn, line)
	p.drawn = len(line)
	if e.Done {
		p.end()
	}
}

// end puts the cursor below the bar, so that what follows does not mix with it.
func (p *progressReport) end() {
	if p.drawn > 0 {
		fmt.Fprintln(p.out)
		p.drawn = 0
	}
}

// share is how much of a drain is behind it, from 0 to 1.
func share(e admin.MoveEvent) float64 {
	if e.Total == 0 {
		return 1
	}
	return 1 - float64(min(e.Left, e.Total))/float64(e.Total)
}

// bar draws progress in one line of the width, which it never fills: a full
// line would scroll.
func bar(e admin.MoveEvent, width int) string {
	before := fmt.Sprintf("%s %3.0f %% ", e.Backend, 100*share(e))
	after := " " + pages(int64(e.Left)) + " left" + rate(e)
	room := width - 1 - len(before) - len(after) - 2
	if room < 5 {
		line := before + after[1:]
		return line[:max(min(len(line), width-1), 0)]
	}
	full := int(share(e) * float64(room))
	return before + "[" + strings.Repeat("#", full) + strings.Repeat(".", room-full) + "]" + after
}

func progressLine(e admin.MoveEvent) string {
	return fmt.Sprintf("%s %s: %.0f %%, %s left%s", verbs[e.Operation].doing, e.Backend, 100*share(e), pages(int64(e.Left)), rate(e))
}

// verbs are the words for a move under way and for one that is done.
var verbs = map[string]struct{ doing, done string }{
	"":                     {"moving pages of", "moved pages of"},
	admin.OperationUnload:  {"unloading", "unloaded"},
	admin.OperationReplace: {"replacing", "replaced"},
	admin.OperationShrink:  {"shrinking", "shrank"},
	admin.OperationMigrate: {"migrating pages of", "migrated pages of"},
}

// rate tells speed and the time left, once they are known.
func rate(e admin.MoveEvent) string {
	if e.PagesPerSecond <= 0 || e.Left == 0 {
		return ""
	}
	left := time.Duration(e.SecondsLeft * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf(", %s/s, %s", cli.Bytes(uint64(e.PagesPerSecond*backends.PageSize)), left)
}

func doneLine(e admin.MoveEvent) string {
	line := verbs[e.Operation].done + " " + e.Backend
	if e.Operation == admin.OperationReplace {
		line += " by " + e.Into
	}
	switch {
	case e.Operation == admin.OperationShrink:
		return fmt.Sprintf("%s: %s of its coldest pages are on storage now", line, pages(int64(e.Moved)))
	case e.Operation == admin.OperationMigrate:
		return fmt.Sprintf("%s: %s of the coldest went to %s", line, pages(int64(e.Moved)), e.Into)
	case e.Total == 0:
		return line + ": it was empty"
	case len(e.ToBackends) == 0:
		return fmt.Sprintf("%s: its %s of pages are on storage, its memory is free", line, pages(int64(e.Moved)))
	}
	return fmt.Sprintf("%s: of its pages, %s, its memory is free", line, destinations(e))
}

// destinations says how many pages went where.
func destinations(e admin.MoveEvent) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(e.ToBackends)) {
		list = append(list, fmt.Sprintf("%s went to %s", pages(int64(e.ToBackends[name])), name))
	}
	if e.ToStorage > 0 {
		list = append(list, pages(int64(e.ToStorage))+" to storage")
	}
	return strings.Join(list, ", ")
}
