package daemon

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tmemd/tmemd/nbd"
)

// urgencyPeriod is how soon a client of this host's kernel is noticed. Between its
// handshake and the first page lie mkswap and swapon, and then memory has to run
// out.
const urgencyPeriod = time.Second

// urgency keeps the process in a realtime class while the kernel of this host is a
// client: then a reply may be what memory waits for. Other clients wait no longer
// for a daemon that is not in it, and have twice as much of it.
type urgency struct {
	set  func(on bool) error // protect.Report.Urgent
	comm func(pid int32) string

	mu    sync.Mutex
	known map[uint64]bool // by connection: whether the host's kernel is behind it; guarded by mu, as is all below
	of    *nbd.Server     // whose connections these are: another one counts anew
	on    bool
	until time.Time // needed until then in any case
}

func newUrgency(set func(bool) error) *urgency {
	return &urgency{set: set, comm: commandOf, known: map[uint64]bool{}}
}

// urgencyGrace is how long a client that was there before an upgrade is expected to
// connect again: an agent does at once, but its host may be out of memory.
const urgencyGrace = time.Minute

// expect says that the process is in the class, for a client that will connect again.
func (u *urgency) expect() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.on, u.until = true, time.Now().Add(urgencyGrace)
}

// hold leaves the class as it is until release, though connections are closed. Clients
// are expected to connect again then. A nil urgency is of a process that is in no
// class.
func (u *urgency) hold() (release func()) {
	if u == nil {
		return func() {}
	}
	u.mu.Lock()
	return func() {
		if u.on {
			u.until = time.Now().Add(urgencyGrace)
		}
		u.mu.Unlock()
	}
}

// watch looks at the clients until ctx ends.
func (u *urgency) watch(ctx context.Context, d *Daemon) {
	tick := time.NewTicker(urgencyPeriod)
	defer tick.Stop()
	for {
		if err := u.lookAt(d); err != nil {
			d.log.Warn("cannot change the scheduling class: swap of this host may freeze it", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lookAt looks at the daemon's clients.
func (u *urgency) lookAt(d *Daemon) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	was, server := u.on, d.server()
	if u.of != server {
		u.of, u.known = server, map[uint64]bool{}
	}
	err := u.look(server.Clients())
	if u.on != was {
		d.log.Info("scheduling class", "realtime", u.on)
	}
	return err
}

// look asks for the class that the clients need, and each time while that is the
// realtime class: threads that were made meanwhile may not be in it. REQUIRES: mu held.
func (u *urgency) look(clients []nbd.Client) error {
	needed := time.Now().Before(u.until)
	known := make(map[uint64]bool, len(clients))
	for _, c := range clients {
		kernel, seen := u.known[c.ID]
		if !seen {
			kernel = isHostKernel(c, u.comm)
		}
		known[c.ID] = kernel
		needed = needed || kernel
	}
	u.known = known
	if !needed && !u.on {
		return nil
	}
	u.on = needed
	return u.set(needed)
}

// isHostKernel says whether a client hands its socket to the kernel of this host:
// tmemctl attach says so by its session, nbd-client by its name. That one ends when
// it has handed it over, and root's processes may be hidden from us: so a process of
// root's without a name is taken for it. comm is commandOf.
func isHostKernel(c nbd.Client, comm func(pid int32) string) bool {
	if c.Credentials == nil || c.Session {
		return c.Credentials != nil
	}
	name := comm(c.Credentials.PID)
	return name == "nbd-client" || name == "" && c.Credentials.UID == 0
}

// hostKernelStays says whether the kernel of this host is a client, and stays one: a
// process that has ended has no name either, until its connection is seen to have
// ended.
func hostKernelStays(clients func() []nbd.Client, comm func(pid int32) string) bool {
	for range 20 {
		if !slices.ContainsFunc(clients(), func(c nbd.Client) bool { return isHostKernel(c, comm) }) {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

func commandOf(pid int32) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
