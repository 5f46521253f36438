package admin

import "time"

// Phases of a daemon, as Status spells them.
const (
	PhaseServing  = "serving"
	PhaseDraining = "draining" // stopping: pages are moved to storage
	PhaseWaiting  = "waiting"  // stopping: everything is on storage, clients are attached
	PhaseSettling = "settling" // stopping: storage is being made complete
)

// Status is everything at a glance.
type Status struct {
	Version  string       `json:"version"`
	PID      int          `json:"pid"`
	Started  time.Time    `json:"started"`
	Phase    string       `json:"phase"`
	StateDir string       `json:"state_dir"`
	Listen   []string     `json:"listen"`            // addresses, as bound
	Metrics  string       `json:"metrics,omitempty"` // URL
	Kinds    []string     `json:"kinds"`             // backends that can be loaded
	Exports  []Export     `json:"exports"`
	Disks    []Disk       `json:"disks"`
	Backends []Backend    `json:"backends"`
	Clients  []Attachment `json:"clients"`
	Memory   []Memory     `json:"memory"`
	TLS      *TLS         `json:"tls,omitempty"` // of NBD over TCP; left out if it is off

	Protection []Protection `json:"protection"` // for swap of the daemon's own host
}

// TLS is how NBD is encrypted.
type TLS struct {
	Required           bool      `json:"required"`
	ClientCertificates bool      `json:"client_certificates"` // clients have to show one
	Certificate        string    `json:"certificate"`         // the name in the server's
	Expires            time.Time `json:"expires"`
}

// Reloaded is what was read anew.
type Reloaded struct {
	TLS         *TLS     `json:"tls,omitempty"`     // of NBD
	Ramster     *TLS     `json:"ramster,omitempty"` // of the way to donors
	Donor       *TLS     `json:"donor,omitempty"`   // of the memory that is lent
	DonorsFiles []string `json:"donors_files,omitempty"`

	File    string   `json:"file,omitempty"` // the configuration file, if there is one
	Applied []Change `json:"applied,omitempty"`
	Restart []Change `json:"restart,omitempty"` // what waits for a restart, or is overruled
}

// Change is a key of the configuration file that says something else now.
type Change struct {
	Key  string `json:"key"`
	Old  string `json:"old"` // empty: the default
	New  string `json:"new"`
	Note string `json:"note,omitempty"` // why it was not applied
}

// Protection is one measure for swap of the daemon's own host.
type Protection struct {
	Measure string `json:"measure"`
	State   string `json:"state"` // on, refused, or off
	Why     string `json:"why,omitempty"`
	Cure    string `json:"cure,omitempty"`
}

// Export is one export.
type Export struct {
	Name         string            `json:"name"`
	Client       string            `json:"client"`     // who it belongs to
	UsedBytes    uint64            `json:"used_bytes"` // memory of this host that its pages take in backends
	SizeBytes    int64             `json:"size_bytes"`
	Clients      int               `json:"clients"`
	Pages        PagesByOwner      `json:"pages"`
	Loads        uint64            `json:"loads"`
	SuccStores   uint64            `json:"succ_stores"`
	FailedStores uint64            `json:"failed_stores"`
	Invalidates  uint64            `json:"invalidates"`
	LoadErrors   uint64            `json:"load_errors"`
	Errors       map[string]uint64 `json:"errors"` // requests answered with an error, by command
	Storage      Storage           `json:"storage"`

	Writethrough  string `json:"writethrough"`   // off, async or sync
	PendingBlocks int64  `json:"pending_blocks"` // of 1 MiB, that wait to be looked at for pages to copy
	RescuedPages  uint64 `json:"rescued_pages"`  // read from storage because their backend failed

	MovedTo string `json:"moved_to,omitempty"` // another daemon has it, and all else here is zero
}

// Disk is one disk that is served with a cache.
type Disk struct {
	Name        string            `json:"name"`
	SizeBytes   int64             `json:"size_bytes"`
	Clients     int               `json:"clients"`
	ReadOnly    bool              `json:"read_only"`
	Mode        string            `json:"mode"`         // inclusive or exclusive
	Backends    map[string]int64  `json:"cached_pages"` // by backend; some may be forgotten by now
	SuccGets    uint64            `json:"succ_gets"`
	FailedGets  uint64            `json:"failed_gets"`
	Puts        uint64            `json:"puts"`
	Invalidates uint64            `json:"invalidates"`
	Errors      map[string]uint64 `json:"errors"` // requests answered with an error, by command
	Storage     Storage           `json:"storage"`
}

// DiskSettings are settings of a disk to change.
type DiskSettings struct {
	Mode string `json:"mode"`
}

