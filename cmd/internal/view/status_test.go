package view

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

func screenOf(s admin.Status, index int, screen Screen, all bool) string {
	before := Sample{At: noon.Add(-time.Second), Status: s}
	var out strings.Builder
	Status(&out, screen, &before, Sample{At: noon, Status: later(s, index)}, all)
	return out.String()
}

// TestStatus holds whole screens.
func TestStatus(t *testing.T) {
	golden(t, "normal.txt", screenOf(normal(), 0, terminal, false))
	golden(t, "troubled.txt", screenOf(troubled(), 0, terminal, false))
	golden(t, "troubled-pipe.txt", screenOf(troubled(), 0, Screen{}, false))
	golden(t, "crowded.txt", screenOf(crowded(), 700, terminal, false))
	golden(t, "narrow.txt", screenOf(normal(), 0, Screen{Width: 46, Height: 20}, false))
	bare := normal()
	bare.Backends, bare.Clients, bare.Memory = nil, nil, nil
	golden(t, "bare.txt", screenOf(bare, 0, terminal, false))
}

// TestOneScreen: a normal daemon is seen at once, with a line left for the prompt.
func TestOneScreen(t *testing.T) {
	if n := strings.Count(screenOf(normal(), 0, terminal, false), "\n"); n > 23 {
		t.Errorf("%d lines", n)
	}
}

// TestWidth: no line is wider than the screen, however narrow, and colours change
// nothing but colours.
func TestWidth(t *testing.T) {
	for name, s := range map[string]admin.Status{"normal": normal(), "troubled": troubled(), "crowded": crowded()} {
		for width := 20; width <= 140; width += 1 + len(s.Exports)/100 {
			screen := Screen{Width: width, Height: 24, Unicode: true}
			plain := screenOf(s, 0, screen, false)
			for line := range strings.Lines(plain) {
				if n := ansi.StringWidth(strings.TrimSuffix(line, "\n")); n > width {
					t.Fatalf("%s: %d columns in a screen of %d: %s", name, n, width, line)
				}
			}
			if strings.ContainsRune(plain, '\x1b') {
				t.Fatalf("%s: an escape without colours:\n%q", name, plain)
			}
			screen.Colour = true
			painted := screenOf(s, 0, screen, false)
			if stripped := ansi.Strip(painted); stripped != plain || painted == plain {
				t.Fatalf("%s, %d columns: with colours\n%s\nwithout\n%s", name, width, stripped, plain)
			}
		}
	}
}

// TestAll: nothing is cut if all was asked for.
func TestAll(t *testing.T) {
	text := screenOf(crowded(), 700, terminal, true)
	for i := range 1000 {
		if name := fmt.Sprintf("guest%04d", i); strings.Count(text, name+" ") < 3 { // as export, in rates, as a client's
			t.Fatalf("%s is missing", name)
		}
	}
	if strings.Contains(text, "--all") {
		t.Error("something is cut")
	}
}

func TestScreenOfNoTerminal(t *testing.T) {
	if s := ScreenOf(new(bytes.Buffer), func(string) string { return "en_US.UTF-8" }); s != (Screen{}) {
		t.Errorf("a buffer has %+v", s)
	}
}

func TestExportRates(t *testing.T) {
	before := Sample{At: noon, Status: normal()}
	after := Sample{At: noon.Add(2 * time.Second), Status: later(normal(), 0)}
	want := Rates{Out: 621.5, In: 165, FromStorage: 10, ToStorage: 6, Refused: 1.5}
	if got := ExportRates(before, after)["swap"]; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	noBackend := after
	noBackend.Status.Backends = nil
	if got := ExportRates(before, noBackend)["swap"].Out; got != 6 {
		t.Errorf("without backends %v pages go out, want what storage wrote", got)
	}
	restarted := after
	restarted.Status.Started = noon
	if got := ExportRates(before, restarted); got != nil {
		t.Errorf("over a restart: %+v", got)
	}
	if got := ExportRates(after, before); got != nil {
		t.Errorf("backwards: %+v", got)
	}
	setBack := ExportRates(Sample{At: noon, Status: later(normal(), 0)}, Sample{At: noon.Add(time.Second), Status: normal()})["swap"]
	if setBack != (Rates{}) {
		t.Errorf("counters that were set back: %+v", setBack)
	}
	other := normal()
	other.Exports[0].Name = "other"
	if got := ExportRates(before, Sample{At: noon.Add(time.Second), Status: other}); len(got) != 0 {
		t.Errorf("an export that was not there before: %+v", got)
	}
}

func TestHealth(t *testing.T) {
	if all := Health(normal(), noon); len(all) != 0 {
		t.Errorf("a healthy daemon: %+v", all)
	}
	all := Health(troubled(), noon)
	for i, trouble := range all {
		if trouble.Cure == "" && trouble.Level != Busy {
			t.Errorf("no cure: %+v", trouble)
		}
		if i > 0 && levelOrder(all[i-1].Level) > levelOrder(trouble.Level) {
			t.Errorf("%+v comes after %+v", trouble, all[i-1])
		}
		if strings.ContainsRune(trouble.Text, '\x1b') {
			t.Errorf("an escape: %q", trouble.Text)
		}
	}
	if len(all) != 13 {
		t.Errorf("%d troubles: %+v", len(all), all)
	}
	expired := normal()
	expired.TLS = &admin.TLS{Certificate: "c", Expires: noon}
	if all := Health(expired, noon); len(all) != 1 || all[0].Level != Bad {
		t.Errorf("an expired certificate: %+v", all)
	}
	if all := Health(crowded(), noon); len(all) != 1 || !strings.Contains(all[0].Text, "500 times (guest0001, guest0003, guest0005 and 497 more)") {
		t.Errorf("500 bad disks: %+v", all)
	}
}

func TestSpelling(t *testing.T) {
	for r, want := range map[float64]string{0: "0", 0.01: "0.1", 3.14: "3.1", 9.96: "10", 1234567: "1,234,567"} {
		if got := perSecond(r); got != want {
			t.Errorf("%v: %s, want %s", r, got, want)
		}
	}
	for d, want := range map[time.Duration]string{time.Second: "1s", 61 * time.Second: "1m1s", 3 * time.Hour: "3h0m", 50 * time.Hour: "2d2h"} {
		if got := age(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
