package view

import (
	"testing"

	"github.com/charmbracelet/x/ansi"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

func TestLogLine(t *testing.T) {
	line := admin.LogLine{Time: noon, Level: "WARN", Message: "odd\x1b[2Jthing", Attributes: []admin.Setting{
		{Key: "plain", Value: "a/b:c"}, {Key: "words", Value: "two words"}, {Key: "none"}, {Key: "lines", Value: "a\nb"},
	}}
	want := `2026-06-01 12:00:00.000 WARN  odd?[2Jthing plain=a/b:c words="two words" none="" lines="a\nb"`
	if got := LogLine(Screen{}, line); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := LogLine(Screen{Colour: true, Width: 10}, line); ansi.Strip(got) != want || got == want {
		t.Errorf("with colours\n%q\nwant\n%s", got, want)
	}
}
