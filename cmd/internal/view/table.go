package view

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/charmbracelet/x/ansi"
)

// Column is one column of a table.
type Column struct {
	Title string
	Left  bool // aligned left; numbers are not
	Rank  int  // where there is no room for all columns the highest go first; those of rank 0 stay
}

// Table prints rows below a head, and returns the titles that there was no room for.
func Table(w io.Writer, s Screen, columns []Column, rows [][]string) (left []string) {
	widths := make([]int, len(columns))
	for i, c := range columns {
		widths[i] = len(c.Title)
		for _, row := range rows {
			widths[i] = max(widths[i], ansi.StringWidth(row[i]))
		}
	}
	shown := fit(s, columns, widths)
	head := make([]string, len(columns))
	for i, c := range columns {
		head[i] = s.paint(boldText, c.Title)
		if !slices.Contains(shown, i) {
			left = append(left, c.Title)
		}
	}
	for _, row := range append([][]string{head}, rows...) {
		var line strings.Builder
		for n, i := range shown {
			if n > 0 {
				line.WriteString("  ")
			}
			pad := strings.Repeat(" ", widths[i]-ansi.StringWidth(row[i]))
			switch {
			case !columns[i].Left:
				line.WriteString(pad + row[i])
			case n == len(shown)-1: // no blanks at the end of a line
				line.WriteString(row[i])
			default:
				line.WriteString(row[i] + pad)
			}
		}
		fmt.Fprintln(w, s.clip(line.String()))
	}
	return left
}

// fit chooses the columns that there is room for.
func fit(s Screen, columns []Column, widths []int) (shown []int) {
	for i := range columns {
		shown = append(shown, i)
	}
	for s.Width > 0 {
		total, worst := -2, -1
		for n, i := range shown {
			total += widths[i] + 2
			if columns[i].Rank > 0 && (worst < 0 || columns[i].Rank >= columns[shown[worst]].Rank) {
				worst = n
			}
		}
		if total <= s.Width || worst < 0 {
			break
		}
		shown = slices.Delete(shown, worst, worst+1)
	}
	return shown
}

// cut returns the rows of a list that are shown, and prints nothing; rest says how
// many are not.
func cut[T any](list []T, most int, all bool) (shown []T, rest int) {
	if all || len(list) <= most+1 { // the line that says so takes a line, too
		return list, 0
	}
	return list[:most], len(list) - most
}

func printRest(w io.Writer, s Screen, rest int) {
	if rest > 0 {
		fmt.Fprintln(w, s.paint(faintText, s.clip(fmt.Sprintf("%s and %s more (--all)", ellipsis(s), count(uint64(rest))))))
	}
}

func ellipsis(s Screen) string {
	if s.Width > 0 && !s.Unicode {
		return "..."
	}
	return "…"
}

// count spells a number with its thousands apart.
func count(n uint64) string {
	text := strconv.FormatUint(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
