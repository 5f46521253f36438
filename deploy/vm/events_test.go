//go:build e2e

package vm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// The sizes of the run through random events.
const (
	events     = 20
	eventPages = 700 // verified after each event, at least
)

// One run in which an operator does as he pleases with backends and the export, at random, underneath a guest that swaps
// all the time. TMEMD_VM_SEED repeats his choices.
func TestSwapThroughRandomEvents(t *testing.T) {
	for _, series := range kernels() {
		t.Run("linux-"+series, func(t *testing.T) {
			t.Parallel()
			randomEvents(t, series)
		})
	}
}

func randomEvents(t *testing.T, series string) {
	s := newScenario(t, series)
	seed := seed(t)
	o := operator{scenario: s, random: rand.New(rand.NewPCG(seed, 0)), frozen: map[string]bool{}}
	s.note("events of seed %d", seed)
	_, err := s.machine.AwaitFilled(s.ctx)
	s.must(err)
	for range events {
		began := s.machine.Latest()
		s.note("%s", o.act())
		_, err := s.machine.AwaitVerified(s.ctx, began, eventPages)
		s.must(err)
	}
	o.end()
}

// operator knows what is loaded.
type operator struct {
	*scenario
	random *rand.Rand
	loaded []string
	frozen map[string]bool
	made   int
}

// act does one thing that makes sense now and says what.
func (o *operator) act() string {
	for {
		if did := o.try(o.random.IntN(10)); did != "" {
			return did
		}
	}
}

func (o *operator) try(what int) string {
	if what == 0 || len(o.loaded) == 0 {
		return o.load()
	}
	name := o.loaded[o.random.IntN(len(o.loaded))]
	switch what {
	case 1:
		o.loaded = slices.DeleteFunc(o.loaded, func(n string) bool { return n == name })
		return o.do("backend", "unload", name)
	case 2:
		next := o.newName()
		o.loaded[slices.Index(o.loaded, name)] = next
		return o.do("backend", "replace", name, "--with", backendName, "--name", next, "--size", o.size())
	case 3:
		if o.frozen[name] {
			return ""
		}
		o.frozen[name] = true
		return o.do("backend", "freeze", name)
	case 4:
		if !o.frozen[name] {
			return ""
		}
		o.frozen[name] = false
		return o.do("backend", "thaw", name)
	case 5:
		return o.do("backend", "shrink", name, "--pages", fmt.Sprint(100+o.random.IntN(500)))
	case 6:
		return o.do("backend", "order", name)
	case 7:
		settings := []string{"codec=zstd", "codec=lz4", "incompressible=keep", "incompressible=refuse", "staging=off", "staging=default", "cold_after=1s"}
		return o.do("backend", "set", name, "max_pool="+o.size(), settings[o.random.IntN(len(settings))])
	case 8:
		// The guest keeps the size that it knows, and must not notice.
		grown := o.daemon.status(o.ctx).swap().Size + int64(1+o.random.IntN(64))<<20
		return o.do("export", "resize", exportName, fmt.Sprint(grown))
	}
	modes := []string{"off", "async", "sync"}
	return o.do("export", "set", exportName, "writethrough="+modes[o.random.IntN(len(modes))])
}

func (o *operator) load() string {
	if len(o.loaded) == 3 {
		return ""
	}
	name := o.newName()
	o.loaded = append(o.loaded, name)
	return o.do("backend", "load", backendName, "--name", name, "--size", o.size())
}

func (o *operator) newName() string {
	o.made++
	return fmt.Sprint("z", o.made)
}

// size is room for little, or for all.
func (o *operator) size() string { return []string{"4MiB", "256MiB"}[o.random.IntN(2)] }

func (o *operator) do(args ...string) string {
	o.daemon.tmemctl(o.ctx, args...)
	return strings.Join(args, " ")
}

// end unloads everything, has the guest verify what it has left, and closes the accounts.
func (o *operator) end() {
	for _, b := range o.daemon.status(o.ctx).Backends {
		o.note("%s", o.do("backend", "unload", b.Name))
	}
	_, err := o.machine.Stop(o.ctx)
	o.must(err)
	_, err = o.machine.Swapoff(o.ctx)
	o.must(err)
	last, err := o.machine.Detach(o.ctx)
	o.must(err)
	o.note("%d pages verified: 0 mismatches; %d swapped in, %d out", last.Counters.Verified, last.Counters.SwappedIn, last.Counters.SwappedOut)
	if lines := LogTrouble(last.Log, nil); len(lines) > 0 {
		o.t.Errorf("the guest's kernel complains:\n%s", strings.Join(lines, "\n"))
	}
	swap := o.daemon.status(o.ctx).swap()
	o.grew("stores", 0, swap.SuccStores)
	o.grew("loads", 0, swap.Loads)
	equal(o.scenario, "pages in backends", len(swap.Pages.Backends), 0)
	equal(o.scenario, "pages by owner, together", swap.Pages.None+swap.Pages.Storage+swap.Pages.Hole, swap.Size/pageSize)
	for command, errors := range swap.Errors {
		equal(o.scenario, "errors of "+command, errors, 0)
	}
	equal(o.scenario, "storage and load errors", swap.Storage.ReadErrors+swap.Storage.WriteErrors+swap.Storage.PunchErrors+swap.LoadErrors, 0)
	o.arrived(last.Counters.SwappedOut)
	o.daemon.stop()
}
