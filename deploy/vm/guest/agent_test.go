package main

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/deploy/vm/orders"
)

// machine stands in for the kernel: its counters grow with each look.
type machine struct {
	looks    int64
	did      []string
	swapoffs func() error
}

func (m *machine) swapped() (in, out int64, err error) { m.looks++; return m.looks, 2 * m.looks, nil }
func (m *machine) run(command string) (string, error) {
	if command == "fail" {
		return "", errors.New("it does not run")
	}
	return "did " + command, nil
}
func (m *machine) detach() error        { m.did = append(m.did, "detach"); return nil }
func (m *machine) log() (string, error) { return "[    0.1] nbd0: line\n", nil }

func (m *machine) swapoff() error {
	m.did = append(m.did, "swapoff")
	if m.swapoffs != nil {
		return m.swapoffs()
	}
	return nil
}

// host is the other end of an agent's line.
type host struct {
	t       *testing.T
	orders  *io.PipeWriter
	reports *bufio.Scanner
	ended   chan error
	memory  *memory
	machine *machine
	last    orders.Counters
}

func startAgent(t *testing.T, pages int) *host {
	t.Helper()
	memory := testMemory(t, pages)
	workers, counters := newWorkers(memory, 3)
	ordersOut, ordersIn := io.Pipe()
	reportsOut, reportsIn := io.Pipe()
	h := &host{
		t: t, orders: ordersIn, reports: bufio.NewScanner(reportsOut), ended: make(chan error, 1),
		memory: memory, machine: &machine{},
	}
	a := &agent{kernel: h.machine, workers: workers, counters: counters, reports: reportsIn, every: time.Millisecond}
	go func() {
		err := a.run(ordersOut)
		reportsIn.Close()
		ordersOut.Close()
		h.ended <- err
	}()
	return h
}

