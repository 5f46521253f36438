//go:build e2e

package vm

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// The sizes of the run with several machines. Each of them wants more of the pool than it gets.
const (
	poolMiB      = 128
	poolDataMiB  = 112
	poolWorkers  = 2
	poolPages    = 300 // verified by a machine, or by each, after something happened, at least
	reservedMiB  = 12
	evictedPages = 300 // of others, while none of a client below its reservation are
	steadyLooks  = 20  // at clients' memory, over which it has to be as it should on average
	sharePercent = 10  // by which it may be off
)

// poolConfig is of both daemons. What does not compress is kept, so that all that a guest swaps out is charged to it, and how much a
// pool takes does not depend on what else this machine does just now.
const poolConfig = `
	metrics = "off"
	[[template]]
	name = "guest"
	size = "256MiB"
	[[backend]]
	kind = "zcache"
	size = "32MiB"
	self_sizing = "off"
	incompressible = "keep"
`

// tenants are the clients of the pool, a machine each.
var tenants = []struct {
	client, export string
	weight         int
}{{"a", "vm1", 1}, {"b", "vm2", 2}, {"c", "vm3", 4}}

// One run in which three machines swap at once, each to a virtio disk that QEMU makes of its export, and want more of the pool than
// there is. They get what their weights say, a reservation is kept, one is frozen and thawed, and the export of one moves to another
// tmemd and back. No page is lost or wrong.
func TestMachinesShareAPool(t *testing.T) {
	for _, series := range lastKernel() {
		t.Run("linux-"+series, func(t *testing.T) { newPool(t, series).run() })
	}
}

// pool is that run. Its scenario has no machine of its own.
type pool struct {
	*scenario
	other    *daemon // vm1 moves there
	socket   string  // of the daemon that has vm1: a symbolic link, which a VM manager's hook switches
	machines []*Machine
}

func newPool(t *testing.T, series string) *pool {
	t.Helper()
	p := &pool{scenario: newScenarioBase(t)}
	kernel, err := FetchKernel(p.ctx, cacheDir(), series)
	p.must(err)
	bin := t.TempDir()
	p.daemon, p.other = newDaemon(t, bin, "tmemd"), newDaemon(t, bin, "the other tmemd")
	for _, program := range []string{p.daemon.program, p.daemon.ctl} {
		p.must(BuildProgram(p.ctx, "github.com/tmemd/tmemd/cmd/"+filepath.Base(program), program))
	}
	for _, d := range []*daemon{p.daemon, p.other} {
		d.args = []string{"--config", writeConfig(t, d.stateDir, poolConfig), "--state-dir", d.stateDir, "--memory-dir", d.memory}
		d.start(p.ctx)
	}
	p.socket = filepath.Join(t.TempDir(), "vm1.sock")
	p.switchTo(p.daemon)
	seed := seed(t)
	p.note("%s, seed %d (TMEMD_VM_SEED=%d repeats its content)", kernel.Package, seed, seed)
	initramfs, err := BuildInitramfs(p.ctx, kernel, AttachDisk, t.TempDir())
	p.must(err)
	for i, tenant := range tenants {
		p.daemon.tmemctl(p.ctx, "client", "create", tenant.client, "--weight", fmt.Sprint(tenant.weight))
		p.daemon.tmemctl(p.ctx, "export", "create", tenant.export, "--client", tenant.client, "--template", "guest")
		machine, err := Start(p.ctx, Config{
			Kernel: kernel, Initramfs: initramfs, MemoryMiB: poolMiB, DataMiB: poolDataMiB, Workers: poolWorkers, Processors: 1,
			Seed: seed + uint64(i), Attach: AttachDisk, SwapDisk: p.swapDisk(tenant.export), NoProgress: 2 * time.Minute,
		})
		p.must(err)
		t.Cleanup(machine.Close)
		p.machines = append(p.machines, machine)
	}
	return p
}

