package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/frontswap"
)

const (
	// remindEvery is how often the log says whom a stop is waiting for.
	remindEvery = 30 * time.Second
	// forceTimeout is how long a forced stop lets clients take their replies.
	forceTimeout = 10 * time.Second
)

// Run serves until a signal has stopped the daemon: see the package comment for
// how. It returns nil if everything is on storage and the state is clean. ready
// is called when clients can connect.
func (d *Daemon) Run(signals <-chan os.Signal, ready func()) error {
	d.signals = signals
	d.serve(ready)
	for {
		var s os.Signal
		select {
		case <-d.options.Upgrades:
			d.logUpgrade(d.upgrade())
			continue
		case s = <-signals:
		}
		d.stopping.Store(true)
		d.log.Info("stopping: pages go to storage, attached clients are served on", "signal", s.String())
		err := d.stop(signals)
		if err == nil {
			break
		}
		d.log.Error("the stop failed; nothing is lost, and clients are served as before; another signal tries again", "error", err)
		d.resume()
	}
	return d.close()
}

// serve starts everything that Open has prepared.
func (d *Daemon) serve(ready func()) {
	bound := d.listeners
	d.listeners = listeners{} // their servers close them from here on
	if d.options.Protection.Wanted {
		d.urgency = newUrgency(d.options.Protection.Urgent)
	}
	if d.options.Urgent {
		d.urgency.expect()
	}
	d.noteSocket(adminSocket, bound.admin)
	if d.metrics != nil {
		d.noteSocket(metricsSocket, bound.metrics)
	}
	d.running.Go(func() { d.logError(d.admin.Serve(bound.admin)) })
	if d.metrics != nil {
		d.running.Go(func() { d.logError(d.metrics.Serve(bound.metrics)) })
	}
	for i, l := range bound.nbd {
		d.serveNBD(i, l)
	}
	var ctx context.Context
	ctx, d.calm = context.WithCancel(context.Background())
	if d.options.Protection.Wanted {
		d.running.Go(func() { d.urgency.watch(ctx, d) })
	}
	d.running.Go(func() { d.watchDonors(ctx) })
	d.running.Go(func() { d.frontswap.Balance(ctx) })
	d.serveLent(bound.lent)
	d.goOnDraining()
	ready()
	d.running.Go(func() {
		if err := d.options.Heir.letGo(); err != nil {
			d.log.Warn("the child that held memory for the upgrade does not end", "error", err)
		}
	})
}

// noteSocket keeps a listener in mind, to be handed over.
func (d *Daemon) noteSocket(name string, l net.Listener) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.served[name] = l
}

// serveNBD serves on the i-th address.
func (d *Daemon) serveNBD(i int, l net.Listener) {
	d.noteSocket(nbdSocket(i), l)
	server := d.server()
	d.running.Go(func() { d.notServed(server.Serve(context.Background(), l)) })
}

// logError is for what cannot be reported to anybody: a listener broke. Clients
// that are attached do not need it.
func (d *Daemon) logError(err error) {
	if err != nil {
		d.log.Error("a socket is not served any more", "error", err)
	}
}

// stop takes the daemon down. On an error it is still up in part: resume brings
// it back.
func (d *Daemon) stop(signals <-chan os.Signal) error {
	d.enter(phaseDraining)
	d.transfers.end() // none can begin any more
	d.server().StopAccepting()
	hurry, err := d.drainAll(signals)
	if err != nil {
		return err
	}
	d.enter(phaseWaiting)
	if !hurry {
		d.awaitClients(signals)
	}
	d.enter(phaseSettling)
	d.closeNBD()
	for _, e := range d.list() {
		if err := e.device.Settle(); err != nil {
			return fmt.Errorf("export %s: %w", e.Name, err)
		}
	}
	if lost := d.lost(); lost > 0 {
		// Storage has something older of them: only the map knows. It stays for the
		// next run, which takes it over.
		if err := d.saveState(false); err != nil {
			return err
		}
		d.complete.Store(false) // the next run loads what is configured
		if err := d.frontswap.RecordAgain(); err != nil {
			return err
		}
		d.memory.Leave()
		d.log.Warn("stopped: storage has every page but those that were lost before; the page map stays, as they have to stay I/O errors", "lost", lost)
		return nil
	}
	if err := d.saveState(true); err != nil {
		return err
	}
	d.log.Info("stopped: storage has every page")
	return nil
}

