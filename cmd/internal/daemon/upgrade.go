package daemon

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/protect"
)

// An upgrade replaces the program of the running process (execve), so that the
// process id, the locks and the listening sockets stay:
//
//	1  a child with the new program makes ready for a takeover: it looks at all that
//	   does not change meanwhile, and takes and locks the memory that it will need
//	2  connections are closed, requests in flight are finished; new connections wait
//	   in the sockets' queues
//	3  the child goes through a takeover, with everything as it is now, up to the
//	   point where that would change something
//	4  if the child says that it works, the process becomes the new program, which
//	   takes over as it does after a kill; else it serves on
//	5  when the new program serves, the child ends
//
// The host's own kernel may be a client. Then nobody frees memory between 2 and 5, and
// execve drops the locks that keep ours from being swapped out to ourselves. So
// whatever takes memory is before 2, and the child stays to hold what the new program
// needs: the memory folder, with the headers, and the files that a start reads, the
// program's among them. What the new program takes for itself the old one leaves. Done
// the simple way, 2 first, a guest whose memory was exhausted hung. It needs the whole
// of package protect, and a kernel that lends realtime threads half of what it keeps
// free; without, an upgrade under the own host's swap is refused.
//
// The other way, a second process that serves while the first one ends, changes the
// process id under service managers and shells, and gains nothing: the memory has
// one user at a time in any case.

// upgrade makes this process the program that is at its path now. It returns if
// that is not possible: then everything is as it was, but that clients have to
// connect again.
func (d *Daemon) upgrade() error {
	d.loading.Lock()
	defer d.loading.Unlock()
	if err := d.mayChange("upgrades no more"); err != nil {
		return err
	}
	if d.memory == nil {
		return &admin.Error{
			Status: http.StatusConflict, Message: "pages of this tmemd end with its process: there is nothing to hand over",
			Hint: "stop it (SIGTERM) and start the new one, with a --memory-dir",
		}
	}
	if why := unfit(d.options.Protection, protect.KernelRelease()); why != "" && hostKernelStays(d.server().Clients, commandOf) {
		return &admin.Error{
			Status: http.StatusConflict, Message: "this host swaps through this tmemd, and may hang while nobody serves it: " + why,
			Hint: "tmemctl detach this host's devices first, upgrade, and attach them again",
		}
	}
	name, busy := d.moves.hold()
	defer d.moves.release()
	if busy {
		return &admin.Error{
			Status: http.StatusConflict, Message: "pages of backend " + name + " are being moved",
			Hint: "wait for its end (tmemctl backend list), or end it: tmemctl backend cancel " + name,
		}
	}
	if err := d.transfers.busy(""); err != nil {
		return err
	}
	program := d.options.Program
	if err := unix.Access(program, unix.X_OK); err != nil {
		return upgradeError(fmt.Errorf("%s: %w", program, err))
	}
	d.log.Info("upgrading: the new program makes ready", "program", program)
	// The child ends with the thread that started it, and that thread is the one that
	// execve leaves.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	h, err := d.handOver()
	if err != nil {
		d.keepSockets()
		return upgradeError(err)
	}
	defer h.close()
	c, err := startChild(program, h)
	if err == nil {
		defer c.end()
		err = c.await(rehearsalReady, readyTimeout)
	}
	if err == nil {
		err = d.stopAsked()
	}
	if err != nil {
		d.keepSockets()
		d.log.Error("not upgraded; clients are served on", "error", err)
		return upgradeError(err)
	}
	d.log.Info("upgrading: clients have to connect again")
	defer d.urgency.hold()()
	d.logError(d.server().Close())
	resume := d.frontswap.Quiesce()
	if err = c.rehearse(d.rehearsalTime()); err == nil {
		d.log.Info("the new program can take over")
		if err = d.stopAsked(); err == nil {
			c.handTo(h)
			err = h.become(program)
		}
	}
	resume()
	d.log.Error("not upgraded; clients are served as before", "error", err)
	return errors.Join(upgradeError(err), d.serveAgain(h))
}

// rehearsalTime is how long clients wait for a rehearsal: a fraction of what each page
// takes has to do. If it is stuck, it may be in waiting for them.
func (d *Daemon) rehearsalTime() time.Duration {
	const slowest = 100_000 // pages a second; it goes ten times as fast
	pages := int64(0)
	for _, e := range d.list() {
		pages += e.size() / pageSize
	}
	return 30*time.Second + time.Duration(pages/slowest)*time.Second
}

