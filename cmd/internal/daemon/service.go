package daemon

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/protect"
	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/metrics"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/tier"
)

// service is the daemon as the admin API sees it.
type service struct{ d *Daemon }

var _ admin.Service = service{}

// snapshot asks every part how it is. Metrics and the admin API show the same.
func (d *Daemon) snapshot() metrics.Snapshot {
	s := metrics.Snapshot{
		Version: d.options.Version, Revision: revision(), Health: d.health(), Backends: d.frontswap.Backends(), Protection: map[string]bool{},
		ProtectionWanted: d.options.Protection.Wanted,
	}
	for _, m := range d.options.Protection.Measures {
		s.Protection[m.Name] = m.State == protect.Done
	}
	d.exportsMu.RLock()
	for _, e := range d.exports {
		s.Exports = append(s.Exports, metrics.Export{Name: e.Name, Size: e.size(), Stats: e.device.Stats()})
	}
	for _, served := range d.bases {
		s.Disks = append(s.Disks, served.snapshot())
	}
	for _, served := range d.disks {
		s.Disks = append(s.Disks, served.snapshot())
	}
	d.exportsMu.RUnlock()
	if server := d.server(); server != nil {
		s.NBD = server.Stats()
	}
	s.Moves = metrics.Moves{
		Away: len(d.listMoved()), Done: d.transfers.moved.Load(), Failed: d.transfers.failed.Load(), Pause: time.Duration(d.transfers.pause.Load()),
	}
	s.Clients = d.frontswap.Clients()
	s.Memory = append(s.Memory, d.buffers.Usage())
	s.Ramsters, s.Lent = countRemotes(s.Backends), d.lent.count()
	return s
}

// Status implements admin.Service.
func (s service) Status() admin.Status {
	d, snapshot := s.d, s.d.snapshot()
	status := admin.Status{
		Version:  d.options.Version,
		PID:      os.Getpid(),
		Started:  d.started,
		Phase:    phaseNames[d.phase.Load()],
		StateDir: d.config.StateDir,
		Kinds:    Kinds(),
		Exports:  d.showExports(snapshot),
		Disks:    showDisks(snapshot),
		Backends: showBackends(snapshot.Backends),
		Clients:  showClients(d.server().Clients()),
		Memory:   []admin.Memory{},
		TLS:      d.showTLS(),

		Protection: []admin.Protection{},
	}
	for _, m := range d.options.Protection.Measures {
		status.Protection = append(status.Protection, admin.Protection{Measure: m.Name, State: string(m.State), Why: m.Why, Cure: m.Cure})
	}
	for _, a := range d.bound {
		status.Listen = append(status.Listen, a.String())
	}
	if d.metrics != nil {
		status.Metrics = metricsURL(d.metricsAddr)
	}
	for _, u := range snapshot.MemoryByPurpose() {
		status.Memory = append(status.Memory, admin.Memory{Purpose: u.Purpose, Mapped: u.Mapped, Resident: u.Resident})
	}
	return status
}

func metricsURL(address string) string { return "http://" + address + "/metrics" }

// Journal implements admin.Service.
func (s service) Journal() admin.Journal { return s.d.options.Journal }

// Exports implements admin.Service.
func (s service) Exports() []admin.Export { return s.d.showExports(s.d.snapshot()) }

// Backends implements admin.Service.
func (s service) Backends() []admin.Backend { return showBackends(s.d.frontswap.Backends()) }

// Load implements admin.Service.
func (s service) Load(r admin.LoadRequest) (admin.Backend, error) {
	c, err := s.checkLoad(r)
	if err != nil {
		return admin.Backend{}, err
	}
	if err := s.d.loadRequested(c); err != nil {
		return admin.Backend{}, err
	}
	b, found := findBackend(s.d.frontswap, c.Name)
	if !found {
		return admin.Backend{}, errors.New("backend " + c.Name + " was loaded, and unloaded at once by somebody else")
	}
	return showBackend(b), nil
}

// checkLoad fills in what a request leaves out.
func (s service) checkLoad(r admin.LoadRequest) (config.Backend, error) {
	if !slices.Contains(Kinds(), r.Kind) {
		return config.Backend{}, &admin.Error{
			Status: http.StatusBadRequest, Message: fmt.Sprintf("there is no backend of the kind %q", r.Kind),
			Hint: "use " + strings.Join(Kinds(), " or "),
		}
	}
	name := r.Name
	if name == "" {
		name = r.Kind
	}
	if wrong := config.CheckBackendName(name); wrong != nil {
		return config.Backend{}, &admin.Error{Status: http.StatusBadRequest, Message: wrong.Problem, Hint: wrong.Hint}
	}
	c, wrong := config.NewBackend(r.Kind, name, r.Size, settingsOf(r.Settings), s.d.config.Ramster, s.d.options.RAM)
	if wrong != nil {
		return config.Backend{}, badSetting(wrong)
	}
	return c, nil
}

