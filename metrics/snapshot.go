package metrics

import (
	"time"

	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/tier"
	"github.com/tmemd/tmemd/tier/disk"
)

// Snapshot is what one scrape shows.
type Snapshot struct {
	Version  string
	Revision string // of the source, or "unknown"
	Health   Health
	Exports  []Export
	Disks    []Disk
	Backends []frontswap.BackendStatus
	Clients  []frontswap.ClientStatus
	NBD      nbd.Stats
	Memory   []sharedmem.Usage // memory that neither exports nor backends report
	Ramsters []Ramster         // of Backends, those that are other hosts' memory
	Lent     *Lent             // nil if no memory is lent

	Moves Moves

	Protection map[string]bool // by measure: whether the daemon has it, for swap of its own host

	ProtectionWanted bool
}

// Moves are the moves of exports to other daemons.
type Moves struct {
	Away         int // exports that are refused here for that
	Done, Failed uint64
	Pause        time.Duration // of the latest one that was done
}

// Export is one export's part of a Snapshot.
type Export struct {
	Name  string
	Size  int64 // bytes
	Stats tier.Stats
}

// Disk is one disk's part of a Snapshot.
type Disk struct {
	Name  string
	Size  int64 // bytes
	Stats disk.Stats
}

// MemoryByPurpose lists all memory outside the Go heap, one entry for each
// purpose.
func (s Snapshot) MemoryByPurpose() []sharedmem.Usage {
	var all []sharedmem.Usage
	add := func(list ...sharedmem.Usage) {
		for _, u := range list {
			for i := range all {
				if all[i].Purpose == u.Purpose {
					all[i].Mapped += u.Mapped
					all[i].Resident += u.Resident
					u.Purpose = ""
				}
			}
			if u.Purpose != "" {
				all = append(all, u)
			}
		}
	}
	for _, e := range s.Exports {
		add(e.Stats.Memory...)
	}
	for _, d := range s.Disks {
		add(d.Stats.Memory...)
	}
	for _, b := range s.Backends {
		add(b.Stats.Memory...)
		if b.Drain.Running {
			add(sharedmem.Usage{Purpose: "drain buffer", Mapped: b.Drain.BufferBytes, Resident: b.Drain.BufferBytes})
		}
	}
	buffers := s.NBD.Buffers
	// The server does not ask the system what it took: this is the most.
	add(sharedmem.Usage{Purpose: "nbd connections", Mapped: buffers.Connections, Resident: buffers.Connections})
	add(sharedmem.Usage{Purpose: "nbd buffer pool", Mapped: buffers.Pool, Resident: buffers.Pool})
	if s.Lent != nil {
		add(s.Lent.Memory...)
	}
	add(s.Memory...)
	return all
}