func (h *host) order(do, phase string) {
	h.t.Helper()
	if err := orders.Write(h.orders, orders.Order{Do: do, Phase: phase}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) run(command string) {
	h.t.Helper()
	if err := orders.Write(h.orders, orders.Order{Do: orders.Run, Command: command}); err != nil {
		h.t.Fatal(err)
	}
}

// await reads reports until the named event, and checks that counters never fall (O2).
func (h *host) await(event string) orders.Report {
	h.t.Helper()
	for h.reports.Scan() {
		r, err := orders.ParseReport(h.reports.Bytes())
		if err != nil {
			h.t.Fatal(err)
		}
		step := r.Counters.Sub(h.last)
		if min(step.Verified, step.Written, step.Dropped, step.SwappedIn, step.SwappedOut) < 0 {
			h.t.Fatalf("a counter fell: %+v after %+v", r.Counters, h.last)
		}
		h.last = r.Counters
		if r.Event == event {
			return r
		}
		if r.Event != orders.Progress {
			h.t.Fatalf("got %+v; want %q", r, event)
		}
	}
	h.t.Fatalf("the line was closed before %q: %v", event, h.reports.Err())
	return orders.Report{}
}

func (h *host) end() error {
	h.t.Helper()
	for h.reports.Scan() {
	}
	return <-h.ended
}

func TestAgentGoesThroughTheSequence(t *testing.T) {
	const pages = 600
	h := startAgent(t, pages)
	if r := h.await(orders.Filled); r.Counters.Written != pages {
		t.Errorf("filled with %d pages written; want %d", r.Counters.Written, pages)
	}
	for _, phase := range []string{"one", "two"} {
		h.order(orders.Phase, phase)
		began := h.await(orders.PhaseBegan)
		if began.Phase != phase {
			t.Errorf("began phase %q; want %q", began.Phase, phase)
		}
		for r := began; r.Counters.Sub(began.Counters).Verified < pages; {
			if r = h.await(orders.Progress); r.Phase != phase {
				t.Errorf("progress of phase %q in phase %q", r.Phase, phase)
			}
		}
	}
	h.run("something")
	if r := h.await(orders.Ran); r.Detail != "did something" {
		t.Errorf("ran with %q", r.Detail)
	}
	before := h.last
	h.order(orders.Stop, "")
	if r := h.await(orders.Stopped); r.Counters.Sub(before).Verified < pages {
		t.Errorf("%d pages verified since before the stop; want all %d", r.Counters.Sub(before).Verified, pages)
	}
	before = h.last
	h.order(orders.Swapoff, "")
	const kept = 3 * (pages / 3 / keepOneIn)
	if r := h.await(orders.SwappedOff); r.Counters.Sub(before).Verified != kept {
		t.Errorf("%d pages verified after swapoff; want the %d kept ones", r.Counters.Sub(before).Verified, kept)
	}
	h.order(orders.Detach, "")
	if r := h.await(orders.Detached); !strings.Contains(r.Log, "nbd0: line") {
		t.Errorf("log %q; want the kernel's", r.Log)
	}
	if err := h.end(); err != nil {
		t.Error(err)
	}
	if did := strings.Join(h.machine.did, ", "); did != "swapoff, detach" {
		t.Errorf("did %s", did)
	}
}

// Damage ends the run with one report that names the page. Here it happens while swapoff reads everything back.
func TestAgentReportsAMismatch(t *testing.T) {
	h := startAgent(t, 600)
	h.machine.swapoffs = func() error { h.memory.page(1)[7] ^= 1; return nil }
	h.await(orders.Filled)
	h.order(orders.Stop, "")
	h.await(orders.Stopped)
	h.order(orders.Swapoff, "")
	if r := h.await(orders.Mismatch); !strings.Contains(r.Detail, "after swapoff: page 1 version") {
		t.Errorf("detail %q; want page 1", r.Detail)
	}
	if _, ok := errors.AsType[*mismatchError](h.end()); !ok {
		t.Error("the agent must end with the mismatch")
	}
}

func TestAgentReportsFailures(t *testing.T) {
	tests := []struct {
		name string
		do   func(h *host)
		want string
	}{
		{"unreadable order", func(h *host) { _, _ = h.orders.Write([]byte("halt\n")) }, "parse order"},
		{"out of turn", func(h *host) { h.order(orders.Detach, "") }, `"detach" out of turn`},
		{"swapoff fails", func(h *host) {
			h.machine.swapoffs = func() error { return errors.New("cannot allocate memory") }
			h.order(orders.Stop, "")
			h.await(orders.Stopped)
			h.order(orders.Swapoff, "")
		}, "cannot allocate memory"},
		{"phase after the stop", func(h *host) {
			h.order(orders.Stop, "")
			h.await(orders.Stopped)
			h.order(orders.Phase, "late")
		}, `order "phase" out of turn: expected "swapoff"`},
		{"command fails", func(h *host) { h.run("fail") }, "it does not run"},
		{"closed line", func(h *host) { h.orders.Close() }, "the line is closed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := startAgent(t, 64)
			h.await(orders.Filled)
			test.do(h)
			if r := h.await(orders.Failed); !strings.Contains(r.Detail, test.want) {
				t.Errorf("detail %q; want %q", r.Detail, test.want)
			}
			if err := h.end(); err == nil {
				t.Error("the agent must end with an error")
			}
		})
	}
}

func TestVmstatField(t *testing.T) {
	vmstat := []byte("nr_free_pages 2345\npswpin 17\npswpout 23\npswpinned 99\nbroken\nbad many\n")
	if n, err := vmstatField(vmstat, "pswpin"); err != nil || n != 17 {
		t.Errorf("pswpin = %d, %v; want 17", n, err)
	}
	for _, name := range []string{"pswp", "broken", "bad"} {
		if n, err := vmstatField(vmstat, name); err == nil {
			t.Errorf("%s = %d; want an error", name, n)
		}
	}
}
