package pagemap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// PageSize is the length of a page in bytes. Systems with other page sizes are not
// for this package.
const PageSize = 4096

// Bits of an entry in /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
const (
	pagemapFrame   = 1<<55 - 1
	pagemapShared  = 1 << 61 // page of a file, or shared anonymous
	pagemapPresent = 1 << 63
)

// Bits of an entry in /proc/kpageflags.
const (
	flagAnonymous   = 1 << 12
	flagUnevictable = 1 << 18 // locked, among others
	flagZeroPage    = 1 << 24
)

// Process is the memory of a process.
type Process struct {
	pid        int
	pagemap    *os.File
	memory     *os.File
	flags      *os.File // /proc/kpageflags; nil if the caller may not read it
	counts     *os.File // /proc/kpagecount; nil if the caller may not read it
	restricted bool     // a page was judged without its flags
	entries    []byte   // of pagemap, while it is read
}

// Open opens the memory of a process. It takes its user, or root, and may be refused
// where processes may not be traced.
func Open(pid int) (*Process, error) {
	p := &Process{pid: pid, entries: make([]byte, 8<<13)}
	var err error
	if p.pagemap, err = os.Open(fmt.Sprintf("/proc/%d/pagemap", pid)); err != nil {
		return nil, err
	}
	if p.memory, err = os.Open(fmt.Sprintf("/proc/%d/mem", pid)); err != nil {
		p.Close()
		return nil, err
	}
	// Errors leave them nil: see M1.
	p.flags, _ = os.Open("/proc/kpageflags")
	p.counts, _ = os.Open("/proc/kpagecount")
	return p, nil
}

// Close closes it.
func (p *Process) Close() {
	for _, f := range []*os.File{p.pagemap, p.memory, p.flags, p.counts} {
		if f != nil {
			f.Close()
		}
	}
}

// Restricted is true if the kernel's page flags could not be read, which takes
// root: mappings of the zero page and locked memory may have counted as swappable
// then (M1).
func (p *Process) Restricted() bool { return p.restricted }

// Read copies neighbouring pages. Memory of devices that looks anonymous cannot be
// read.
func (p *Process) Read(address uint64, pages []byte) error {
	_, err := p.memory.ReadAt(pages, int64(address))
	return err
}

// Private calls visit with the address of each page that pagemap calls present and
// neither file nor shared: those that could be swapped, and mappings of the zero page.
func (p *Process) Private(visit func(address uint64)) error {
	mappings, err := p.mappings()
	if err != nil {
		return err
	}
	for _, m := range mappings {
		if err := p.walk(m, func(address, entry uint64) error {
			if isPrivate(entry) {
				visit(address)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// Swappable says whether the kernel could swap the page at an address now, and how
// many processes have it mapped: after a fork they share it. That is 1 where nobody may
// know.
func (p *Process) Swappable(address uint64) (sharers uint64, ok bool, err error) {
	var b [8]byte
	if _, err := p.pagemap.ReadAt(b[:], int64(address/PageSize*8)); err != nil {
		if errors.Is(err, io.EOF) {
			return 0, false, nil // the process has ended
		}
		return 0, false, fmt.Errorf("pagemap: %w", err)
	}
	entry := binary.NativeEndian.Uint64(b[:])
	if ok, err := p.swappable(entry); !ok || err != nil {
		return 0, false, err
	}
	frame := entry & pagemapFrame
	if p.counts == nil || frame == 0 {
		return 1, true, nil
	}
	if _, err := p.counts.ReadAt(b[:], int64(frame)*8); err != nil {
		return 0, false, fmt.Errorf("page counts: %w", err)
	}
	return max(1, binary.NativeEndian.Uint64(b[:])), true, nil
}

func isPrivate(entry uint64) bool {
	return entry&pagemapPresent != 0 && entry&pagemapShared == 0
}

// swappable says whether the kernel could swap the page with this entry (M1).
func (p *Process) swappable(entry uint64) (bool, error) {
	if !isPrivate(entry) {
		return false, nil
	}
	frame := entry & pagemapFrame
	if p.flags == nil || frame == 0 { // frames read as 0 without the privilege
		p.restricted = true
		return true, nil
	}
	var b [8]byte
	if _, err := p.flags.ReadAt(b[:], int64(frame)*8); errors.Is(err, io.EOF) {
		return false, nil // beyond the machine's memory: a device's
	} else if err != nil {
		return false, fmt.Errorf("page flags: %w", err)
	}
	flags := binary.NativeEndian.Uint64(b[:])
	return flags&(flagAnonymous|flagUnevictable|flagZeroPage) == flagAnonymous, nil
}

// walk calls visit for each entry of the mapping.
func (p *Process) walk(m mapping, visit func(address, entry uint64) error) error {
	for address := m.start; address < m.end; {
		want := min(uint64(len(p.entries)), (m.end-address)/PageSize*8)
		if want == 0 {
			break
		}
		n, err := p.pagemap.ReadAt(p.entries[:want], int64(address/PageSize*8))
		if n < 8 {
			// Addresses above user space ("[vsyscall]") have no entries, and a
			// process that has ended has none at all.
			if err == nil || errors.Is(err, io.EOF) {
				break
			}
			return fmt.Errorf("pagemap: %w", err)
		}
		for b := p.entries[:n]; len(b) >= 8; b = b[8:] {
			if err := visit(address, binary.NativeEndian.Uint64(b)); err != nil {
				return err
			}
			address += PageSize
		}
	}
	return nil
}

func (p *Process) mappings() ([]mapping, error) {
	smaps, err := os.Open(fmt.Sprintf("/proc/%d/smaps", p.pid))
	if err != nil {
		return nil, err
	}
	defer smaps.Close()
	mappings, err := parseMappings(smaps)
	if err != nil {
		return nil, fmt.Errorf("smaps: %w", err)
	}
	return mappings, nil
}

// Run is some neighbouring pages by their address.
type Run struct {
	Address uint64
	Pages   int
}

// Runs returns all swappable pages, in runs of up to so many neighbours.
func (p *Process) Runs(limit int) ([]Run, error) {
	mappings, err := p.mappings()
	if err != nil {
		return nil, err
	}
	var runs []Run
	for _, m := range mappings {
		if runs, err = p.appendRuns(runs, m, limit); err != nil {
			return nil, err
		}
	}
	return runs, nil
}

func (p *Process) appendRuns(runs []Run, m mapping, limit int) ([]Run, error) {
	first := len(runs) // neighbouring mappings are not one run
	err := p.walk(m, func(address, entry uint64) error {
		ok, err := p.swappable(entry)
		if err != nil || !ok {
			return err
		}
		if len(runs) > first {
			last := &runs[len(runs)-1]
			if last.Pages < limit && last.Address+uint64(last.Pages)*PageSize == address {
				last.Pages++
				return nil
			}
		}
		runs = append(runs, Run{address, 1})
		return nil
	})
	return runs, err
}
