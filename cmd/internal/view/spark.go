package view

import "strings"

var (
	sparkBlocks  = []rune(" ▁▂▃▄▅▆▇█")
	sparkLetters = []rune(" .:-=+*#@")
)

// spark draws a series in one line, the latest at its right end. most is what a full
// column stands for; 0 takes the largest value that is seen. What is not zero is
// never blank.
func spark(s Screen, width int, series []float64, most float64) string {
	if width <= 0 {
		return ""
	}
	signs := sparkLetters
	if s.Unicode {
		signs = sparkBlocks
	}
	if len(series) > width {
		series = series[len(series)-width:]
	}
	if most <= 0 {
		for _, v := range series {
			most = max(most, v)
		}
	}
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", width-len(series)))
	for _, v := range series {
		level := 0
		if v > 0 && most > 0 {
			level = min(max(int(v/most*float64(len(signs)-1)+0.5), 1), len(signs)-1)
		}
		b.WriteRune(signs[level])
	}
	return b.String()
}
