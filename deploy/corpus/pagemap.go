package corpus

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
)

// Bits of an entry in /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
const (
	pagemapFrame   = 1<<55 - 1
	pagemapShared  = 1 << 61 // page of a file, or shared anonymous
	pagemapPresent = 1 << 63
)

// Bits of an entry in /proc/kpageflags.
const (
	flagAnonymous = 1 << 12
	flagZeroPage  = 1 << 24
)

// mapping is a range of addresses of a process in which there is memory that
// belongs to no file.
type mapping struct{ start, end uint64 }

// parseMappings reads smaps: for each range a line with its addresses, then
// lines with amounts of memory. Ranges without anonymous memory are left out.
func parseMappings(smaps io.Reader) ([]mapping, error) {
	var mappings []mapping
	var current mapping
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		line := lines.Text()
		if amount, ok := strings.CutPrefix(line, "Anonymous:"); ok {
			if amount = strings.TrimSpace(amount); amount != "0 kB" && current.end > current.start {
				mappings = append(mappings, current)
			}
			continue
		}
		first, _, _ := strings.Cut(line, " ")
		low, high, ok := strings.Cut(first, "-")
		if !ok {
			continue
		}
		start, err1 := strconv.ParseUint(low, 16, 64)
		end, err2 := strconv.ParseUint(high, 16, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("range of addresses %q: %w", first, err)
		}
		current = mapping{start, end}
	}
	return mappings, lines.Err()
}

// pageFilter tells which pages of a process the kernel could swap (P1).
type pageFilter struct {
	pagemap    *os.File
	flags      *os.File // nil if the caller may not read them
	restricted bool     // a page was judged without its flags
}

func openPageFilter(pid int) (*pageFilter, error) {
	pagemap, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, err
	}
	flags, err := os.Open("/proc/kpageflags")
	if err != nil {
		flags = nil
	}
	return &pageFilter{pagemap: pagemap, flags: flags}, nil
}

func (f *pageFilter) close() {
	f.pagemap.Close()
	if f.flags != nil {
		f.flags.Close()
	}
}

// swappable says whether the kernel could swap the page with this entry.
func (f *pageFilter) swappable(entry uint64) (bool, error) {
	if entry&pagemapPresent == 0 || entry&pagemapShared != 0 {
		return false, nil
	}
	frame := entry & pagemapFrame
	if f.flags == nil || frame == 0 { // frames read as 0 without the privilege
		f.restricted = true
		return true, nil
	}
	var b [8]byte
	if _, err := f.flags.ReadAt(b[:], int64(frame)*8); err != nil {
		return false, fmt.Errorf("page flags: %w", err)
	}
	flags := binary.NativeEndian.Uint64(b[:])
	return flags&flagAnonymous != 0 && flags&flagZeroPage == 0, nil
}

// addressRun is some neighbouring pages by their address.
type addressRun struct {
	address uint64
	pages   int
}

// runs returns all swappable pages of the mapping.
func (f *pageFilter) runs(m mapping) ([]addressRun, error) {
	var runs []addressRun
	entries := make([]byte, 8<<13)
	for address := m.start; address < m.end; {
		want := min(uint64(len(entries)), (m.end-address)/PageSize*8)
		if want == 0 {
			break
		}
		n, err := f.pagemap.ReadAt(entries[:want], int64(address/PageSize*8))
		if n < 8 {
			// Addresses above user space ("[vsyscall]") have no entries.
			if err == nil || errors.Is(err, io.EOF) {
				break
			}
			return nil, fmt.Errorf("pagemap: %w", err)
		}
		for b := entries[:n]; len(b) >= 8; b = b[8:] {
			ok, err := f.swappable(binary.NativeEndian.Uint64(b))
			if err != nil {
				return nil, err
			}
			if ok {
				runs = appendPage(runs, address)
			}
			address += PageSize
		}
	}
	return runs, nil
}

// appendPage adds a page to the last run if it is its neighbour.
func appendPage(runs []addressRun, address uint64) []addressRun {
	if len(runs) > 0 {
		last := &runs[len(runs)-1]
		if last.pages < runPages && last.address+uint64(last.pages)*PageSize == address {
			last.pages++
			return runs
		}
	}
	return append(runs, addressRun{address, 1})
}

// sampleProcess copies runs of pages of a stopped process until the collection
// is full or there are no more.
func sampleProcess(pid int, c *collection, random *rand.Rand) error {
	filter, err := openPageFilter(pid)
	if err != nil {
		return err
	}
	defer filter.close()
	runs, err := processRuns(pid, filter)
	c.restricted = filter.restricted
	if err != nil {
		return err
	}
	random.Shuffle(len(runs), func(i, j int) { runs[i], runs[j] = runs[j], runs[i] })

	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return err
	}
	defer memory.Close()
	for _, r := range runs {
		if c.full() {
			break
		}
		pages := make([]byte, r.pages*PageSize)
		// Memory of devices that looks anonymous cannot be read: left out.
		if _, err := memory.ReadAt(pages, int64(r.address)); err == nil {
			c.add(pages)
		}
	}
	if c.collected == 0 {
		return errors.New("no page of it can be read")
	}
	return nil
}

func processRuns(pid int, filter *pageFilter) ([]addressRun, error) {
	smaps, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return nil, err
	}
	defer smaps.Close()
	mappings, err := parseMappings(smaps)
	if err != nil {
		return nil, fmt.Errorf("smaps: %w", err)
	}
	var runs []addressRun
	for _, m := range mappings {
		more, err := filter.runs(m)
		if err != nil {
			return nil, err
		}
		runs = append(runs, more...)
	}
	return runs, nil
}
