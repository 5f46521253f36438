package statuspage

import (
	"cmp"
	"runtime"
	"slices"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/latency"
	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/metrics"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/tier"
)

// maxRows bounds each list whose length an operator decides (P4).
const maxRows = 20

// View is what the page shows. Counters are totals since the daemon started, sizes are bytes.
type View struct {
	Time     int64  `json:"time"`    // of the sample, in milliseconds since 1970
	Started  int64  `json:"started"` // likewise; another one means that counters began anew
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Go       string `json:"go"`
	Phase    string `json:"phase"`
	Unready  string `json:"unready,omitempty"`

	Pages    Pages     `json:"pages"` // of all exports
	Requests []Request `json:"requests"`
	Bounds   []float64 `json:"bounds"` // of Request.Buckets, in seconds; the last bucket has none
	Clients  int       `json:"clients"`
	Refused  uint64    `json:"refused_connections"`
	Storage  Storage   `json:"storage"`

	Backends []Backend `json:"backends"`
	Exports  []Export  `json:"exports"`
	Disks    []Disk    `json:"disks"`
	Donors   []Donor   `json:"donors"`
	Lent     *Lent     `json:"lent,omitempty"`
	LeftOut  int       `json:"left_out"` // exports, disks and borrowers that the lists have no room for
	Memory   []Memory  `json:"memory"`
	Measures []Measure `json:"measures"` // for swap of the daemon's own host; empty if they are not wanted

	SampleEvery int `json:"sample_every"` // one page in so many is timed
	PageSize    int `json:"page_size"`
}

// Pages says who has pages.
type Pages struct {
	Total    int64            `json:"total"`
	None     int64            `json:"none"`
	Hole     int64            `json:"hole"`
	Lost     int64            `json:"lost"`
	Storage  int64            `json:"storage"`
	Backends map[string]int64 `json:"backends"`
}

// Request is about one NBD command.
type Request struct {
	Command string   `json:"command"`
	Count   uint64   `json:"count"`
	Errors  uint64   `json:"errors"`
	Bytes   uint64   `json:"bytes"`
	Buckets []uint64 `json:"buckets"` // by latency, not cumulative
}

// Storage is all storage together.
type Storage struct {
	Read      uint64 `json:"read"`    // pages
	Written   uint64 `json:"written"` // pages
	Errors    uint64 `json:"errors"`
	Allocated int64  `json:"allocated"`
	Live      int64  `json:"live"`
	Stale     int64  `json:"stale"`
	Reads     Times  `json:"reads"`
}

// Backend is one backend.
type Backend struct {
	Name      string            `json:"name"`
	Kind      string            `json:"kind"`
	State     string            `json:"state"`
	Pages     uint64            `json:"pages"`
	Ephemeral uint64            `json:"ephemeral"`
	Stored    uint64            `json:"stored"`
	Held      uint64            `json:"held"`
	Limit     uint64            `json:"limit"`
	Max       uint64            `json:"max"`
	Stall     float64           `json:"stall"`
	Accepted  uint64            `json:"accepted"`
	Refused   map[string]uint64 `json:"refused"`
	Errors    uint64            `json:"errors"`
	Loads     Times             `json:"loads"`
	Stores    Times             `json:"stores"`
	Move      *Move             `json:"move,omitempty"` // while one is under way
}

// Times are of the pages that were timed.
type Times struct {
	Count   uint64  `json:"count"`
	Seconds float64 `json:"seconds"`
}

// Move is pages leaving a backend.
type Move struct {
	Total uint64 `json:"total"`
	Moved uint64 `json:"moved"`
	Left  uint64 `json:"left"`
}

// Export is one export.
type Export struct {
	Name      string `json:"name"`
	Size      int64  `json:"size"`
	Clients   int    `json:"clients"`
	Pages     Pages  `json:"pages"`
	Reads     uint64 `json:"reads"`  // bytes
	Writes    uint64 `json:"writes"` // bytes
	Errors    uint64 `json:"errors"`
	Allocated int64  `json:"allocated"`
	Stale     int64  `json:"stale"`
	Mode      string `json:"mode"` // of writethrough
}

// Disk is one disk, or the base of some.
type Disk struct {
	Name    string `json:"name"`
	Size    int64  `json:"size"`
	Clients int    `json:"clients"`
	Mode    string `json:"mode"`
	Cached  int64  `json:"cached"` // pages
	Hits    uint64 `json:"hits"`
	Misses  uint64 `json:"misses"`
	Errors  uint64 `json:"errors"`
}

