package orders

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseOrder(t *testing.T) {
	tests := []struct {
		line string
		want Order
		err  string // part of the error; empty if it must parse
	}{
		{line: `{"do":"phase","phase":"no backend"}`, want: Order{Do: Phase, Phase: "no backend"}},
		{line: `{"do":"stop"}` + "\n", want: Order{Do: Stop}},
		{line: `{"do":"swapoff"}`, want: Order{Do: Swapoff}},
		{line: `{"do":"detach"}`, want: Order{Do: Detach}},
		{line: `{"do":"run","command":"true"}`, want: Order{Do: Run, Command: "true"}},
		{line: `{"do":"run"}`, err: "run takes a command"},
		{line: `{"do":"run","command":"true","phase":"x"}`, err: "no phase"},
		{line: `{"do":"stop","command":"true"}`, err: "stop takes no command"},
		{line: `{"do":"phase","phase":"x","command":"true"}`, err: "phase takes no command"},
		{line: `{"do":"phase"}`, err: "a phase without a name"},
		{line: `{"do":"stop","phase":"x"}`, err: "stop takes no phase"},
		{line: `{"do":"reboot"}`, err: "unknown order"},
		{line: `{}`, err: "unknown order"},
		{line: ``, err: "EOF"},
		{line: `stop`, err: "invalid character"},
		{line: `{"do":"stop"}{"do":"stop"}`, err: "13 bytes after it"},
		{line: `{"do":"stop","now":true}`, err: "unknown field"},
		{line: `{"do":"sto`, err: "unexpected EOF"},
	}
	for _, test := range tests {
		got, err := ParseOrder([]byte(test.line))
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("ParseOrder(%q) = %v, %v; want an error with %q", test.line, got, err, test.err)
			}
			continue
		}
		if err != nil || got != test.want {
			t.Errorf("ParseOrder(%q) = %v, %v; want %v", test.line, got, err, test.want)
		}
	}
}

func TestParseReport(t *testing.T) {
	tests := []struct {
		line string
		err  string
	}{
		{line: `{"event":"progress","counters":{"verified":7}}`},
		{line: `{"event":"swapped off"}`},
		{line: `{"event":"mismatch","detail":"page 5"}`},
		{line: `{"event":"tired"}`, err: "unknown event"},
		{line: `{"counters":{}}`, err: "unknown event"},
		{line: `{"event":"progress","counters":{"verified":"many"}}`, err: "cannot unmarshal"},
		{line: "\x00\x00", err: "invalid character"},
	}
	for _, test := range tests {
		_, err := ParseReport([]byte(test.line))
		if test.err == "" && err != nil {
			t.Errorf("ParseReport(%q): %v", test.line, err)
		}
		if test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
			t.Errorf("ParseReport(%q): %v; want an error with %q", test.line, err, test.err)
		}
	}
}

// What one side writes is what the other reads, on one line, whatever the text in it.
func TestReportRoundTrip(t *testing.T) {
	events := []string{Filled, PhaseBegan, Progress, Stopped, SwappedOff, Detached, Ran, Mismatch, Failed}
	rapid.Check(t, func(t *rapid.T) {
		want := Report{
			Event:    rapid.SampledFrom(events).Draw(t, "event"),
			Phase:    rapid.String().Draw(t, "phase"),
			Counters: Counters{Verified: rapid.Int64().Draw(t, "verified"), SwappedOut: rapid.Int64().Draw(t, "out")},
			Detail:   rapid.String().Draw(t, "detail"),
			Log:      rapid.String().Draw(t, "log"),
		}
		var line bytes.Buffer
		if err := Write(&line, want); err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(line.Bytes(), []byte("\n")); n != 1 || line.Bytes()[line.Len()-1] != '\n' {
			t.Fatalf("%q holds %d line ends; want one, at its end", line.Bytes(), n)
		}
		got, err := ParseReport(line.Bytes())
		if err != nil || got != want {
			t.Fatalf("got %+v, %v; want %+v", got, err, want)
		}
	})
}

func TestCountersSub(t *testing.T) {
	later := Counters{Verified: 10, Written: 20, Dropped: 30, SwappedIn: 40, SwappedOut: 50}
	earlier := Counters{Verified: 1, Written: 2, Dropped: 3, SwappedIn: 4, SwappedOut: 5}
	want := Counters{Verified: 9, Written: 18, Dropped: 27, SwappedIn: 36, SwappedOut: 45}
	if got := later.Sub(earlier); got != want {
		t.Errorf("got %+v; want %+v", got, want)
	}
}

func FuzzParseOrder(f *testing.F) {
	f.Add([]byte(`{"do":"phase","phase":"no backend"}`))
	f.Add([]byte(`{"do":"stop"}{"do":"stop"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		order, err := ParseOrder(line)
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := Write(&again, order); err != nil {
			t.Fatal(err)
		}
		if back, err := ParseOrder(again.Bytes()); err != nil || back != order {
			t.Fatalf("%q parsed as %+v, which comes back as %+v, %v", line, order, back, err)
		}
	})
}

func FuzzParseReport(f *testing.F) {
	f.Add([]byte(`{"event":"progress","phase":"p","counters":{"verified":7,"swapped_in":3}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		report, err := ParseReport(line)
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := Write(&again, report); err != nil {
			t.Fatal(err)
		}
		if back, err := ParseReport(again.Bytes()); err != nil || back != report {
			t.Fatalf("%q parsed as %+v, which comes back as %+v, %v", line, report, back, err)
		}
	})
}
