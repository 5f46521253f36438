package readme

import (
	"regexp"
	"strings"
)

// Command is one that a reader is told to type.
type Command struct {
	Host string // that it is for; empty if there is only one
	Root bool
	Line string
}

var prompt = regexp.MustCompile(`^ {4}(?:([a-z][a-z0-9-]*)?(#) |(\$) )(\S.*)$`)

// Commands returns the commands in a text, in order.
func Commands(text string) (all []Command) {
	goesOn := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch found := prompt.FindStringSubmatch(line); {
		case goesOn:
			all[len(all)-1].Line += "\n" + line
		case found == nil:
			continue
		default:
			all = append(all, Command{Host: found[1], Root: found[2] != "", Line: found[4]})
		}
		goesOn = strings.HasSuffix(line, `\`)
	}
	return all
}

// Section returns the part of a text below a heading, up to the next one of the same or a higher level; empty if there is no
// such heading. The heading is given with its number signs.
func Section(text, heading string) string {
	level := strings.IndexByte(heading, ' ')
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if strings.TrimSpace(line) != heading {
			continue
		}
		var section strings.Builder
		for _, line := range lines[i+1:] {
			if signs := len(line) - len(strings.TrimLeft(line, "#")); signs > 0 && signs <= level && strings.HasPrefix(line[signs:], " ") {
				break
			}
			section.WriteString(line)
		}
		return section.String()
	}
	return ""
}
