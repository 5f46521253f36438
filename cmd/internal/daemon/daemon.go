package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/journal"
	"github.com/tmemd/tmemd/cmd/internal/protect"
	"github.com/tmemd/tmemd/cmd/internal/state"
	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/metrics"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/tier"
)

const pageSize = backends.PageSize

// Options is what a daemon is made of.
type Options struct {
	Config  *config.Config
	Version string
	RAM     int64  // bytes, for sizes in percent
	BootID  string // of this boot of the machine
	Log     *slog.Logger
	Journal *journal.Journal // keeps what is logged; nil keeps nothing

	// Settings reads the command line and the configuration file anew, for a reload. Nil
	// leaves the file alone.
	Settings func() (*config.Config, error)

	// Inherited are sockets that the service manager listens on, by the names
	// that it gave them. The daemon closes them.
	Inherited []*os.File

	// Protection is what was done for swap of this host.
	Protection protect.Report
	Urgent     bool // it is in the realtime class, as this host's kernel was a client of the program before

	Program  string           // path of this program, to be replaced by a newer one
	Upgrades <-chan os.Signal // ask for an upgrade; may be nil
	Heir     *Heir            // what the process before this one handed over, or nil

	// OpenStorage opens the storage of an export. Nil opens its file or device;
	// tests put faults between.
	OpenStorage func(config.Export) (tier.Storage, error)

	// LookUp finds the SRV records of a name. Nil asks DNS.
	LookUp func(ctx context.Context, name string) ([]*net.SRV, error)
}

// Daemon is one running instance. Run drives it; the admin API and metrics read
// it from their own goroutines.
type Daemon struct {
	config  *config.Config // immutable
	options Options        // immutable
	log     *slog.Logger   // immutable
	started time.Time      // immutable

	folder      *state.Folder // immutable after Open, as is all down to bound
	identity    sharedmem.Identity
	memory      *sharedmem.Folder // nil: memory ends with the process
	record      *sharedmem.Region // which backends there are, with memory; written under frontswap's lock
	draining    []string          // backends that were being unloaded when another process took over
	frontswap   *frontswap.Frontswap
	cleancache  *cleancache.Cleancache
	buffers     tier.Buffers // of the storage of exports and disks
	bases       []*servedBase
	moves       *moves
	faults      faults
	admin       *admin.Server
	metrics     *metrics.Server // nil if metrics are off
	metricsAddr string
	adminAddr   config.Address
	bound       []bound // where NBD is served

	complete atomic.Bool  // the backends of the configuration were loaded
	phase    atomic.Int32 // a phase
	unserved atomic.Int32 // sockets that broke
	loading  sync.Mutex   // see the package comment
	nextID   uint32       // of an export, above all others; guarded by loading once the daemon runs

	mu     sync.Mutex
	nbd    *nbd.Server             // guarded by mu
	served map[string]net.Listener // guarded by mu; see sockets

	nbdKeys, ramsterKeys, donorKeys certificates

	written   config.Written // what the file said when it was last applied; guarded by reloading
	reloading sync.Mutex     // one reload at a time
	unreached sync.Map       // by address of a donor: why it was not connected to the last time
	look      chan struct{}  // asks for a look at who donors are; immutable after Open
	lent      *lending       // memory that is lent; nil if none is; immutable after Open

	deleted   []state.Export // guarded by loading once the daemon runs
	restoring []state.Export // exports that are being restored and not served yet; guarded like deleted
	transfers transfers
	clients   []state.Client // guarded by loading once the daemon runs

	exportsMu sync.RWMutex
	exports   []*export      // guarded by exportsMu, as disks; their devices are open while it is held
	disks     []*servedDisk  // those of the configuration first, to begin with
	moved     []state.Export // exports that another daemon has now; guarded by exportsMu

	absent   []state.Disk // made by requests, and not open; guarded by loading once the daemon runs
	nextDisk uint32       // see newDiskID; guarded likewise

	signals  <-chan os.Signal // Run's, for upgrades to see whether a stop is waiting; set before anything is served
	stopping atomic.Bool      // a stop was asked for

	urgency *urgency // nil if there is no class to be in; set before anything is served
	calm    func()   // ends the watches over the scheduling class and over donors; nil before Run, used by Run only

	listeners listeners      // bound and not served yet; used by Open and Run only
	running   sync.WaitGroup // everything that serves; used by Run only
}

// listeners are sockets that nobody accepts from yet.
type listeners struct {
	admin, metrics net.Listener
	nbd, lent      []net.Listener
}

