//go:build e2e

package vm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/nbd/tlstest"
)

// otherHostsPages are verified after each event, at least.
const otherHostsPages = 1000

// cutFor is how long hosts are out of reach: longer than it takes to make another copy of a page, or to send a request again, and not
// so long that a load gives up.
const cutFor = 8 * time.Second

// One run in which a guest swaps into the memory of other hosts. They are killed, cut off, added, removed and lose their memory, and
// their owner is killed, too: no page is lost or wrong.
func TestSwapToOtherHosts(t *testing.T) {
	for _, series := range lastKernel() {
		t.Run("linux-"+series, func(t *testing.T) { newLoan(t, series).run() })
	}
}

// loan is that run. Hosts are counted from 1; the third one is a donor later.
type loan struct {
	*scenario
	network *network
	donors  [4]*donor // from 1 on
}

func newLoan(t *testing.T, series string) *loan {
	t.Helper()
	l := &loan{network: newNetwork(t.Context(), t, 3)}
	authority := tlstest.NewAuthority(t, "hosts")
	config := prepareOwner(t, l.network, authority, 1, 2)
	l.scenario = newScenarioWith(t, series, func(s *scenario, c *Config) {
		for host := 1; host <= 3; host++ {
			l.donors[host] = prepareDonor(t, s.daemon.bin(), l.network, authority, host)
			l.donors[host].start(s.ctx)
		}
		c.MemoryMiB += agentMiB
		c.Attach, c.Expected = AttachAgent, deadConnections // only the agent outlives a daemon that is killed
	}, "--config", config)
	return l
}

func (l *loan) run() {
	filled, err := l.machine.AwaitFilled(l.ctx)
	l.must(err)
	l.note("attached by tmemctl; %d pages swapped out", filled.Counters.SwappedOut)
	for _, step := range []struct {
		what string
		does func()
	}{
		{"two donors have pages", l.lend},
		{"a donor was killed, and is back with what it had", l.killed},
		{"one donor was cut off", func() { l.cutOff(2) }},
		{"all donors were cut off", func() { l.cutOff(1, 2) }},
		{"a donor was added", l.added},
		{"a donor was removed, and its owner killed meanwhile", l.removed},
		{"a donor came back without its memory", l.forgotten},
		{"the backend was unloaded", l.unloaded},
	} {
		began := l.machine.Latest()
		step.does()
		now, err := l.machine.AwaitVerified(l.ctx, began, otherHostsPages)
		l.must(err)
		work := now.Counters.Sub(began.Counters)
		l.grew("pages swapped in", 0, uint64(work.SwappedIn))
		l.note("%s: %d pages verified, %d swapped in, %d out; %s", step.what, work.Verified, work.SwappedIn, work.SwappedOut, l.account())
		l.noErrors()
		l.nothingLost()
	}
	l.end()
}

// lend: what leaves the staging area is at both.
func (l *loan) lend() {
	l.until("both donors have pages", func() bool { return l.pagesAt(1) > 0 && l.pagesAt(2) > 0 })
	for host := 1; host <= 2; host++ {
		l.until("it has pages by its own count", func() bool { return l.donors[host].lent(l.ctx) > 0 })
	}
}

// killed: the other one has all pages. The process after it has what it was given, and is believed.
func (l *loan) killed() {
	had := l.pagesAt(1)
	l.donors[1].kill()
	l.until("the donor is given up for now", func() bool { return !l.isUp(1) })
	began := l.machine.Latest()
	_, err := l.machine.AwaitVerified(l.ctx, began, otherHostsPages)
	l.must(err)
	l.noErrors()
	l.donors[1].start(l.ctx)
	l.until("the donor is back", func() bool { return l.isUp(1) })
	l.grew("pages at the donor", 0, uint64(l.pagesAt(1)))
	equal(l.scenario, "pages that the donor has lost", l.lender(1).Missing, 0)
	l.note("it had %d pages and has %d now", had, l.pagesAt(1))
}

// cutOff: loads wait for nobody who is away while another one has the page, and if all are away they wait.
func (l *loan) cutOff(hosts ...int) {
	waited, sessions := l.metric("waited_loads_total"), map[int]uint64{}
	for _, host := range hosts {
		sessions[host] = l.lender(host).Sessions
		l.network.cut(l.ctx, host)
	}
	began := time.Now()
	for _, host := range hosts {
		l.until("the donor is given up for now", func() bool { return !l.isUp(host) })
	}
	time.Sleep(time.Until(began.Add(cutFor)))
	if len(hosts) > 1 {
		l.grew("loads that waited", waited, l.metric("waited_loads_total"))
	}
	for _, host := range hosts {
		l.network.heal(l.ctx, host)
	}
	for _, host := range hosts {
		l.until("the donor is back", func() bool { return l.isUp(host) })
		l.grew("sessions", sessions[host], l.lender(host).Sessions)
		equal(l.scenario, "pages that the donor has lost", l.lender(host).Missing, 0)
	}
}

func (l *loan) added() {
	l.daemon.tmemctl(l.ctx, "donor", "add", donorName(3), donorAddress(l.network, 3))
	l.until("the new donor has pages", func() bool { return l.pagesAt(3) > 0 && l.donors[3].lent(l.ctx) > 0 })
}

