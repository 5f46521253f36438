package cli

import (
	"strings"
	"testing"
)

func TestStatusLine(t *testing.T) {
	var drawn strings.Builder
	l := &StatusLine{out: &drawn, width: func() int { return 10 }}
	l.Set("a long line of text")
	l.Set("short")
	l.Clear()
	l.Clear()
	const want = "\ra long li" + "\rshort    " + "\r     \r"
	if drawn.String() != want {
		t.Errorf("drawn %q, want %q", &drawn, want)
	}
	drawn.Reset()
	elsewhere := NewStatusLine(&drawn, false)
	elsewhere.Set("nobody looks")
	elsewhere.Clear()
	if drawn.Len() > 0 {
		t.Errorf("drawn where there is no terminal: %q", &drawn)
	}
}
