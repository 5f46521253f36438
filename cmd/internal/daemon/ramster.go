package daemon

import (
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/ramster"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

var ramsterKind = kind{
	create: func(c config.Backend, s site) (backends.Backend, error) {
		r := c.Ramster
		if r.Copies == 0 && s.copied {
			r.Copies = 1
		}
		r.Config = s.complete(r.Config)
		cache, err := ramster.New(r.Config)
		if err != nil {
			return nil, err
		}
		return newRemote(cache, r, nil, s.log), nil
	},
	reopen: func(settings json.RawMessage, s site) (backends.Backend, error) {
		var r recordedRemote
		if err := decodeSettings(ramster.Kind, settings, &r); err != nil {
			return nil, err
		}
		cache, err := ramster.Open(s.complete(r.Config))
		if err != nil {
			return nil, err
		}
		return newRemote(cache, config.Ramster{DonorsFile: r.DonorsFile, DonorsService: r.DonorsService}, r.Listed, s.log), nil
	},
	describe: func(b backends.Backend) (string, any) {
		r := b.(*remote)
		c := r.Config()
		return c.Memory.Name, recordedRemote{Config: c, DonorsFile: r.file, DonorsService: r.service, Listed: r.names()}
	},
	files:   []string{".arena", ".chunks", ".ledger"},
	orphans: func(b backends.Backend) int64 { return b.(*remote).Orphans() },
	show: func(b backends.Backend) []config.Setting {
		r := b.(*remote)
		return config.RamsterSettings().Show(config.Ramster{Config: r.Config(), DonorsFile: r.file, DonorsService: r.service})
	},
	set: func(backends.Backend, []config.Setting, int64) error {
		return cli.Misuse("tmemctl donor add and remove change who has pages; for the rest load another one in its place: tmemctl backend replace",
			"the settings of a ramster stay as they are while it is loaded")
	},
}

// complete adds what the configuration does not have.
func (s site) complete(c ramster.Config) ramster.Config {
	c.Identity, c.Memory, c.Dial, c.Log = s.identity, s.at, s.dial, s.log
	return c
}

// remote is a ramster, with who tells it of donors beside the operator.
type remote struct {
	*ramster.Cache
	file, service string // immutable

	mu           sync.Mutex
	filed, named []ramster.Donor // what they say; guarded by mu
	listed       map[string]bool // names of donors that come from there; guarded by mu
}

// newRemote reads the file. Who DNS knows is seen when it is asked.
func newRemote(cache *ramster.Cache, c config.Ramster, listed []string, log *slog.Logger) *remote {
	r := &remote{Cache: cache, file: c.DonorsFile, service: c.DonorsService, listed: map[string]bool{}}
	for _, d := range cache.Config().Donors {
		if !slices.Contains(listed, d.Name) {
			continue
		}
		// Until there is better news they are what they were.
		r.listed[d.Name] = true
		r.named = append(r.named, d)
	}
	if r.file == "" {
		return r
	}
	list, wrong := config.ReadDonors(r.file)
	if wrong != nil {
		log.Error("the donors of a file are not used", "donors_file", r.file, "error", wrong)
		return r
	}
	r.filed = list
	if r.service == "" {
		r.named = nil
	}
	return r
}

// recordedRemote is what a process that takes over has to know of one.
type recordedRemote struct {
	ramster.Config
	DonorsFile    string   `json:",omitempty"`
	DonorsService string   `json:",omitempty"`
	Listed        []string `json:",omitempty"`
}

// names are those of listed.
func (r *remote) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.listed))
}

func (r *remote) setFiled(list []ramster.Donor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.filed = list
	if r.service == "" {
		r.named = nil
	}
}

func (r *remote) setNamed(list []ramster.Donor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.named = list
}

// list makes the donors that file and DNS name those that there are, and leaves the
// operator's alone. It returns whether there is something to record.
func (r *remote) list(log *slog.Logger) (changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := slices.Concat(r.filed, r.named)
	for _, d := range r.Config().Donors {
		if !r.listed[d.Name] || slices.Contains(now, d) {
			continue
		}
		delete(r.listed, d.Name)
		changed = true
		if err := r.RemoveDonor(d.Name, false); err != nil && !errors.Is(err, ramster.ErrUnknown) {
			log.Warn("a donor that is listed no more stays", "donor", d.Name, "error", err)
			continue
		}
		log.Info("donor is listed no more: its pages move to others", "donor", d.Name, "address", d.Address)
	}
	for _, d := range now {
		if slices.Contains(r.Config().Donors, d) {
			continue
		}
		// One of that name or address may be on its way out: then it is tried again.
		if err := r.AddDonor(d); err != nil {
			log.Warn("a donor that is listed is not used for now", "error", err)
			continue
		}
		r.listed[d.Name] = true
		changed = true
		log.Info("donor is listed", "donor", d.Name, "address", d.Address)
	}
	return changed
}
