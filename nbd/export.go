package nbd

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Export is a device under a name. Several exports may serve one device.
type Export struct {
	Name        string // 1 to 256 bytes of UTF-8 without NUL
	Description string // for people, up to 2048 bytes of UTF-8 without NUL
	Device      Device
	ReadOnly    bool // writes, trims and zeroes are answered with EPERM
	Access      *Access

	// SlowZeroes says that WriteZeroes may take as long as writing them does: clients
	// are not offered FAST_ZERO.
	SlowZeroes bool

	// Refusal is what clients that ask for the export are told instead of being let in,
	// as by CloseExport; with it there may be no Device. Up to 1024 bytes.
	Refusal string
}

// The longest name and description. nbd-client loses its place in the stream on
// a reply over 4096 bytes, and LIST puts both into one.
const (
	maxExportName        = 256
	maxExportDescription = 2048
	maxRefusal           = 1024
)

// pageSize divides the size of every export, in bytes.
const pageSize = 4096

// Errors of [Server.AddExport] and [Server.RemoveExport].
var (
	ErrExportExists  = errors.New("export exists already")
	ErrExportUnknown = errors.New("no such export")
	ErrExportInUse   = errors.New("export has clients attached")
)

// export is an Export while it is served with one size. A resize puts another
// one in its place; connections keep the one that they negotiated.
type export struct {
	Export                     // immutable
	size         uint64        // immutable, bytes
	device       guardedDevice // immutable
	*exportBooks               // immutable; one for all sizes of the export
}

// exportBooks are the accounts of an export.
type exportBooks struct {
	clients int          // connections in transmission; guarded by Server.mu
	closed  CommandStats // of connections that are gone; guarded by Server.mu
	refusal string       // why nobody is let in, or empty; guarded by Server.mu
}

// validString says whether s may stand in the protocol.
func validString(s []byte) bool {
	for _, b := range s {
		if b == 0 {
			return false
		}
	}
	return utf8.Valid(s)
}

func newExport(e Export, s *Server) (*export, error) {
	switch {
	case e.Name == "":
		return nil, errors.New("export without a name")
	case len(e.Name) > maxExportName || !validString([]byte(e.Name)):
		return nil, fmt.Errorf("export %q: the name must be UTF-8 without NUL of at most %d bytes", e.Name, maxExportName)
	case len(e.Description) > maxExportDescription || !validString([]byte(e.Description)):
		return nil, fmt.Errorf("export %q: the description must be UTF-8 without NUL of at most %d bytes", e.Name, maxExportDescription)
	case len(e.Refusal) > maxRefusal:
		return nil, fmt.Errorf("export %q: the refusal has more than %d bytes", e.Name, maxRefusal)
	case e.Device == nil && e.Refusal == "":
		return nil, fmt.Errorf("export %q: no device", e.Name)
	case e.Device == nil:
		return &export{Export: e, exportBooks: &exportBooks{refusal: e.Refusal}}, nil
	}
	size, err := e.Device.Size()
	if err != nil {
		return nil, fmt.Errorf("export %q: size of the device: %w", e.Name, err)
	}
	if err := checkSize(e.Name, size); err != nil {
		return nil, err
	}
	e.Name, e.Description = strings.Clone(e.Name), strings.Clone(e.Description)
	e.Access = e.Access.clone()
	return &export{
		Export: e,
		size:   uint64(size),
		device: guardedDevice{device: e.Device, log: s.log, panics: &s.panics},

		exportBooks: &exportBooks{refusal: e.Refusal},
	}, nil
}

func checkSize(name string, size int64) error {
	if size <= 0 || size%pageSize != 0 {
		return fmt.Errorf("export %q: the size must be a positive multiple of %d bytes, not %d", name, pageSize, size)
	}
	return nil
}

// transmissionFlags says what the export can do for a client of that framing.
// ROTATIONAL is never set: it makes Linux give up swap clusters and page discard.
func (e *export) transmissionFlags(f framing) uint16 {
	flags := transmissionHasFlags | transmissionFlush | transmissionFUA | transmissionMultiConn | transmissionCache
	if f != framingSimple {
		flags |= transmissionDF
	}
	if e.ReadOnly {
		return flags | transmissionReadOnly
	}
	flags |= transmissionTrim | transmissionWriteZeroes
	if e.SlowZeroes {
		return flags
	}
	return flags | transmissionFastZero
}