// unfit says why this process cannot be upgraded under the swap of its own host, or
// nothing.
func unfit(protection protect.Report, release string) string {
	if missing := protection.Missing(); len(missing) > 0 {
		return "protection is missing (see tmemctl doctor): " + strings.Join(missing, ", ")
	}
	if !protect.LendsHalf(release) {
		// A guest (6.1) hung when another process took all memory at the same time:
		// after execve the new program came to no end.
		return "Linux " + release + " lends a new program too little of its reserve; 6.3 and later do"
	}
	return ""
}

func upgradeError(err error) *admin.Error {
	return &admin.Error{
		Status: http.StatusInternalServerError, Message: "not upgraded, and serving on as before: " + err.Error(),
		Hint: "put that right, then upgrade again",
	}
}

// stopAsked is an error if somebody asked for a stop meanwhile: the new program
// would know nothing of it.
func (d *Daemon) stopAsked() error {
	if d.stopping.Load() || len(d.signals) > 0 {
		return errors.New("a stop was asked for meanwhile")
	}
	return nil
}

// hold keeps moves from beginning until release, if none is under way; else it
// names a backend whose pages somebody is having moved.
func (ms *moves) hold() (name string, busy bool) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.held = len(ms.running) == 0
	for name := range ms.running {
		return name, true
	}
	return "", false
}

func (ms *moves) release() {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.held = false
}

// serveAgain serves on the sockets that were to be handed over.
func (d *Daemon) serveAgain(h *handover) error {
	if err := d.reviveNBD(); err != nil {
		return fmt.Errorf("cannot serve again: %w", err)
	}
	var errs []error
	for i, b := range d.bound {
		l, err := h.listener(nbdSocket(i))
		if b.file != nil {
			l, err = inherit(b.file)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d.serveNBD(i, l)
	}
	d.keepSockets() // those that were never closed
	return errors.Join(errs...)
}

// keepSockets makes the sockets' files go with their listeners again.
func (d *Daemon) keepSockets() {
	for _, l := range d.sockets() {
		unlinkOnClose(l, true)
	}
}

// unlinkOnClose says whether the socket's file goes with the listener.
func unlinkOnClose(l net.Listener, unlink bool) {
	if unix, ok := l.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(unlink)
	}
}

// sockets are the listeners that are served, by the names that they are handed
// over under.
func (d *Daemon) sockets() map[string]net.Listener {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.served)
}

func nbdSocket(i int) string { return fmt.Sprintf("nbd%d", i) }

const (
	adminSocket   = "admin"
	metricsSocket = "metrics"
)

// handOver collects what the next program needs. Listeners that are closed from
// now on leave their sockets as they are.
func (d *Daemon) handOver() (*handover, error) {
	h := &handover{}
	h.add("lock", d.folder.Lock())
	h.add("memory", d.memory.Lock())
	for i, f := range d.options.Inherited {
		h.add(fmt.Sprintf("%s%s/%03d", inheritedPrefix, f.Name(), i), f)
	}
	for name, l := range d.sockets() {
		if d.isInherited(name) {
			continue
		}
		unlinkOnClose(l, false)
		file, err := l.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			h.close()
			return nil, fmt.Errorf("hand a socket over: %w", err)
		}
		h.own = append(h.own, file)
		h.add(name, file)
	}
	return h, nil
}

// isInherited says whether the listener of that name is on a socket of the service
// manager's, which is handed over as it came.
func (d *Daemon) isInherited(name string) bool {
	if name == adminSocket {
		return slices.ContainsFunc(d.options.Inherited, func(f *os.File) bool { return f.Name() == adminName })
	}
	for i, b := range d.bound {
		if name == nbdSocket(i) {
			return b.file != nil
		}
	}
	return false
}

// Upgrade implements admin.Service.
func (s service) Upgrade() error { return s.d.upgrade() }

// logUpgrade is for an upgrade that a signal asked for, and that was not possible.
func (d *Daemon) logUpgrade(err error) {
	d.log.Error("asked to upgrade by a signal", "error", err)
}