// phase is where a daemon is on its way to its end.
type phase int32

const (
	phaseServing phase = iota
	phaseDraining
	phaseWaiting
	phaseSettling
)

var phaseNames = [...]string{admin.PhaseServing, admin.PhaseDraining, admin.PhaseWaiting, admin.PhaseSettling}

// Open takes the state folder, binds every address, opens storage and loads
// backends. Nothing is served before Run. An error leaves nothing open.
func Open(o Options) (*Daemon, error) {
	d := &Daemon{config: o.Config, options: o, log: o.Log, started: time.Now(), nextID: 1, written: o.Config.Written(), served: map[string]net.Listener{}, look: make(chan struct{}, 1)}
	if d.options.Journal == nil {
		d.options.Journal = journal.New(slog.LevelInfo)
	}
	d.faults.allowed = d.config.AllowFaults
	if d.faults.allowed {
		d.log.Warn("faults are allowed: tmemctl fault can make backends and storage fail")
	}
	if d.options.OpenStorage == nil {
		d.options.OpenStorage = d.openFile
	}
	if err := d.open(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	d.options.Heir.close()
	return d, nil
}

func (d *Daemon) open() (err error) {
	if err := d.takeFolder(); err != nil {
		return err
	}
	p, last, err := d.plan()
	if err != nil {
		return err
	}
	d.exports, d.deleted, d.moved, d.clients = p.exports, p.deleted, p.moved, p.clients
	d.keepDisks(last)
	if err := d.loadKeys(); err != nil {
		return err
	}
	d.number(last)
	if err := d.bind(); err != nil {
		return err
	}
	if err := d.openMemory(p, last); err != nil {
		return err
	}
	d.makeFrontswap()
	if p.empty {
		// From here on storage is not what the last run left, and not empty yet either.
		if err := d.saveStateOf(emptyingBoot, false); err != nil {
			return err
		}
	}
	loaded := false
	if p.takeover {
		if loaded, err = d.takeOver(); err != nil {
			d.memory.Leave()
			return err
		}
	}
	if err := d.openRest(p, loaded); err != nil {
		if p.takeover {
			d.memory.Leave()
		}
		return err
	}
	return nil
}

func (d *Daemon) takeFolder() (err error) {
	if lock := d.options.Heir.take("lock"); lock != nil {
		d.folder, err = state.Inherit(d.config.StateDir, lock)
		return err
	}
	d.folder, err = state.Open(d.config.StateDir)
	var inUse *state.InUseError
	switch {
	case errors.As(err, &inUse):
		return d.config.Fault("state_dir", "stop the other one, or give this one a folder of its own with --state-dir", err)
	case errors.Is(err, os.ErrPermission):
		return d.config.Fault("state_dir", "give --state-dir a folder that this user may write to", err)
	case err != nil:
		return d.config.Fault("state_dir", "", err)
	}
	return nil
}

func (d *Daemon) plan() (p plan, last state.State, err error) {
	last, found, err := d.folder.Load()
	switch {
	case errors.Is(err, state.ErrDamaged) && d.config.Fresh:
	case errors.Is(err, state.ErrDamaged):
		return plan{}, last, cli.Failure(freshHint, "%v", err)
	case err != nil:
		return plan{}, last, err
	}
	if _, missing := os.Stat(last.Memory); found && !hasExports(last) && errors.Is(missing, os.ErrNotExist) {
		last.Memory = "" // what was lent is gone with it, and nothing else was there
	}
	if err := d.dropRestored(&last); err != nil {
		return plan{}, last, err
	}
	p, err = makePlan(d.config, last, found, d.options.BootID)
	if err == nil {
		err = p.complete(last, d.config)
	}
	if p.warning != "" {
		d.log.Warn(p.warning, "state_dir", d.config.StateDir)
	}
	for _, note := range p.notes {
		d.log.Info(note)
	}
	return p, last, err
}

// emptyingBoot stands for the boot while storage is being emptied: if that does not
// come to its end, the next start empties it again.
const emptyingBoot = "emptying"

func (d *Daemon) saveState(clean bool) error { return d.saveStateOf(d.options.BootID, clean) }

func (d *Daemon) saveStateOf(boot string, clean bool) error {
	s := state.State{BootID: boot, Clean: clean, Identity: d.identity.String(), NextID: d.nextID}
	if d.memory != nil {
		s.Memory = d.memory.Path()
	}
	for _, e := range d.list() {
		s.Exports = append(s.Exports, e.state())
	}
	s.Exports = append(s.Exports, d.deleted...)
	s.Exports = append(s.Exports, d.restoring...)
	s.Exports = append(s.Exports, d.listMoved()...)
	s.Clients = d.clients
	s.Disks = d.savedDisks()
	return d.folder.Save(s)
}

// bind takes every address before anything is changed on storage.
func (d *Daemon) bind() error {
	if err := d.bindNBD(); err != nil {
		return err
	}
	if err := d.bindAdmin(); err != nil {
		return err
	}
	if err := d.bindLent(); err != nil {
		return err
	}
	d.warnSockets()
	d.admin = admin.NewServer(service{d}, d.log)
	return d.bindMetrics()
}

// listen binds an address, unless the socket was handed over.
func (d *Daemon) listen(name string, a config.Address, access config.Socket) (net.Listener, error) {
	if l, ok := d.options.Heir.listener(name, a.Network, a.Address); ok {
		return l, nil
	}
	return listen(a, access)
}

func (d *Daemon) openDevices(empty bool) error {
	for i, e := range d.exports {
		if e.device != nil {
			continue // taken over
		}
		s, blank, err := d.openStorage(e.Export, empty || e.stale, e.takeover)
		if err != nil {
			return d.config.Fault(fmt.Sprintf("export[%d].storage", i), cureStorage(err), err)
		}
		if err := d.openDevice(e, s, blank); err != nil {
			return err
		}
	}
	return nil
}

// openDevice makes the device of an export. The storage belongs to it, or is
// closed.
func (d *Daemon) openDevice(e *export, s tier.Storage, blank bool) (err error) {
	if err := e.identify(blank); err != nil {
		return errors.Join(err, s.Close())
	}
	s = d.faults.storage(e.Name, s)
	e.device, err = tier.Open(tier.Config{
		Name: e.Name, ID: e.id, Storage: s, Empty: blank, Touch: d.config.Touch, Takeover: e.takeover, Overcommit: e.overcommitted(), Client: e.Client, Frontswap: d.frontswap, Log: d.log,
	})
	if err != nil {
		return errors.Join(d.memoryError(fmt.Errorf("open export %s: %w", e.Name, err)), s.Close())
	}
	if !e.takeover { // else after Resume: it changes words
		e.device.SetWritethrough(e.Writethrough)
	}
	return nil
}

func (d *Daemon) newNBD() (*nbd.Server, error) {
	limits := d.config.NBD
	c := nbd.Config{
		Log:              d.log,
		OwnerContext:     "tmem:owner",
		HandshakeTimeout: limits.HandshakeTimeout,
		MaxConnections:   limits.MaxConnections,
		MaxHandshakes:    limits.MaxHandshakes,
		Workers:          limits.Workers,
		MaxOutstanding:   limits.MaxOutstanding,
		BufferBytes:      limits.BufferSize,
		StallTimeout:     limits.StallTimeout,
		TLS:              nbd.TLS{Mode: limits.TLS.Mode, Keys: d.nbdKeys.keys.Load},
		TouchBuffers:     d.options.Protection.Wanted,
	}
	for _, e := range d.list() {
		c.Exports = append(c.Exports, e.nbd())
	}
	for _, m := range d.listMoved() {
		c.Exports = append(c.Exports, movedExport(m))
	}
	for _, s := range d.listDisks() {
		c.Exports = append(c.Exports, s.nbd())
	}
	return nbd.NewServer(c)
}

func (d *Daemon) server() *nbd.Server {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.nbd
}

// close gives everything back, in whatever state Open or Run left it. Pages
// that backends hold are dropped.
func (d *Daemon) close() error {
	var errs []error
	d.transfers.end()
	for _, f := range d.options.Inherited {
		errs = append(errs, f.Close())
	}
	for _, l := range append(slices.Concat(d.listeners.nbd, d.listeners.lent), d.listeners.admin, d.listeners.metrics) {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	for name, l := range d.sockets() {
		if strings.HasPrefix(name, lentName) { // the others' servers close theirs
			errs = append(errs, l.Close())
		}
	}
	if s := d.server(); s != nil {
		errs = append(errs, s.Close())
	}
	if d.admin != nil {
		errs = append(errs, d.admin.Close())
	}
	if d.metrics != nil {
		errs = append(errs, d.metrics.Close())
	}
	if d.calm != nil {
		d.calm()
	}
	d.running.Wait()
	if d.frontswap != nil {
		errs = append(errs, d.closePages())
	}
	errs = append(errs, d.closeMemory())
	if d.folder != nil {
		errs = append(errs, d.folder.Close())
	}
	return errors.Join(errs...)
}
