//go:build e2e

package vm

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tmemd/tmemd/deploy/vm/orders"
)

// agentMiB is what the agent takes of the guest's memory, with its program and the file that holds it.
const agentMiB = 32

// agentPages are verified after each interruption, at least.
const agentPages = 1500

// stopFor is longer than the age of five seconds at which the guest's agent has requests' connections made anew.
const stopFor = 30 * time.Second

// kills is how often tmemd is killed.
const kills = 3

// One run in which tmemd stands still, its connections are cut, and it is killed and upgraded, underneath a guest that swaps all the
// time: tmemctl attach makes the connections anew, and no page is lost or wrong.
func TestSwapThroughInterruptions(t *testing.T) {
	for _, series := range firstKernel() {
		t.Run("linux-"+series, func(t *testing.T) { interruptions(t, series) })
	}
}

func interruptions(t *testing.T, series string) {
	var p *proxy
	s := newScenarioWith(t, series, func(s *scenario, c *Config) {
		p = startProxy(t, fmt.Sprintf("127.0.0.1:%d", c.NBDPort))
		c.MemoryMiB += agentMiB
		c.NBDPort, c.Attach, c.Expected = p.port(), AttachAgent, deadConnections
	})
	s.daemon.load(s.ctx, roomyBackend)
	filled, err := s.machine.AwaitFilled(s.ctx)
	s.must(err)
	s.note("attached by tmemctl; %d pages swapped out", filled.Counters.SwappedOut)

	equal(s, "connections", p.connections(), 2)
	for _, does := range []func(*proxy){s.standsStill, s.cuts, s.kills, s.upgrades} {
		first := p.connections()
		does(p)
		s.grew("connections", uint64(first), uint64(p.connections()))
	}

	_, err = s.machine.Stop(s.ctx)
	s.must(err)
	_, err = s.machine.Swapoff(s.ctx)
	s.must(err)
	last, err := s.machine.Detach(s.ctx)
	s.must(err)
	s.note("%d pages verified: 0 mismatches; %d swapped in, %d out", last.Counters.Verified, last.Counters.SwappedIn, last.Counters.SwappedOut)
	if lines := LogTrouble(last.Log, deadConnections); len(lines) > 0 {
		t.Errorf("the guest's kernel complains:\n%s", strings.Join(lines, "\n"))
	}
	if !strings.Contains(last.Log, "reconnected socket") {
		t.Error("the guest's kernel was never given a new connection")
	}
	s.noErrors()
	s.daemon.stop()
}

func (s *scenario) standsStill(*proxy) {
	began := s.machine.Latest()
	s.must(s.daemon.command.Process.Signal(syscall.SIGSTOP))
	time.Sleep(stopFor)
	s.must(s.daemon.command.Process.Signal(syscall.SIGCONT))
	s.swapsOn("tmemd stood still", began)
}

func (s *scenario) cuts(p *proxy) {
	for round := range 2 {
		began := s.machine.Latest()
		p.cut()
		time.Sleep(time.Duration(round) * 3 * time.Second)
		p.mend()
		s.swapsOn("connections were cut", began)
	}
}

// kills: what was in memory is there for the next process, and so are the backend and its name.
func (s *scenario) kills(*proxy) {
	for round := range kills {
		s.noErrors() // the next process counts from zero
		began := s.machine.Latest()
		s.daemon.kill()
		time.Sleep(time.Duration(round) * time.Second)
		s.daemon.start(s.ctx)
		s.tookOver()
		s.swapsOn("tmemd was killed", began)
		swap := s.daemon.status(s.ctx).swap()
		s.grew("stores since the start", 0, swap.SuccStores)
		s.grew("loads since the start", 0, swap.Loads)
	}
}

// upgrades: the process stays, and is another program.
func (s *scenario) upgrades(*proxy) {
	s.noErrors()
	before, began := s.daemon.status(s.ctx), s.machine.Latest()
	s.daemon.tmemctl(s.ctx, "upgrade")
	after := s.daemon.status(s.ctx)
	equal(s, "process", after.PID, s.daemon.command.Process.Pid)
	if after.Started == before.Started {
		s.t.Errorf("tmemd is still the program that started at %s", before.Started)
	}
	s.tookOver()
	s.swapsOn("tmemd was upgraded", began)
}

// tookOver: the backend that was loaded by hand is there, with pages, though tmemd's flags name none.
func (s *scenario) tookOver() {
	s.t.Helper()
	now := s.daemon.status(s.ctx)
	if len(now.Backends) != 1 || now.Backends[0].Name != backendName || now.Backends[0].State != "active" {
		s.t.Fatalf("backends are %+v; want %s, active", now.Backends, backendName)
	}
	s.grew("pages of the backend that were taken over", 0, uint64(now.swap().Pages.Backends[backendName]))
}

// noErrors: no request of the guest's was answered with an error since tmemd started.
func (s *scenario) noErrors() {
	s.t.Helper()
	swap := s.daemon.status(s.ctx).swap()
	for command, errors := range swap.Errors {
		equal(s, "errors of "+command, errors, 0)
	}
	equal(s, "load errors", swap.LoadErrors, 0)
}

// swapsOn waits until the guest has verified pages since an event, some of them swapped in.
func (s *scenario) swapsOn(what string, since orders.Report) {
	s.t.Helper()
	now, err := s.machine.AwaitVerified(s.ctx, since, agentPages)
	s.must(err)
	work := now.Counters.Sub(since.Counters)
	s.grew("pages swapped in", 0, uint64(work.SwappedIn))
	s.note("%s: %d pages verified since, %d swapped in, %d out", what, work.Verified, work.SwappedIn, work.SwappedOut)
}