// Donor is a host that has pages of ours.
type Donor struct {
	Backend string  `json:"backend"`
	Name    string  `json:"name"`
	Up      bool    `json:"up"`
	Pages   int64   `json:"pages"`
	Free    uint64  `json:"free"`
	Wanted  uint64  `json:"wanted"`
	Seconds float64 `json:"seconds"`
	Bad     uint64  `json:"bad"` // answers that were no page of ours, or none at all
}

// Lent is memory that others have.
type Lent struct {
	Held      int64      `json:"held"`
	Limit     int64      `json:"limit"`
	Max       int64      `json:"max"`
	Frozen    bool       `json:"frozen"`
	Borrowers []Borrower `json:"borrowers"`
}

// Borrower is one who has it.
type Borrower struct {
	Name  string `json:"name"`
	Pages int64  `json:"pages"`
	Used  int64  `json:"used"`
	Quota int64  `json:"quota"`
}

// Memory is memory outside the Go heap.
type Memory struct {
	Purpose  string `json:"purpose"`
	Resident int64  `json:"resident"`
	Mapped   int64  `json:"mapped"`
}

// Measure is one against waiting for the memory that the daemon frees.
type Measure struct {
	Name string `json:"name"`
	On   bool   `json:"on"`
}

func newView(s metrics.Sample) View {
	v := View{
		Time: s.Time.UnixMilli(), Started: s.Health.Started.UnixMilli(),
		Version: s.Version, Revision: s.Revision, Go: runtime.Version(), Phase: s.Health.Phase, Unready: s.Unready,
		Pages: Pages{Backends: map[string]int64{}}, Backends: []Backend{}, Exports: []Export{}, Disks: []Disk{}, Donors: []Donor{},
		Memory: []Memory{}, Measures: []Measure{}, SampleEvery: latency.SampleEvery, PageSize: backends.PageSize,
	}
	v.addRequests(s.NBD)
	of := make(map[string]*nbd.ExportStats, len(s.NBD.Exports))
	for i := range s.NBD.Exports {
		of[s.NBD.Exports[i].Name] = &s.NBD.Exports[i]
	}
	for _, x := range s.Exports {
		v.addExport(x, of[x.Name])
	}
	for _, d := range s.Disks {
		v.addDisk(d, of[d.Name])
	}
	reads, _, _ := s.StorageTimes()
	v.Storage.Reads = times(reads)
	for _, b := range s.Backends {
		v.Backends = append(v.Backends, newBackend(b))
	}
	v.addRemotes(s.Ramsters, s.Lent)
	for _, u := range s.MemoryByPurpose() {
		v.Memory = append(v.Memory, Memory{u.Purpose, u.Resident, u.Mapped})
	}
	slices.SortFunc(v.Memory, func(a, b Memory) int { return cmp.Compare(b.Resident, a.Resident) })
	if s.ProtectionWanted {
		for name, on := range s.Protection {
			v.Measures = append(v.Measures, Measure{name, on})
		}
	}
	slices.SortFunc(v.Measures, func(a, b Measure) int { return cmp.Compare(a.Name, b.Name) })
	v.Exports = largest(&v, v.Exports, func(x Export) int64 { return x.Pages.data() })
	v.Disks = largest(&v, v.Disks, func(d Disk) int64 { return d.Cached })
	return v
}

// largest keeps so many of the list, and counts the others.
func largest[T any](v *View, list []T, size func(T) int64) []T {
	slices.SortStableFunc(list, func(a, b T) int { return cmp.Compare(size(b), size(a)) })
	v.LeftOut += max(0, len(list)-maxRows)
	return list[:min(len(list), maxRows)]
}

// data is how many pages have content.
func (p Pages) data() int64 {
	n := p.Storage + p.Lost
	for _, b := range p.Backends {
		n += b
	}
	return n
}

func (v *View) addRequests(s nbd.Stats) {
	for command := range nbd.CommandCount {
		c := &s.Commands[command]
		v.Requests = append(v.Requests, Request{command.String(), c.Requests, c.Errors, c.Bytes, c.Latency.Buckets[:]})
	}
	for i := range nbd.LatencyBuckets - 1 {
		v.Bounds = append(v.Bounds, nbd.LatencyBound(i).Seconds())
	}
	for _, x := range s.Exports {
		v.Clients += x.Clients
	}
	for _, n := range s.Connections.Refused {
		v.Refused += n
	}
	for _, n := range s.AccessDenied {
		v.Refused += n
	}
}

