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
const stopFor = 12 * time.Second

// One run in which tmemd stands still, and its connections are cut, underneath a guest that swaps all the time: tmemctl attach
// makes the connections anew, and no page is lost or wrong.
func TestSwapThroughInterruptions(t *testing.T) {
	for _, series := range kernels() {
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

	first := p.connections()
	equal(s, "connections", first, 2)
	began := s.machine.Latest()
	s.must(s.daemon.command.Process.Signal(syscall.SIGSTOP))
	time.Sleep(stopFor)
	s.must(s.daemon.command.Process.Signal(syscall.SIGCONT))
	s.swapsOn("tmemd stood still", began)
	stopped := p.connections()
	s.grew("connections", uint64(first), uint64(stopped))

	for round := range 2 {
		began = s.machine.Latest()
		p.cut()
		time.Sleep(time.Duration(round) * 3 * time.Second)
		p.mend()
		s.swapsOn("connections were cut", began)
	}
	s.grew("connections", uint64(stopped), uint64(p.connections()))

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
	swap := s.daemon.status(s.ctx).swap()
	for command, errors := range swap.Errors {
		equal(s, "errors of "+command, errors, 0)
	}
	s.daemon.stop()
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
