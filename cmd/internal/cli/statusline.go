package cli

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/term"
)

// StatusLine is one line that is drawn over itself on a terminal, while something
// takes time. Elsewhere it is not drawn. It is for one goroutine at a time.
type StatusLine struct {
	out   io.Writer // nil if it is no terminal
	width func() int
	drawn int
}

// NewStatusLine returns a line on out, or one that is never drawn if out is no
// terminal or quiet is true.
func NewStatusLine(out io.Writer, quiet bool) *StatusLine {
	file, ok := out.(*os.File)
	if !ok || quiet || !term.IsTerminal(int(file.Fd())) {
		return &StatusLine{}
	}
	return &StatusLine{out: out, width: func() int {
		width, _, err := term.GetSize(int(file.Fd()))
		if err != nil {
			return 80
		}
		return width
	}}
}

// Set draws text, as far as it fits: a full line would scroll.
func (l *StatusLine) Set(text string) {
	if l.out == nil {
		return
	}
	text = text[:max(0, min(len(text), l.width()-1))]
	fmt.Fprintf(l.out, "\r%-*s", l.drawn, text)
	l.drawn = len(text)
}

// Clear takes the line away, so that what follows begins on an empty one.
func (l *StatusLine) Clear() {
	if l.drawn > 0 {
		fmt.Fprintf(l.out, "\r%-*s\r", l.drawn, "")
		l.drawn = 0
	}
}