func errorsOf(x *nbd.ExportStats) (n uint64) {
	for command := range nbd.CommandCount {
		n += x.Commands[command].Errors
	}
	return n
}

func (v *View) addExport(x metrics.Export, n *nbd.ExportStats) {
	area := x.Stats.Area
	e := Export{
		Name: x.Name, Size: x.Size, Allocated: x.Stats.Storage.AllocatedSize, Stale: x.Stats.StaleSize, Mode: x.Stats.Writethrough.String(),
		Pages: Pages{x.Size / backends.PageSize, area.None, area.Hole, area.Lost, area.Storage, area.Backends},
	}
	if n != nil {
		e.Clients, e.Errors = n.Clients, errorsOf(n)
		e.Reads, e.Writes = n.Commands[nbd.CommandRead].Bytes, n.Commands[nbd.CommandWrite].Bytes
	}
	v.Exports = append(v.Exports, e)
	v.Pages.Total += e.Pages.Total
	v.Pages.None += area.None
	v.Pages.Hole += area.Hole
	v.Pages.Lost += area.Lost
	v.Pages.Storage += area.Storage
	for name, pages := range area.Backends {
		v.Pages.Backends[name] += pages
	}
	v.addStorage(x.Stats.Storage)
	v.Storage.Live += x.Stats.LiveSize
	v.Storage.Stale += x.Stats.StaleSize
}

func (v *View) addStorage(s tier.StorageStats) {
	v.Storage.Read += s.PagesRead
	v.Storage.Written += s.PagesWritten
	v.Storage.Errors += s.ReadErrors + s.WriteErrors
	v.Storage.Allocated += s.AllocatedSize
}

func (v *View) addDisk(d metrics.Disk, n *nbd.ExportStats) {
	c := d.Stats.Cache
	shown := Disk{Name: d.Name, Size: d.Size, Mode: c.Mode.String(), Hits: c.SuccGets, Misses: c.FailedGets}
	for _, pages := range c.Backends {
		shown.Cached += pages
	}
	if n != nil {
		shown.Clients, shown.Errors = n.Clients, errorsOf(n)
	}
	v.Disks = append(v.Disks, shown)
	v.addStorage(d.Stats.Storage)
}

func newBackend(b frontswap.BackendStatus) Backend {
	s := b.Stats
	shown := Backend{
		Name: b.Name, Kind: b.Kind, State: b.State.String(), Pages: b.Pages, Ephemeral: s.EphemeralPages,
		Stored: s.StoredBytes, Held: s.HeldBytes, Limit: s.LimitBytes, Max: s.MaxBytes, Stall: s.Stall,
		Accepted: s.Refused[backends.Accepted], Refused: map[string]uint64{}, Errors: b.LoadErrors + s.CorruptLoads,
		Loads: times(b.Loads), Stores: times(b.Stores),
	}
	for reason := backends.Accepted + 1; reason < backends.Refusals; reason++ {
		if n := s.Refused[reason]; n > 0 {
			shown.Refused[reason.String()] = n
		}
	}
	if b.Drain.Running {
		shown.Move = &Move{b.Drain.Total, b.Drain.Moved, b.Drain.Left}
	}
	return shown
}

func times(s latency.Snapshot) Times { return Times{s.Count(), s.Sum.Seconds()} }

func (v *View) addRemotes(all []metrics.Ramster, lent *metrics.Lent) {
	for _, r := range all {
		for _, d := range r.Donors {
			v.Donors = append(v.Donors, Donor{r.Backend, d.Name, d.Up, d.Pages, d.Free, d.Wanted, d.Latency.Round(time.Microsecond).Seconds(), d.Missed + d.Rejected + d.Missing})
		}
	}
	if lent == nil {
		return
	}
	l := Lent{Held: lent.Held, Limit: lent.Limit, Max: lent.Max, Frozen: lent.Frozen, Borrowers: []Borrower{}}
	for _, c := range lent.Clients {
		l.Borrowers = append(l.Borrowers, Borrower{c.Name, c.Persistent + c.Ephemeral, c.Used, c.Quota})
	}
	l.Borrowers = largest(v, l.Borrowers, func(b Borrower) int64 { return b.Used })
	v.Lent = &l
}
