package view

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// watched is a daemon that was looked at for a while: traffic rises, falls, and ends
// with a burst of refusals.
func watched(s admin.Status, donors ...admin.Donor) Top {
	t := Top{Now: noon, Interval: 2 * time.Second, Order: Orders[0]}
	const samples = 40
	for i := range samples {
		s.Exports = append([]admin.Export(nil), s.Exports...)
		s.Backends = append([]admin.Backend(nil), s.Backends...)
		busy := uint64(min(i, samples-i))
		e := &s.Exports[0]
		e.SuccStores += busy * 120
		e.Loads += busy * busy
		e.Storage.PagesRead += busy % 7
		if i > samples-5 {
			e.FailedStores, e.Storage.PagesWritten = e.FailedStores+40, e.Storage.PagesWritten+40
		}
		for n := range s.Backends {
			b := &s.Backends[n]
			b.Stores += busy * 120
			b.HeldBytes = b.LimitBytes / samples * uint64(i)
			b.Refused = map[string]uint64{"full": b.Refused["full"]}
			if i > samples-5 {
				b.Refused["full"] += 40
			}
		}
		for n := range donors {
			donors[n].LatencySeconds = 0.0002 * float64(1+i%5)
		}
		t.History.Add(Sample{At: noon.Add(2 * time.Second * time.Duration(i-samples+1)), Status: s, Donors: append([]admin.Donor(nil), donors...)})
	}
	return t
}

func several() admin.Status {
	s := normal()
	for _, name := range []string{"first", "second", "third", "fourth", "fifth"} {
		b := s.Backends[0]
		b.Name = name
		s.Backends = append(s.Backends, b)
	}
	s.Disks = []admin.Disk{{Name: "root", SizeBytes: 20 << 30, Mode: "inclusive", SuccGets: 10}}
	return s
}

var twoDonors = []admin.Donor{{Backend: "ramster", Name: "east", State: "up"}, {Backend: "ramster", Name: "west", State: "open"}}

func TestFrame(t *testing.T) {
	golden(t, "top.txt", Frame(terminal, watched(normal()))+"\n")
	golden(t, "top-ascii.txt", Frame(Screen{Width: 80, Height: 24}, watched(normal()))+"\n")
	golden(t, "top-several.txt", Frame(terminal, watched(several(), twoDonors...))+"\n")
	golden(t, "top-large.txt", Frame(Screen{Width: 132, Height: 50, Unicode: true}, watched(several(), twoDonors...))+"\n")
	golden(t, "top-crowded.txt", Frame(terminal, watched(crowded()))+"\n")
	golden(t, "top-pipe.txt", Frame(Screen{}, watched(normal()))+"\n")

	paused := watched(normal())
	paused.Paused, paused.Order = true, "name"
	paused.Gone = "tmemd is not running: nobody answers on /x/admin.sock"
	golden(t, "top-gone.txt", Frame(terminal, paused)+"\n")
	paused.Help = true
	golden(t, "top-help.txt", Frame(terminal, paused)+"\n")
	golden(t, "top-first.txt", Frame(terminal, Top{Now: noon, Interval: time.Second, Order: Orders[0]})+"\n")
}

// TestFrameFits: however large the screen is, a frame is exactly as high, and no line
// is wider.
func TestFrameFits(t *testing.T) {
	tops := map[string]Top{"normal": watched(normal()), "several": watched(several(), twoDonors...), "troubled": watched(troubled()), "crowded": watched(crowded())}
	for name, top := range tops {
		for _, width := range []int{1, 10, 20, 40, 79, 80, 81, 100, 200} {
			for _, height := range []int{1, 2, 5, 10, 23, 24, 25, 60} {
				s := Screen{Width: width, Height: height, Unicode: true}
				plain := Frame(s, top)
				if n := strings.Count(plain, "\n") + 1; n != height {
					t.Fatalf("%s, %dx%d: %d lines", name, width, height, n)
				}
				for line := range strings.Lines(plain) {
					if n := ansi.StringWidth(strings.TrimSuffix(line, "\n")); n > width {
						t.Fatalf("%s, %dx%d: %d columns: %s", name, width, height, n, line)
					}
				}
				s.Colour = true
				if painted := Frame(s, top); ansi.Strip(painted) != plain {
					t.Fatalf("%s, %dx%d: colours change more than colours:\n%s\n%s", name, width, height, ansi.Strip(painted), plain)
				}
			}
		}
	}
}

