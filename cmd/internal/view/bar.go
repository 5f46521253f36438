package view

import "strings"

// part is one part of a bar.
type part struct {
	amount         float64
	block, letter  string // one column wide, with and without Unicode
	paint          style
	name           string
	alwaysInLegend bool
}

// stacked draws parts of a whole, as wide as said. What is there has one column at
// least: a part that cannot be seen would look like none.
func stacked(s Screen, width int, parts []part) string {
	total := 0.0
	for _, p := range parts {
		total += p.amount
	}
	cells := make([]int, len(parts))
	if total > 0 {
		used := 0
		for i, p := range parts {
			cells[i] = int(p.amount / total * float64(width))
			if p.amount > 0 && cells[i] == 0 {
				cells[i] = 1
			}
			used += cells[i]
		}
		// The largest part evens it out: there it is seen least.
		largest := 0
		for i := range cells {
			if cells[i] > cells[largest] {
				largest = i
			}
		}
		cells[largest] = max(cells[largest]+width-used, 0)
	}
	var b strings.Builder
	for i, p := range parts {
		b.WriteString(s.paint(p.paint, strings.Repeat(p.sign(s), cells[i])))
	}
	drawn := 0
	for _, n := range cells {
		drawn += n
	}
	return "[" + b.String() + strings.Repeat(" ", max(width-drawn, 0)) + "]"
}

func (p part) sign(s Screen) string {
	if s.Unicode {
		return p.block
	}
	return p.letter
}

// legend explains the signs of a bar.
func legend(s Screen, parts []part) string {
	var names []string
	for _, p := range parts {
		if p.amount == 0 && !p.alwaysInLegend {
			continue
		}
		sign := p.sign(s)
		if sign == " " {
			sign = "blank"
		}
		names = append(names, s.paint(p.paint, sign)+" "+p.name)
	}
	return strings.Join(names, "  ")
}