// PagesByOwner says who has an export's pages.
type PagesByOwner struct {
	None     int64            `json:"none"` // never written since the daemon started
	Storage  int64            `json:"storage"`
	Hole     int64            `json:"hole"` // read as zero
	Lost     int64            `json:"lost"` // I/O errors: not found in memory after a process that was killed
	Backends map[string]int64 `json:"backends"`
}

// Storage is what is below an export.
type Storage struct {
	Path           string `json:"path"`
	Direct         bool   `json:"direct"` // past the page cache
	AllocatedBytes int64  `json:"allocated_bytes"`
	PagesRead      uint64 `json:"pages_read"`
	PagesWritten   uint64 `json:"pages_written"`
	PagesPunched   uint64 `json:"pages_punched"`
	ReadErrors     uint64 `json:"read_errors"`
	WriteErrors    uint64 `json:"write_errors"`
	PunchErrors    uint64 `json:"punch_errors"`
}

// Backend is one loaded backend.
type Backend struct {
	Name            string            `json:"name"`
	Kind            string            `json:"kind"`
	State           string            `json:"state"`
	Reason          string            `json:"reason,omitempty"` // why it is frozen or failed
	Pages           uint64            `json:"pages"`
	EphemeralPages  uint64            `json:"ephemeral_pages"` // of disks: in the backend, and not in pages
	SameFilledPages uint64            `json:"same_filled_pages"`
	StoredBytes     uint64            `json:"stored_bytes"`
	HeldBytes       uint64            `json:"held_bytes"`
	LimitBytes      uint64            `json:"limit_bytes"` // of held_bytes, now
	MaxBytes        uint64            `json:"max_bytes"`   // the limit while the host is not short of memory
	Stall           float64           `json:"stall"`       // share of the time that tasks of the host waited for memory, 0 to 1
	Stores          uint64            `json:"stores"`      // pages taken
	Refused         map[string]uint64 `json:"refused"`     // pages not taken, by reason
	Moved           map[string]uint64 `json:"moved"`       // what became of pages afterwards, by movement
	LoadErrors      uint64            `json:"load_errors"`
	CorruptLoads    uint64            `json:"corrupt_loads"`
	Drain           *Progress         `json:"drain,omitempty"` // the latest move of its pages
	Codecs          []Codec           `json:"codecs"`
	Settings        []Setting         `json:"settings"`

	IncompressiblePages uint64 `json:"incompressible_pages"` // of pages, kept as they came
	SharedPages         uint64 `json:"shared_pages"`         // of pages, kept once together with identical ones
	SharedContents      uint64 `json:"shared_contents"`      // different pages among those
	SharedSavedBytes    uint64 `json:"shared_saved_bytes"`   // that those would take more by themselves, about
}

// Codec counts the pages that a backend keeps in one encoding.
type Codec struct {
	Name  string `json:"name"`
	Pages uint64 `json:"pages"`
	Bytes uint64 `json:"bytes"` // of page data in this encoding
}

// Setting is one setting of a backend.
type Setting struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// BackendSettings are settings to change; all of them are, or none.
type BackendSettings struct {
	Settings []Setting `json:"settings"`
}

// Progress is how far a move of a backend's pages is. Pages that the client drops meanwhile leave
// without being moved, so moved and left need not add up to total.
type Progress struct {
	Running        bool              `json:"running"`
	Total          uint64            `json:"total"`                 // pages when it began
	Moved          uint64            `json:"moved"`                 // pages moved
	Left           uint64            `json:"left"`                  // pages to go
	ToStorage      uint64            `json:"to_storage"`            // of moved: storage has them
	ToBackends     map[string]uint64 `json:"to_backends,omitempty"` // of moved: by the backend that took them
	PagesPerSecond float64           `json:"pages_per_second"`
	SecondsLeft    float64           `json:"seconds_left"` // 0 if it cannot be told
}

// Attachment is one NBD connection in use.
type Attachment struct {
	Remote string `json:"remote"`
	PID    int32  `json:"pid,omitempty"` // of a Unix socket's other end

	Encrypted   bool   `json:"encrypted,omitempty"`
	Certificate string `json:"certificate,omitempty"` // the name in the client's

	Export string    `json:"export"`
	Since  time.Time `json:"since"`
}

// Memory is memory outside the Go heap, in bytes.
type Memory struct {
	Purpose  string `json:"purpose"`
	Mapped   int64  `json:"mapped_bytes"`
	Resident int64  `json:"resident_bytes"`
}