func TestOrders(t *testing.T) {
	s := normal()
	s.Exports = nil
	for i, name := range []string{"b", "c", "a"} {
		s.Exports = append(s.Exports, admin.Export{Name: name, SizeBytes: int64(i+1) << 30})
	}
	top := Top{Now: noon, Interval: time.Second}
	top.History.Add(Sample{At: noon.Add(-time.Second), Status: s})
	s.Exports = append([]admin.Export(nil), s.Exports...)
	s.Exports[1].Loads, s.Exports[1].FailedStores = 100, 1
	s.Exports[0].FailedStores = 50
	top.History.Add(Sample{At: noon, Status: s})
	for order, want := range map[string]string{"traffic": "c b a", "refused": "b c a", "size": "a c b", "name": "a b c"} {
		top.Order = order
		var names []string
		for line := range strings.Lines(Frame(terminal, top)) {
			if len(line) > 3 && strings.Contains("abc", line[:1]) && line[1] == ' ' {
				names = append(names, line[:1])
			}
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("by %s: %s, want %s", order, got, want)
		}
	}
}

func TestHistory(t *testing.T) {
	var h History
	s := several()
	for i := range longest + 50 {
		h.Add(Sample{At: noon.Add(time.Duration(i) * time.Second), Status: s})
	}
	for name, points := range h.series {
		if len(points) > longest {
			t.Errorf("%s has %d points", name, len(points))
		}
	}
	// A backend that is gone takes its series along; a daemon that was started anew
	// has rates of its own.
	s.Backends = s.Backends[:1]
	h.Add(Sample{At: noon.Add(time.Hour), Status: s})
	if _, left := h.series["backend/first/stores"]; left {
		t.Error("the series of a backend that is gone is kept")
	}
	s.Started = noon.Add(time.Hour)
	s.Exports[0].Loads = 0
	points := len(h.series["in"])
	h.Add(Sample{At: noon.Add(2 * time.Hour), Status: s})
	if h.rates != nil || len(h.series["in"]) != points {
		t.Errorf("rates over a restart: %v", h.rates)
	}
}

func TestSpark(t *testing.T) {
	for _, test := range []struct {
		series []float64
		most   float64
		want   string
	}{
		{nil, 0, "     "},
		{[]float64{0, 0}, 0, "     "},
		{[]float64{0, 1, 4, 8}, 0, "  ▁▄█"},
		{[]float64{0.0001, 8}, 0, "   ▁█"},
		{[]float64{1, 2, 3, 4, 5, 6}, 0, "▃▄▅▇█"},
		{[]float64{50, 200}, 100, "   ▄█"},
	} {
		if got := spark(terminal, 5, test.series, test.most); got != test.want {
			t.Errorf("%v of %v: %q, want %q", test.series, test.most, got, test.want)
		}
	}
	if got := spark(terminal, 0, []float64{1}, 0); got != "" {
		t.Errorf("without room: %q", got)
	}
}

func TestStacked(t *testing.T) {
	parts := func(amounts ...float64) (list []part) {
		for i, a := range amounts {
			list = append(list, part{amount: a, letter: fmt.Sprint(i)})
		}
		return list
	}
	for _, test := range []struct {
		amounts []float64
		want    string
	}{
		{[]float64{0, 0, 0}, "[          ]"},
		{[]float64{1, 1, 0}, "[0000011111]"},
		{[]float64{1, 100_000, 1}, "[0111111112]"},
		{[]float64{0, 7, 0}, "[1111111111]"},
	} {
		if got := stacked(Screen{}, 10, parts(test.amounts...)); got != test.want {
			t.Errorf("%v: %s, want %s", test.amounts, got, test.want)
		}
	}
}