// swapDisk is how QEMU is told of an export: as README.md says, and for the one that moves in the form that can tell QEMU to connect
// again.
func (p *pool) swapDisk(export string) []string {
	if export != tenants[0].export {
		return []string{"-drive", fmt.Sprintf("file=nbd+unix:///%s?socket=%s,format=raw,if=virtio,discard=unmap", export, p.daemon.nbdSocket())}
	}
	return []string{
		"-blockdev", fmt.Sprintf("driver=nbd,node-name=swap,server.type=unix,server.path=%s,export=%s,reconnect-delay=60,discard=unmap", p.socket, export),
		"-device", "virtio-blk-pci,drive=swap",
	}
}

// switchTo is what a VM manager's hook does after the move: who connects from now on connects to that daemon.
func (p *pool) switchTo(d *daemon) {
	p.t.Helper()
	next := p.socket + ".next"
	p.must(os.Symlink(d.nbdSocket(), next))
	p.must(os.Rename(next, p.socket))
}

func (p *pool) run() {
	for i, m := range p.machines {
		filled, err := m.AwaitFilled(p.ctx)
		p.must(err)
		p.note("%s swapped on and wrote %d pages; %d swapped out", tenants[i].export, filled.Counters.Written, filled.Counters.SwappedOut)
	}
	for _, step := range []struct {
		what string
		does func()
	}{
		{"memory is shared by weight", p.weights},
		{"a client is frozen, and has memory reserved", p.frozen},
		{"it is thawed", p.thawed},
		{"an export moved to another tmemd", func() { p.move(p.daemon, p.other) }},
		{"the export moved back", p.back},
	} {
		step.does()
		p.swapOn(step.what)
	}
	p.end()
}

// weights: all are greedy, and used = k · weight for one k.
func (p *pool) weights() {
	before := p.clients(p.daemon)
	p.steady()
	after := p.clients(p.daemon)
	for _, tenant := range tenants {
		b, a := before[tenant.client], after[tenant.client]
		p.grew("pages evicted or refused of "+tenant.client, b.Evicted+b.Refused["share"], a.Evicted+a.Refused["share"])
	}
}

// frozen: the client of the least weight reserves more than it has, and writes nothing to memory while it is frozen: that goes to
// storage, and is counted. What it has in memory is read from there, and stays, though others' pages are evicted all the time.
func (p *pool) frozen() {
	tenant := tenants[0]
	p.daemon.tmemctl(p.ctx, "client", "freeze", tenant.client)
	p.daemon.tmemctl(p.ctx, "client", "set", tenant.client, fmt.Sprintf("reservation=%dMiB", reservedMiB))
	set := p.clients(p.daemon)
	p.verify(0, poolPages)
	p.until("pages of others are evicted", func() bool { return others(p.clients(p.daemon), tenant.client) > others(set, tenant.client) })

	// Stores, and a batch of evictions, that were under way when it was frozen and reserved are over.
	start, before := p.clients(p.daemon), p.export(p.daemon, tenant.export)
	p.verify(0, poolPages)
	now := start
	p.until("others have many pages evicted, and the frozen client loads and is refused", func() bool {
		now = p.clients(p.daemon)
		return others(now, tenant.client) > others(start, tenant.client)+evictedPages &&
			now[tenant.client].Refused["frozen"] > start[tenant.client].Refused["frozen"] &&
			p.export(p.daemon, tenant.export).Loads > before.Loads
	})
	after := p.export(p.daemon, tenant.export)
	equal(p.scenario, "stores of a frozen client", after.SuccStores, before.SuccStores)
	equal(p.scenario, "pages evicted of a client below its reservation", now[tenant.client].Evicted, start[tenant.client].Evicted)
	p.grew("bytes reserved, beside those used", now[tenant.client].Used, now[tenant.client].Kept)
	p.note("frozen, and with %d MiB reserved: %d KiB, then %d KiB, %d pages loaded, %d refused and none evicted; %d pages of others were",
		reservedMiB, start[tenant.client].Used>>10, now[tenant.client].Used>>10, after.Loads-before.Loads,
		now[tenant.client].Refused["frozen"], others(now, tenant.client)-others(start, tenant.client))
}