// LoadRequest asks for a backend to be loaded.
type LoadRequest struct {
	Kind string `json:"kind"`
	Name string `json:"name,omitempty"` // default: the kind
	Size string `json:"size,omitempty"` // "20%", "1GiB"; default: the kind's own

	Settings []Setting `json:"settings,omitempty"` // those that are not to be the default
}

// ExportSettings are what can be changed of an export; what is empty stays.
type ExportSettings struct {
	Writethrough string `json:"writethrough,omitempty"`
}

// CreateRequest asks for an export to be made.
type CreateRequest struct {
	Name         string `json:"name"`
	Template     string `json:"template,omitempty"`     // of the configuration: for what is left out here
	Client       string `json:"client,omitempty"`       // who it belongs to; default: "default"
	Size         string `json:"size,omitempty"`         // "8GiB", "100%" of RAM
	Storage      string `json:"storage,omitempty"`      // default: NAME.img in the state folder
	Writethrough string `json:"writethrough,omitempty"` // default: off

	Allow []string `json:"allow,omitempty"` // who may open it; default: no rules
}

// ResizeRequest asks for an export to get another size.
type ResizeRequest struct {
	Size    string `json:"size"`              // "8GiB", "100%" of RAM
	Discard bool   `json:"discard,omitempty"` // give up what is beyond a new end
}

// MoveExportRequest asks for an export to be moved to another daemon.
type MoveExportRequest struct {
	To         string `json:"to"`                     // unix:///PATH or tcp://HOST:PORT
	As         string `json:"as,omitempty"`           // what it is called there; default: the same
	MaxPauseMS int64  `json:"max_pause_ms,omitempty"` // for which clients may be held back; default 200
}

// ExportMove is one line of the answer to that: how far it is. Sent and Left count pages.
type ExportMove struct {
	Export         string  `json:"export"`
	To             string  `json:"to"`
	Round          int     `json:"round"`
	Sent           uint64  `json:"sent"` // over all rounds, zeros included
	Left           uint64  `json:"left"` // those that changed meanwhile included
	PagesPerSecond float64 `json:"pages_per_second"`
	PauseMS        float64 `json:"pause_ms,omitempty"` // for which clients were held back, in the end
	Done           bool    `json:"done,omitempty"`     // the last line: it has moved
	Error          string  `json:"error,omitempty"`    // the last line: it has not
	Hint           string  `json:"hint,omitempty"`
}

// DeleteRequest asks for an export to be deleted.
type DeleteRequest struct {
	RemoveStorage bool `json:"remove_storage,omitempty"`
}

// FreezeRequest asks for a backend to take no more pages.
type FreezeRequest struct {
	Reason string `json:"reason,omitempty"` // shown where the state is
}

// OrderRequest asks for pages to be offered to backends in another order.
type OrderRequest struct {
	Names []string `json:"names"` // the others keep their order, after these
}

// MoveRequest asks for some of a backend's pages to be moved: one of the two.
type MoveRequest struct {
	Pages uint64 `json:"pages,omitempty"`
	Bytes string `json:"bytes,omitempty"` // of pages: "512MiB"
}

// What a Move does, as MoveEvent spells it.
const (
	OperationUnload  = "unload"
	OperationReplace = "replace"
	OperationShrink  = "shrink"
	OperationMigrate = "migrate"
)

// MoveEvent is one line of the answer to an unload, replace, shrink or migrate.
type MoveEvent struct {
	Backend   string `json:"backend"`
	Operation string `json:"operation,omitempty"`
	Into      string `json:"into,omitempty"` // backends that pages are offered to, before storage gets them
	Progress
	Done  bool   `json:"done,omitempty"`  // the last line: it is done
	Error string `json:"error,omitempty"` // the last line: it stopped
	Hint  string `json:"hint,omitempty"`
}

// Fault is what can be made to fail, and how it is.
type Fault struct {
	Target string      `json:"target"` // a backend's name, or an export's for its storage
	Part   string      `json:"part"`   // backend or storage
	Rules  []FaultRule `json:"rules"`
}

// FaultRule is one rule, in the language of package backends/fault.
type FaultRule struct {
	Rule  string `json:"rule"`
	Fired uint64 `json:"fired"` // how often it did its work
}

// FaultRequest replaces the rules of a target.
type FaultRequest struct {
	Rules []string `json:"rules"`
}

// Error is an answer that says what went wrong and what to do about it.
type Error struct {
	Status  int    `json:"-"` // the HTTP status
	Message string `json:"error"`
	Hint    string `json:"hint,omitempty"`

	Excerpt string   `json:"excerpt,omitempty"` // lines of the file that is wrong
	More    []*Error `json:"more,omitempty"`    // what is wrong besides
}

// Error implements error.
func (e *Error) Error() string { return e.Message }