// removed: what it has moves to others, and is forgotten there. The owner is killed at once and the next process goes on.
func (l *loan) removed() {
	l.daemon.tmemctl(l.ctx, "donor", "remove", donorName(1))
	l.noErrors()
	l.nothingLost() // the next process counts from zero
	l.daemon.kill()
	l.daemon.start(l.ctx)
	now := l.daemon.status(l.ctx)
	if len(now.Backends) != 1 || now.Backends[0].Name != ramsterName || now.Backends[0].State != "active" {
		l.t.Fatalf("backends are %+v; want %s, active", now.Backends, ramsterName)
	}
	l.grew("pages of the backend that were taken over", 0, uint64(now.swap().Pages.Backends[ramsterName]))
	l.until("the removed donor is gone from the list", func() bool { return l.lender(1).Name == "" })
	l.until("the removed donor has no pages by its own count", func() bool { return l.donors[1].lent(l.ctx) == 0 })
	l.grew("copies made again", 0, l.metric("repaired_copies_total"))
	l.grew("pages at the second donor", 0, uint64(l.pagesAt(2)))
	l.grew("pages at the third donor", 0, uint64(l.pagesAt(3)))
}

// forgotten: a donor whose host was started anew has lost its memory, is not believed, and is given copies anew. (In one boot a tmemd that
// was killed and has lost its memory asks its administrator first.)
func (l *loan) forgotten() {
	repaired := l.metric("repaired_copies_total")
	l.donors[2].kill()
	l.donors[2].forget()
	l.donors[2].start(l.ctx)
	l.until("its pages are there again", func() bool {
		return l.isUp(2) && l.metric("repaired_copies_total") > repaired && l.pagesAt(2) > l.pagesAt(3)*9/10
	})
	l.note("%d copies were made again", l.metric("repaired_copies_total")-repaired)
}

// unloaded: donors have nothing any more.
func (l *loan) unloaded() {
	l.grew("pages to unload", 0, uint64(l.daemon.status(l.ctx).swap().Pages.Backends[ramsterName]))
	l.daemon.unload(l.ctx, ramsterName)
	after := l.daemon.status(l.ctx)
	equal(l.scenario, "backends", len(after.Backends), 0)
	equal(l.scenario, "pages in backends", len(after.swap().Pages.Backends), 0)
	for host := 1; host <= 3; host++ {
		l.until("no donor has pages", func() bool { return l.donors[host].lent(l.ctx) == 0 })
	}
}

func (l *loan) end() {
	_, err := l.machine.Stop(l.ctx)
	l.must(err)
	_, err = l.machine.Swapoff(l.ctx)
	l.must(err)
	last, err := l.machine.Detach(l.ctx)
	l.must(err)
	l.note("%d pages verified: 0 mismatches; %d swapped in, %d out", last.Counters.Verified, last.Counters.SwappedIn, last.Counters.SwappedOut)
	if lines := LogTrouble(last.Log, deadConnections); len(lines) > 0 {
		l.t.Errorf("the guest's kernel complains:\n%s", strings.Join(lines, "\n"))
	}
	l.noErrors()
	l.daemon.stop()
	for host := 1; host <= 3; host++ {
		l.donors[host].stop()
	}
}

// until waits for something that the daemons do by themselves.
func (l *loan) until(what string, is func() bool) {
	l.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !is(); time.Sleep(100 * time.Millisecond) {
		if l.ctx.Err() != nil || time.Now().After(end) {
			l.t.Fatalf("it never came to this: %s; %s", what, l.account())
		}
	}
}

// lender is a host as the owner sees it; nobody, if it is no donor.
func (l *loan) lender(host int) lender {
	for _, d := range l.daemon.lenders(l.ctx) {
		if d.Name == donorName(host) {
			return d
		}
	}
	return lender{}
}

func (l *loan) isUp(host int) bool { return l.lender(host).State == stateUp }

// pagesAt is how many pages a host has by the owner's account.
func (l *loan) pagesAt(host int) int64 { return l.lender(host).Pages }

// nothingLost: no page is gone from all donors, none of them answered with another page than it was sent, and the owner's memory is
// within its bounds.
func (l *loan) nothingLost() {
	l.t.Helper()
	for _, d := range l.daemon.lenders(l.ctx) {
		equal(l.scenario, "replies of "+d.Name+" that were rejected", d.Rejected, 0)
	}
	for _, b := range l.daemon.status(l.ctx).Backends {
		equal(l.scenario, "pages lost", l.metric("lost_pages"), 0)
		if b.Held > b.Limit {
			l.t.Errorf("the backend holds %d bytes; its limit is %d", b.Held, b.Limit)
		}
	}
}

// metric is one of the backend's.
func (l *loan) metric(name string) uint64 {
	l.t.Helper()
	sample := fmt.Sprintf("tmemd_ramster_%s{backend=%q}", name, ramsterName)
	value, there := l.daemon.metrics(l.ctx)[sample]
	if !there {
		l.t.Errorf("there is no metric %s", sample)
	}
	return uint64(value)
}

// account says in short where pages are, and what became of them.
func (l *loan) account() string {
	pages := l.daemon.status(l.ctx).swap().Pages
	parts := []string{fmt.Sprintf("pages in storage %d, in backends %v", pages.Storage, pages.Backends)}
	for _, d := range l.daemon.lenders(l.ctx) {
		parts = append(parts, fmt.Sprintf("%s %s has %d, %d missing", d.Name, d.State, d.Pages, d.Missing))
	}
	if len(parts) > 1 {
		for _, name := range []string{"resent_pages_total", "repaired_copies_total", "second_copy_loads_total", "waited_loads_total"} {
			parts = append(parts, fmt.Sprintf("%s %d", name, l.metric(name)))
		}
	}
	return strings.Join(parts, ", ")
}