// thawed: the client gets what it reserved from the others, and loses nothing while it has less. In the end used = reservation +
// k · weight.
func (p *pool) thawed() {
	tenant := tenants[0]
	p.daemon.tmemctl(p.ctx, "client", "thaw", tenant.client)
	p.verify(0, poolPages) // stores that were under way are over
	start, below := p.clients(p.daemon), 0
	p.until("the client has what it reserved", func() bool {
		now := p.clients(p.daemon)[tenant.client]
		if now.Used >= now.Kept {
			return true // and was evicted from since, perhaps, and rightly
		}
		below++
		equal(p.scenario, "pages evicted of a client below its reservation", now.Evicted, start[tenant.client].Evicted)
		return false
	})
	p.note("thawed, it has what it reserved; %d looks before found nothing evicted of it", below)
	p.steady()
	equal(p.scenario, "pages refused of a thawed client", p.clients(p.daemon)[tenant.client].Refused["frozen"], start[tenant.client].Refused["frozen"])
}

// others is how many pages were evicted of all clients but one.
func others(list map[string]poolClient, but string) (evicted uint64) {
	for name, c := range list {
		if name != but {
			evicted += c.Evicted
		}
	}
	return evicted
}

// move moves an export while its machine swaps to it. QEMU connects again, and finds it at the new place.
func (p *pool) move(from, to *daemon) {
	tenant := tenants[0]
	if to == p.other {
		to.tmemctl(p.ctx, "client", "create", tenant.client, "--weight", fmt.Sprint(tenant.weight))
	}
	to.tmemctl(p.ctx, "export", "create", tenant.export, "--client", tenant.client, "--template", "guest")
	before := p.export(from, tenant.export)
	p.grew("pages of the export in memory", 0, uint64(before.Pages.Backends[backendName]))
	equal(p.scenario, "NBD clients of it", before.Clients, 1)
	moved := from.moveExport(p.ctx, tenant.export, "unix://"+to.nbdSocket())
	p.switchTo(to)
	began := time.Now()
	p.note("%s moved with %d pages in %d rounds, and was held back for %.1f ms", tenant.export, moved.Sent, moved.Round, moved.PauseMS)
	equal(p.scenario, "where the export is by the word of the daemon that had it", p.export(from, tenant.export).MovedTo, "unix://"+to.nbdSocket())
	equal(p.scenario, "bytes that it takes there", p.clients(from)[tenant.client].Used, 0)
	p.until("the machine is there", func() bool { return p.export(to, tenant.export).Clients == 1 })
	p.note("its machine was there %.1f s later", time.Since(began).Seconds())
	p.verify(0, 2*poolPages)
	p.until("it swaps there", func() bool {
		e := p.export(to, tenant.export)
		return e.Loads > 0 && e.SuccStores > 0
	})
}

func (p *pool) back() {
	p.noErrors()
	p.daemon.tmemctl(p.ctx, "export", "delete", tenants[0].export) // the word where it is; now there may be another of its name
	p.move(p.other, p.daemon)
	p.steady()
}

// end: all guests verify everything, swap off and end.
func (p *pool) end() {
	errs := make([]error, len(p.machines))
	var all sync.WaitGroup
	for i, m := range p.machines {
		all.Go(func() { errs[i] = p.finish(tenants[i].export, m) })
	}
	all.Wait()
	p.must(errors.Join(errs...))
	p.noErrors()
	p.daemon.stop()
	p.other.stop()
}

func (p *pool) finish(export string, m *Machine) error {
	for _, does := range []func() error{
		func() error { _, err := m.Stop(p.ctx); return err },
		func() error { _, err := m.Swapoff(p.ctx); return err },
	} {
		if err := does(); err != nil {
			return fmt.Errorf("%s: %w", export, err)
		}
	}
	last, err := m.Detach(p.ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", export, err)
	}
	p.note("%s: %d pages verified: 0 mismatches; %d swapped in, %d out", export, last.Counters.Verified, last.Counters.SwappedIn, last.Counters.SwappedOut)
	if lines := LogTrouble(last.Log, nil); len(lines) > 0 {
		return fmt.Errorf("the kernel of %s complains:\n%s", export, strings.Join(lines, "\n"))
	}
	return nil
}

