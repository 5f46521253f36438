package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

// An upgrade replaces the program of the running process (execve), so that the
// process id, the locks and the listening sockets stay:
//
//	1  connections are closed, requests in flight are finished; new connections wait
//	   in the sockets' queues
//	2  a child with the new program goes through a takeover, with everything as it
//	   is now, up to the point where that would change something
//	3  if the child says that it works, the process becomes the new program, which
//	   takes over as it does after a kill; else it serves on
//
// The other way, a second process that serves while the first one ends, changes the
// process id under service managers and shells, and gains nothing: the memory has
// one user at a time in any case.

// rehearsalTimeout bounds step 2.
const rehearsalTimeout = 5 * time.Minute

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
	if hostKernelStays(d.server().Clients, commandOf) {
		// A guest whose memory was exhausted hung: the new program needs memory while
		// nobody serves the swap that would free some, and execve gives up the locks
		// that keep pages in memory from being swapped themselves.
		return &admin.Error{
			Status: http.StatusConflict, Message: "this host swaps through this tmemd, and may hang while nobody serves it",
			Hint: "tmemctl detach its devices first, upgrade, and attach them again",
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
	program := d.options.Program
	if err := unix.Access(program, unix.X_OK); err != nil {
		return upgradeError(fmt.Errorf("%s: %w", program, err))
	}
	d.log.Info("upgrading: clients have to connect again", "program", program)
	h, err := d.handOver()
	if err != nil {
		d.keepSockets()
		return upgradeError(err)
	}
	defer h.close()
	d.logError(d.server().Close())
	resume := d.frontswap.Quiesce()
	err = d.rehearse(program, h)
	if err == nil {
		d.log.Info("the new program can take over")
		if err = d.stopAsked(); err == nil {
			err = h.become(program)
		}
	}
	resume()
	d.log.Error("not upgraded; clients are served as before", "error", err)
	return errors.Join(upgradeError(err), d.serveAgain(h))
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

// rehearse has a child find out whether the new program can take over.
func (d *Daemon) rehearse(program string, h *handover) error {
	ctx, cancel := context.WithTimeout(context.Background(), rehearsalTimeout)
	defer cancel()
	reader, writer, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("rehearse the takeover: %w", err)
	}
	defer reader.Close()
	locks := h.locks() // no socket: that would be made blocking on the way
	child, err := os.StartProcess(program, os.Args, &os.ProcAttr{
		Env: append(os.Environ(), locks.describe(heirRehearses, func(i int) int { return 3 + i })), Files: append([]*os.File{nil, writer, writer}, locks.files...),
		Sys: &unix.SysProcAttr{Pdeathsig: unix.SIGKILL},
	})
	writer.Close()
	if err != nil {
		return fmt.Errorf("start the new program: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = child.Kill() }) // its error is that it ended
	defer stop()
	var said bytes.Buffer
	const most = 16 << 10
	buffer := make([]byte, 4<<10)
	for {
		n, err := reader.Read(buffer)
		if said.Len() < most {
			said.Write(buffer[:n])
		}
		if err != nil {
			break
		}
	}
	state, err := child.Wait()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("the new program did not find out within %v whether it can take over", rehearsalTimeout)
	case err != nil:
		return fmt.Errorf("wait for the new program: %w", err)
	case !state.Success() || !strings.Contains(said.String(), rehearsed):
		return fmt.Errorf("the new program cannot take over (%v): %s", state, strings.TrimSpace(said.String()))
	}
	return nil
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