// Unload implements admin.Service.
func (s service) Unload(name string) (admin.Move, error) {
	m, err := s.d.moves.unload(name)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (d *Daemon) showExports(s metrics.Snapshot) []admin.Export {
	exports := []admin.Export{}
	for _, m := range d.listMoved() {
		exports = append(exports, admin.Export{Name: m.Name, SizeBytes: m.Size, MovedTo: m.Moved, Errors: map[string]uint64{}})
	}
	for _, x := range s.Exports {
		e := admin.Export{
			Name: x.Name, Client: x.Stats.Area.Client, UsedBytes: x.Stats.Area.Used, SizeBytes: x.Size, Errors: map[string]uint64{},
			Pages: admin.PagesByOwner{
				None: x.Stats.Area.None, Storage: x.Stats.Area.Storage, Hole: x.Stats.Area.Hole, Lost: x.Stats.Area.Lost, Backends: x.Stats.Area.Backends,
			},
			Loads: x.Stats.Area.Loads, SuccStores: x.Stats.Area.SuccStores, FailedStores: x.Stats.Area.FailedStores,
			Invalidates: x.Stats.Area.Invalidates, LoadErrors: x.Stats.Area.LoadErrors,
			Storage:      showStorage(x.Stats.Storage),
			Writethrough: x.Stats.Writethrough.String(), PendingBlocks: x.Stats.SyncBlocks, RescuedPages: x.Stats.Rescued,
		}
		for _, n := range s.NBD.Exports {
			if n.Name != x.Name {
				continue
			}
			e.Clients = n.Clients
			for command := range nbd.CommandCount {
				e.Errors[command.String()] = n.Commands[command].Errors
			}
		}
		exports = append(exports, e)
	}
	return exports
}

func showStorage(s tier.StorageStats) admin.Storage {
	return admin.Storage{
		Path: s.Path, Direct: s.Direct, AllocatedBytes: s.AllocatedSize,
		PagesRead: s.PagesRead, PagesWritten: s.PagesWritten, PagesPunched: s.PagesPunched,
		ReadErrors: s.ReadErrors, WriteErrors: s.WriteErrors, PunchErrors: s.PunchErrors,
	}
}

func showBackends(list []frontswap.BackendStatus) []admin.Backend {
	shown := []admin.Backend{}
	for _, b := range list {
		shown = append(shown, showBackend(b))
	}
	return shown
}

func showBackend(b frontswap.BackendStatus) admin.Backend {
	shown := admin.Backend{
		Name: b.Name, Kind: b.Kind, State: b.State.String(), Reason: b.Reason,
		Pages: b.Pages, EphemeralPages: b.Stats.EphemeralPages, SameFilledPages: b.Stats.SameFilledPages,
		StoredBytes: b.Stats.StoredBytes, HeldBytes: b.Stats.HeldBytes, LimitBytes: b.Stats.LimitBytes,
		MaxBytes: b.Stats.MaxBytes, Stall: b.Stats.Stall, IncompressiblePages: b.Stats.Incompressible,
		SharedPages: b.Stats.SharedPages, SharedContents: b.Stats.SharedContents, SharedSavedBytes: b.Stats.SharedSaved,
		Stores:  b.Stats.Refused[backends.Accepted],
		Refused: map[string]uint64{}, Moved: map[string]uint64{}, LoadErrors: b.LoadErrors, CorruptLoads: b.Stats.CorruptLoads,
	}
	for reason := backends.Accepted + 1; reason < backends.Refusals; reason++ {
		shown.Refused[reason.String()] = b.Stats.Refused[reason]
	}
	for movement := range backends.Movements {
		shown.Moved[movement.String()] = b.Stats.Moved[movement]
	}
	shown.Settings, shown.Codecs = showSettings(b.Backend), []admin.Codec{}
	for _, c := range b.Stats.Codecs {
		shown.Codecs = append(shown.Codecs, admin.Codec{Name: c.Name, Pages: c.Pages, Bytes: c.Bytes})
	}
	if !b.Drain.Started.IsZero() {
		p := progress(b.Drain, time.Now())
		shown.Drain = &p
	}
	return shown
}

func showClients(list []nbd.Client) []admin.Attachment {
	shown := []admin.Attachment{}
	for _, c := range list {
		a := admin.Attachment{Remote: c.Remote, Export: c.Export, Since: c.Since, Encrypted: c.Encrypted, Certificate: c.Certificate}
		if c.Credentials != nil {
			a.PID = c.Credentials.PID
		}
		shown = append(shown, a)
	}
	return shown
}
