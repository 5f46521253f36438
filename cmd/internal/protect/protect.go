package protect

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// Mode says whether to protect.
type Mode string

// The modes.
const (
	Auto Mode = "auto" // if local clients can attach and there are rights to; what is refused is reported
	On   Mode = "on"   // what is refused is an error
	Off  Mode = "off"
)

// ParseMode reads a mode.
func ParseMode(text string) (Mode, error) {
	switch m := Mode(text); m {
	case Auto, On, Off:
		return m, nil
	}
	return "", fmt.Errorf("%q is no mode", text)
}

// State is what became of a measure.
type State string

// The states.
const (
	Done    State = "on"
	Refused State = "refused"
	Unasked State = "off"
)

// The measures, in the order in which they are taken.
const (
	MemoryLocked = "memory_locked"
	CodeTouched  = "code_touched"
	IOFlusher    = "io_flusher"
	OOMScore     = "oom_score"
	HeapTouched  = "heap_touched"
	Realtime     = "realtime"
)

// Measure is one of them.
type Measure struct {
	Name  string
	State State
	Why   string // if it was refused
	Cure  string
}

// Report is what was done.
type Report struct {
	Wanted   bool
	Measures []Measure
}

// has says whether a measure was taken.
func (r Report) has(measure string) bool {
	for _, m := range r.Measures {
		if m.Name == measure {
			return m.State == Done
		}
	}
	return false
}

// Locked says whether memory that is touched stays.
func (r Report) Locked() bool { return r.has(MemoryLocked) }

// Missing names the measures that were not taken.
func (r Report) Missing() (names []string) {
	for _, m := range r.Measures {
		if m.State != Done {
			names = append(names, m.Name)
		}
	}
	return names
}

// Refused lists what was.
func (r Report) Refused() []Measure {
	var list []Measure
	for _, m := range r.Measures {
		if m.State == Refused {
			list = append(list, m)
		}
	}
	return list
}

// system is what a process asks for. Tests have another one.
type system interface {
	lockAll() error
	touchCode() error
	setIOFlusher() error
	setOOMScore() error
	touchHeap(Room) error
	setRealtime() error
	// privileged says whether the process has a right that the measures need.
	privileged() bool
}

// Room is what a process may take later without asking for memory.
type Room struct {
	Heap    int64 // bytes that the Go heap may grow
	Threads int   // system calls that may wait at a time
}

// Apply protects this process. local says that its own host may swap through it.
func Apply(mode Mode, local bool, room Room, log *slog.Logger) (Report, error) {
	return apply(mode, local, room, linux{}, log)
}

func apply(mode Mode, local bool, room Room, s system, log *slog.Logger) (Report, error) {
	r := Report{Wanted: mode == On || mode == Auto && local && s.privileged()}
	measures := []struct {
		name string
		take func() error
	}{
		{MemoryLocked, s.lockAll},
		{CodeTouched, s.touchCode},
		{IOFlusher, s.setIOFlusher},
		{OOMScore, s.setOOMScore},
		{HeapTouched, func() error { return s.touchHeap(room) }},
		{Realtime, s.setRealtime}, // not before there is what it takes: the kernel's reserve is for later
	}
	for _, measure := range measures {
		m := Measure{Name: measure.name, State: Unasked}
		if r.Wanted {
			m.State = Done
			if err := measure.take(); err != nil {
				m.State, m.Why, m.Cure = Refused, err.Error(), cure(measure.name, err)
			}
		}
		r.Measures = append(r.Measures, m)
	}
	refused := r.Refused()
	if mode == On && len(refused) > 0 {
		var errs []error
		for _, m := range refused {
			errs = append(errs, cli.Failure(m.Cure, "host.protect: %s: %s", m.Name, m.Why))
		}
		return r, errors.Join(errs...)
	}
	for _, m := range refused {
		log.Warn("not protected for swap of this host: attaching here can freeze it", "measure", m.Name, "why", m.Why, "cure", m.Cure)
	}
	return r, nil
}

// errCgo says that threads that the runtime does not know cannot be reached.
var errCgo = errors.New("the program is linked with cgo, so not every thread can be reached")

func cure(measure string, err error) string {
	switch {
	case errors.Is(err, errCgo):
		return "build it with CGO_ENABLED=0, as make build does"
	case measure == IOFlusher && errors.Is(err, unix.EPERM):
		return "give it CAP_SYS_RESOURCE: run it as root outside a container that withholds it, or with AmbientCapabilities=CAP_SYS_RESOURCE"
	case measure == IOFlusher && errors.Is(err, unix.EINVAL):
		return "use Linux 5.6 or later"
	case measure == Realtime:
		return "give it CAP_SYS_NICE, or LimitRTPRIO=1 (ulimit -r 1)"
	case measure == MemoryLocked:
		return "give it CAP_IPC_LOCK, or LimitMEMLOCK=infinity (ulimit -l unlimited)"
	case measure == OOMScore:
		return "give it CAP_SYS_RESOURCE, or OOMScoreAdjust=-1000"
	}
	return strings.TrimSpace("see tmemctl doctor")
}