// swapOn waits until each machine has verified pages, some of them swapped in.
func (p *pool) swapOn(what string) {
	p.t.Helper()
	for i := range p.machines {
		p.verify(i, poolPages)
	}
	p.note("%s: %s", what, p.account())
	p.noErrors()
}

// verify waits until a machine has verified so many pages from now on.
func (p *pool) verify(machine int, pages int64) {
	p.t.Helper()
	began := p.machines[machine].Latest()
	now, err := p.machines[machine].AwaitVerified(p.ctx, began, pages)
	p.must(err)
	p.grew("pages swapped in", uint64(began.Counters.SwappedIn), uint64(now.Counters.SwappedIn))
}

// steady waits until all use what they should, on average over some time: a guest swaps out in bursts, which are a good part of a pool
// as small as this.
func (p *pool) steady() {
	p.t.Helper()
	var looks []map[string]poolClient
	p.until("memory is shared as it should be", func() bool {
		looks = append(looks, p.clients(p.daemon))
		looks = looks[max(0, len(looks)-steadyLooks):]
		return len(looks) == steadyLooks && imbalance(looks) <= sharePercent
	})
	worst := 0.0
	for i := range looks {
		worst = max(worst, imbalance(looks[i:i+1]))
	}
	p.note("memory is shared as it should be: off by %.1f %% on average over %d looks, by %.1f %% in the worst of them", imbalance(looks), steadyLooks, worst)
}

// imbalance is by how much the client that is furthest from it differs from its reservation + k · weight, in percent of that. k
// follows from what all use together.
func imbalance(looks []map[string]poolClient) (percent float64) {
	used, kept, weight := map[string]float64{}, map[string]float64{}, map[string]float64{}
	var allUsed, allKept, weights float64
	for _, look := range looks {
		for _, tenant := range tenants {
			name, c := tenant.client, look[tenant.client]
			used[name], kept[name], weight[name] = used[name]+float64(c.Used), kept[name]+float64(c.Kept), weight[name]+float64(c.Weight)
			allUsed, allKept, weights = allUsed+float64(c.Used), allKept+float64(c.Kept), weights+float64(c.Weight)
		}
	}
	if allUsed <= allKept || weights == 0 {
		return math.Inf(1)
	}
	for name := range used {
		should := kept[name] + (allUsed-allKept)/weights*weight[name]
		percent = max(percent, 100*math.Abs(used[name]-should)/should)
	}
	return percent
}

// until waits for something that guests and daemons do by themselves.
func (p *pool) until(what string, is func() bool) {
	p.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !is(); time.Sleep(200 * time.Millisecond) {
		if p.ctx.Err() != nil || time.Now().After(end) {
			p.t.Fatalf("it never came to this: %s; %s", what, p.account())
		}
	}
}

// noErrors: no request was answered with an error.
func (p *pool) noErrors() {
	p.t.Helper()
	for _, d := range []*daemon{p.daemon, p.other} {
		for _, e := range d.status(p.ctx).Exports {
			for command, errors := range e.Errors {
				equal(p.scenario, e.Name+": errors of "+command, errors, 0)
			}
			equal(p.scenario, e.Name+": load errors", e.LoadErrors, 0)
		}
	}
}

// account says in short what each client has.
func (p *pool) account() string {
	var parts []string
	list := p.clients(p.daemon)
	for _, tenant := range tenants {
		c := list[tenant.client]
		parts = append(parts, fmt.Sprintf("%s (weight %d, reserved %d MiB) uses %d KiB, %d evicted, refused %v",
			tenant.client, c.Weight, c.Reserved>>20, c.Used>>10, c.Evicted, c.Refused))
	}
	return strings.Join(parts, "; ")
}

func (p *pool) clients(d *daemon) map[string]poolClient {
	p.t.Helper()
	return d.poolClients(p.ctx)
}

func (p *pool) export(d *daemon, name string) export {
	p.t.Helper()
	for _, e := range d.status(p.ctx).Exports {
		if e.Name == name {
			return e
		}
	}
	p.t.Fatalf("there is no export %s", name)
	return export{}
}
