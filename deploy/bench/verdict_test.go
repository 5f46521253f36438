package main

import (
	"math"
	"strings"
	"testing"
)

// fakeResults are rounds whose cells all have the same figures.
func fakeResults(name string, figures ...float64) results {
	r := results{server: server{name: name, title: titles[name]}}
	for _, f := range figures {
		cells := make([]cell, len(columns))
		for i := range cells {
			cells[i] = cell{f, f, f, f}
		}
		r.rounds = append(r.rounds, round{cells: cells})
	}
	return r
}

func TestRatio(t *testing.T) {
	m := &measured{
		servers: []results{fakeResults(serverNbdkit, 1, 10, 100), fakeResults(serverEngine, 4, 20, 900), fakeResults(serverGoNBD, math.NaN(), math.NaN(), math.NaN())},
		zram:    [][]cell{{3: {processor: 1}}, {3: {processor: 10}}, {3: {processor: 300}}},
	}
	// The median of the ratios, 4, 2 and 9, and not the ratio of the medians.
	if got := m.ratio(serverEngine, serverNbdkit, readQD16, rate); got != 4 {
		t.Errorf("ratio %v", got)
	}
	if got := m.ratioToZram(serverEngine); got != 3 {
		t.Errorf("ratio to zram %v", got)
	}
	for name, got := range map[string]float64{
		"no such server":  m.ratio(serverTmemd, serverNbdkit, readQD16, rate),
		"no such peer":    m.ratio(serverEngine, serverZstd, readQD16, rate),
		"no such column":  m.ratio(serverEngine, serverNbdkit, "read QD3", rate),
		"nothing of it":   m.ratio(serverGoNBD, serverNbdkit, swapQD16, rate),
		"no zram":         (&measured{servers: m.servers}).ratioToZram(serverEngine),
		"no disturbances": m.disturbed(disturbances[0].title),
	} {
		if !math.IsNaN(got) {
			t.Errorf("%s: ratio %v", name, got)
		}
	}
}

// TestTargetsMeasureThemselves gives every target a figure: a misspelt column or
// server would leave it out for ever.
func TestTargetsMeasureThemselves(t *testing.T) {
	m := &measured{zram: [][]cell{{3: {processor: 1}}}}
	for _, name := range append([]string{serverTier}, allServers...) {
		m.servers = append(m.servers, fakeResults(name, 1))
	}
	for _, d := range disturbances {
		m.adverse = append(m.adverse, adversity{d.title, []pair{{cell{p99: 2}, cell{p99: 3}}}})
	}
	targets := m.targets()
	if len(targets) != 8+2*9+3 {
		t.Errorf("%d targets", len(targets))
	}
	for _, target := range targets {
		want := 1.0
		if strings.Contains(target.what, "in quiet") {
			want = 1.5
		}
		if target.reached != want {
			t.Errorf("%s: reached %v, want %v", target.what, target.reached, want)
		}
	}
	m.servers = m.servers[:len(m.servers)-1] // tmemd-keep
	if n := len(m.targets()); n != 8+9+3 {
		t.Errorf("%d targets without the server that keeps all", n)
	}
}

func TestVerdict(t *testing.T) {
	for _, test := range []struct {
		atLeast bool
		reached float64
		want    string
	}{
		{true, 2, "met"}, {true, 2.1, "met"}, {true, 1.9, "missed"}, {true, missing, "not measured"},
		{false, 2, "met"}, {false, 1.9, "met"}, {false, 2.1, "missed"}, {false, missing, "not measured"},
	} {
		if got := (target{atLeast: test.atLeast, bound: 2, reached: test.reached}).verdict(); got != test.want {
			t.Errorf("at least %v, bound 2, reached %v: %s, want %s", test.atLeast, test.reached, got, test.want)
		}
	}
	var out strings.Builder
	printVerdict(&out, new(measured))
	if text := out.String(); strings.Count(text, "not measured") != len(new(measured).targets()) || !strings.Contains(text, "0 of ") {
		t.Errorf("a run that measured nothing:\n%s", text)
	}
}