// allowedFlags are the flags that a command may have. FUA is allowed on all of
// them, and means something on those that change the device. FAST_ZERO is kept
// without a thought where it is offered: zeros are words of a map, or at worst a
// part of two pages.
func (f framing) allowedFlags(wire uint16) uint16 {
	switch {
	case wire == wireWriteZeroes:
		return commandFUA | commandNoHole | commandFastZero
	case wire == wireBlockStatus:
		return commandFUA | commandReqOne
	case wire == wireRead && f != framingSimple:
		return commandFUA | commandDF
	case wire == wireWrite && f == framingExtended:
		return commandFUA | commandPayloadLen
	}
	return commandFUA
}

// check returns the errno that a request deserves before anybody looks at the
// device, or 0. READ's limit is here; a WRITE over it never gets this far.
func (e *export) check(f framing, chosen contexts, q request) uint32 {
	allowed := f.allowedFlags(q.wire)
	if e.SlowZeroes {
		allowed &^= commandFastZero
	}
	if q.flags&^allowed != 0 {
		return errnoInvalid
	}
	// Not offset+length > size, which overflows.
	outside := q.offset > e.size || q.length > e.size-q.offset
	switch q.wire {
	case wireRead:
		if outside {
			return errnoInvalid
		}
		if q.length > MaxPayload {
			return errnoOverflow
		}
		return 0
	case wireFlush:
		if q.offset != 0 || q.length != 0 {
			return errnoInvalid
		}
		return 0
	case wireCache:
		if outside {
			return errnoInvalid
		}
		return 0
	case wireBlockStatus:
		// An extent has a length, so there is no answer for nothing.
		if chosen == 0 || outside || q.length == 0 {
			return errnoInvalid
		}
		return 0
	case wireWrite, wireWriteZeroes, wireTrim:
		if e.ReadOnly {
			return errnoPerm
		}
		if outside && q.wire == wireTrim {
			return errnoInvalid
		}
		if outside {
			return errnoNoSpace
		}
		return 0
	}
	return errnoInvalid
}

// AddExport starts to serve an export. The first one is also what a client gets
// that asks for no name.
func (s *Server) AddExport(e Export) error {
	added, err := newExport(e, s)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.findLocked(e.Name) != nil {
		return fmt.Errorf("export %q: %w", e.Name, ErrExportExists)
	}
	s.exports = append(s.exports, added)
	return nil
}

// RemoveExport stops serving an export, or fails with ErrExportInUse while
// clients are attached. The caller closes the device.
func (s *Server) RemoveExport(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range s.exports {
		if e.Name != name {
			continue
		}
		if e.clients > 0 {
			return fmt.Errorf("export %q: %w", name, ErrExportInUse)
		}
		s.removed.add(&e.closed)
		s.exports = append(s.exports[:i:i], s.exports[i+1:]...)
		return nil
	}
	return fmt.Errorf("export %q: %w", name, ErrExportUnknown)
}

// ResizeExport makes size bytes what clients are told that attach from now on.
// Those that are attached keep the size that they know, since the protocol has no
// way to tell them. So an export only gets smaller while it has no clients, and
// ResizeExport fails with ErrExportInUse otherwise. The caller has made the
// device longer before, or makes it shorter afterwards.
func (s *Server) ResizeExport(name string, size int64) error {
	if err := checkSize(name, size); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range s.exports {
		if e.Name != name {
			continue
		}
		if uint64(size) < e.size && e.clients > 0 {
			return fmt.Errorf("export %q: %w", name, ErrExportInUse)
		}
		resized := *e
		resized.size = uint64(size)
		s.exports[i] = &resized
		return nil
	}
	return fmt.Errorf("export %q: %w", name, ErrExportUnknown)
}

// findLocked returns the export of that name, or nil. REQUIRES: s.mu held.
func (s *Server) findLocked(name string) *export {
	for _, e := range s.exports {
		if e.Name == name {
			return e
		}
	}
	return nil
}
