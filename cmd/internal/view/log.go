package view

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// LogLine spells a line of the log. It is not cut: somebody may look for its end.
func LogLine(s Screen, line admin.LogLine) string {
	paint := plainText
	switch {
	case strings.HasPrefix(line.Level, "ERROR"):
		paint = badText
	case strings.HasPrefix(line.Level, "WARN"):
		paint = warnText
	case strings.HasPrefix(line.Level, "DEBUG"):
		paint = faintText
	}
	var b strings.Builder
	b.WriteString(s.paint(faintText, line.Time.Format("2006-01-02 "+time.TimeOnly+".000")))
	b.WriteString(" " + s.paint(paint, fmt.Sprintf("%-5s", Plain(line.Level))) + " ")
	b.WriteString(Plain(line.Message))
	for _, a := range line.Attributes {
		b.WriteString(" " + s.paint(faintText, Plain(a.Key)+"=") + quoted(a.Value))
	}
	return b.String()
}

// quoted spells a value so that its end can be seen, and as one line.
func quoted(value string) string {
	odd := func(r rune) bool { return r == '"' || r == '=' || unicode.IsSpace(r) || !unicode.IsPrint(r) }
	if value == "" || strings.ContainsFunc(value, odd) {
		return strconv.Quote(value)
	}
	return value
}
