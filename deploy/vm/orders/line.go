package orders

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// What the host may order.
const (
	Phase   = "phase"
	Stop    = "stop"
	Swapoff = "swapoff"
	Detach  = "detach"
	Run     = "run"
)

// What the guest may report.
const (
	Filled     = "filled"
	PhaseBegan = "phase"
	Progress   = "progress"
	Stopped    = "stopped"
	SwappedOff = "swapped off"
	Detached   = "detached"
	Ran        = "ran"
	Mismatch   = "mismatch"
	Failed     = "failed"
)

// MaxLine is the longest line either side accepts, in bytes; the kernel's log in a report sets it.
const MaxLine = 4 << 20

// Order is one line from the host.
type Order struct {
	Do    string `json:"do"`
	Phase string `json:"phase,omitempty"` // set for Phase only

	Command string `json:"command,omitempty"` // for a shell; set for Run only
}

// Counters are totals since the guest program started, but for the kernel's two, which are since boot.
type Counters struct {
	Verified   int64 `json:"verified"`    // pages of content compared byte for byte; dropped ones are, too, but do not count
	Written    int64 `json:"written"`     // pages written
	Dropped    int64 `json:"dropped"`     // pages given back with MADV_DONTNEED
	SwappedIn  int64 `json:"swapped_in"`  // pswpin of /proc/vmstat, in pages
	SwappedOut int64 `json:"swapped_out"` // pswpout of /proc/vmstat, in pages
}

// Sub returns the difference of c and an earlier d.
func (c Counters) Sub(d Counters) Counters {
	return Counters{
		Verified:   c.Verified - d.Verified,
		Written:    c.Written - d.Written,
		Dropped:    c.Dropped - d.Dropped,
		SwappedIn:  c.SwappedIn - d.SwappedIn,
		SwappedOut: c.SwappedOut - d.SwappedOut,
	}
}

// Report is one line from the guest.
type Report struct {
	Event    string   `json:"event"`
	Phase    string   `json:"phase,omitempty"` // the phase the guest is in; empty before the first
	Counters Counters `json:"counters"`
	Detail   string   `json:"detail,omitempty"` // what went wrong, for Mismatch and Failed; what was printed, for Ran
	Log      string   `json:"log,omitempty"`    // the kernel's log, for Detached
}

// ParseOrder reads one line. It returns an error for anything but one known order (O1).
func ParseOrder(line []byte) (Order, error) {
	var o Order
	if err := parse(line, &o); err != nil {
		return Order{}, fmt.Errorf("parse order %.80q: %w", line, err)
	}
	switch o.Do {
	case Phase:
		if o.Phase == "" {
			return Order{}, fmt.Errorf("parse order %.80q: a phase without a name", line)
		}
	case Run:
		if o.Command == "" || o.Phase != "" {
			return Order{}, fmt.Errorf("parse order %.80q: run takes a command and no phase", line)
		}
		return o, nil
	case Stop, Swapoff, Detach:
		if o.Phase != "" {
			return Order{}, fmt.Errorf("parse order %.80q: %s takes no phase", line, o.Do)
		}
	default:
		return Order{}, fmt.Errorf("parse order %.80q: unknown order", line)
	}
	if o.Command != "" {
		return Order{}, fmt.Errorf("parse order %.80q: %s takes no command", line, o.Do)
	}
	return o, nil
}

// ParseReport reads one line. It returns an error for anything but one known report (O1).
func ParseReport(line []byte) (Report, error) {
	var r Report
	if err := parse(line, &r); err != nil {
		return Report{}, fmt.Errorf("parse report %.80q: %w", line, err)
	}
	switch r.Event {
	case Filled, PhaseBegan, Progress, Stopped, SwappedOff, Detached, Ran, Mismatch, Failed:
		return r, nil
	default:
		return Report{}, fmt.Errorf("parse report %.80q: unknown event", line)
	}
}

// Write sends one order or report as one line, in one call to w.
func Write[T Order | Report](w io.Writer, message T) error {
	line, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode %T: %w", message, err)
	}
	if _, err := w.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("send %T: %w", message, err)
	}
	return nil
}

func parse(line []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if rest := bytes.TrimSpace(line[decoder.InputOffset():]); len(rest) > 0 {
		return fmt.Errorf("%d bytes after it", len(rest))
	}
	return nil
}
