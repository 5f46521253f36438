package view

import (
	"io"
	"os"
	"strings"
	"unicode"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"
	"golang.org/x/term"
)

// Screen is what is printed on.
type Screen struct {
	Width   int // columns; 0 if there is no end
	Height  int // lines; 0 if there is no end
	Colour  bool
	Unicode bool // it can draw blocks
}

// ScreenOf describes where a writer ends: a terminal has a size, and colours unless
// NO_COLOR or TERM=dumb say otherwise. Anything else has neither.
func ScreenOf(w io.Writer, env func(string) string) Screen {
	file, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return Screen{}
	}
	s := Screen{Width: 80, Height: 24, Colour: env("NO_COLOR") == "" && env("TERM") != "dumb", Unicode: isUTF8(env) && env("TERM") != "dumb"}
	if width, height, err := term.GetSize(int(file.Fd())); err == nil && width > 0 && height > 0 {
		s.Width, s.Height = width, height
	}
	return s
}

// isUTF8 says whether the locale writes UTF-8. The first of these that is set counts.
func isUTF8(env func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := strings.ToLower(env(name)); value != "" {
			return strings.Contains(value, "utf-8") || strings.Contains(value, "utf8")
		}
	}
	return false
}

// style is a way to paint.
type style struct{ lipgloss.Style }

var (
	plainText = style{lipgloss.NewStyle()}
	boldText  = style{lipgloss.NewStyle().Bold(true)}
	faintText = style{lipgloss.NewStyle().Faint(true)}
	goodText  = style{lipgloss.NewStyle().Foreground(lipgloss.Green)}
	warnText  = style{lipgloss.NewStyle().Foreground(lipgloss.Yellow)}
	badText   = style{lipgloss.NewStyle().Foreground(lipgloss.Red).Bold(true)}
	coolText  = style{lipgloss.NewStyle().Foreground(lipgloss.Cyan)}
)

func (s Screen) paint(with style, text string) string {
	if !s.Colour || text == "" {
		return text
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines { // one by one: the library makes them all as long as the longest
		lines[i] = with.Render(line)
	}
	return strings.Join(lines, "\n")
}

// clip cuts a line to the screen.
func (s Screen) clip(line string) string {
	if s.Width == 0 {
		return line
	}
	return ansi.Truncate(line, s.Width, s.more())
}

// wrap breaks text at blanks, so that it stands beside a lead.
func (s Screen) wrap(lead, text string) string {
	if s.Width == 0 {
		return lead + text
	}
	indent := ansi.StringWidth(lead)
	var lines []string
	for _, part := range strings.Split(ansi.Wrap(text, max(s.Width-indent, 10), "-"), "\n") {
		lines = append(lines, s.clip(lead+part))
		lead = strings.Repeat(" ", indent)
	}
	return strings.Join(lines, "\n")
}

// more is what a line ends with that was cut.
func (s Screen) more() string {
	if s.Unicode {
		return "…"
	}
	return "~"
}

// Plain takes control characters out of what others chose.
func Plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}