// enter changes the phase. It waits for a load that is under way, and none can
// begin once it returns (E5).
func (d *Daemon) enter(p phase) {
	d.loading.Lock()
	defer d.loading.Unlock()
	d.phase.Store(int32(p))
	d.log.Debug("phase", "phase", phaseNames[p])
}

// drainAll unloads every backend. A signal meanwhile is remembered in hurry:
// pages are more important than whoever is in a hurry (E1).
func (d *Daemon) drainAll(signals <-chan os.Signal) (hurry bool, err error) {
	ended := make(chan error, 1)
	go func() { ended <- d.unloadAll() }()
	for {
		select {
		case err := <-ended:
			return hurry, err
		case <-signals:
			hurry = true
			d.log.Warn("will not wait for clients, but for pages: they are still being moved to storage")
		}
	}
}

// unloadAll unloads one backend after the other, so that storage sees one
// sequential stream; the last first, so that no page moves through the chain.
// It joins unloads and replacements that are under way; what these load is
// unloaded too. An unload that somebody cancelled just before is begun anew, and so
// is a replacement that did not come off: that may have been refused for a reason
// that is no obstacle to unloading.
func (d *Daemon) unloadAll() error {
	for {
		loaded := d.frontswap.Backends()
		if len(loaded) == 0 {
			return nil
		}
		name := loaded[len(loaded)-1].Name
		m, err := d.moves.unload(name)
		if err != nil {
			continue // it went meanwhile
		}
		<-m.done
		if m.err == nil || errors.Is(m.cause, frontswap.ErrCancelled) || m.order.operation != admin.OperationUnload {
			continue
		}
		if _, stays := findBackend(d.frontswap, name); stays {
			return m.err
		}
		d.log.Warn("backend gone, not without trouble", "backend", name, "error", m.err)
	}
}

// awaitClients waits until the last client has left, or for a signal.
func (d *Daemon) awaitClients(signals <-chan os.Signal) {
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan error, 1)
	go func() { left <- d.server().Shutdown(ctx, false) }()
	defer func() {
		cancel()
		<-left
	}()
	remind := time.NewTicker(remindEvery)
	defer remind.Stop()
	d.logClients()
	for {
		select {
		case err := <-left:
			left <- err
			return
		case <-signals:
			d.log.Warn("not waiting for clients any longer: their requests will fail")
			return
		case <-remind.C:
			d.logClients()
		}
	}
}

// logClients says whom the daemon is waiting for.
func (d *Daemon) logClients() {
	clients := d.server().Clients()
	if len(clients) == 0 {
		return
	}
	var names []string
	for _, c := range clients {
		name := c.Remote
		if c.Credentials != nil {
			name = fmt.Sprintf("process %d", c.Credentials.PID)
		}
		names = append(names, name+" on "+c.Export)
	}
	d.log.Info("everything is on storage; waiting for clients to leave (tmemctl detach there, or swapoff and nbd-client -d); another signal does not wait",
		"clients", strings.Join(names, ", "))
}

// closeNBD ends the NBD server. When it returns no request is under way, and
// none will be.
func (d *Daemon) closeNBD() {
	server := d.server()
	ctx, cancel := context.WithTimeout(context.Background(), forceTimeout)
	defer cancel()
	// With the last client gone this is a moment. Its error is clients that do
	// not take their replies; Close cuts them.
	if err := server.Shutdown(ctx, true); err != nil {
		d.log.Warn("clients were cut off", "error", err)
	}
	d.logError(server.Close())
}

// resume serves again after a stop that failed.
func (d *Daemon) resume() {
	if phase(d.phase.Load()) == phaseSettling {
		if err := d.reviveNBD(); err != nil {
			d.log.Error("cannot serve again; another signal tries to stop again", "error", err)
			return
		}
	}
	var errs []error
	for i, b := range d.bound {
		l, err := d.listenAgain(b)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d.serveNBD(i, l)
	}
	errs = append(errs, d.recordComplete())
	d.notServed(errors.Join(errs...))
	d.stopping.Store(false)
	d.enter(phaseServing)
}

// reviveNBD makes a new NBD server for one that was closed. The state may say
// clean by now, even though saving it failed; nobody may write before it does
// not (E2).
func (d *Daemon) reviveNBD() error {
	if err := d.saveState(false); err != nil {
		return err
	}
	server, err := d.newNBD()
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nbd = server
	return nil
}
