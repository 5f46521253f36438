package main

import (
	"bytes"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is the pages under test and what each must hold.
type memory struct {
	seed     uint64   // immutable
	content  []byte   // the pages; each is touched by the worker that owns it only (G1)
	versions []uint32 // the version each page holds, 0 for zeros; owned like the page
	last     []uint32 // the highest version each page ever had (G2); owned like the page
}

// newMemory maps pages of private anonymous memory: what the kernel swaps. Huge pages are left as the kernel has them.
func newMemory(pages int, seed uint64) (*memory, error) {
	content, err := unix.Mmap(-1, 0, pages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d pages: %w", pages, err)
	}
	return &memory{seed: seed, content: content, versions: make([]uint32, pages), last: make([]uint32, pages)}, nil
}

func (m *memory) close() error {
	if err := unix.Munmap(m.content); err != nil {
		return fmt.Errorf("unmap %d pages: %w", len(m.versions), err)
	}
	return nil
}

// lockOthers keeps everything but the pages under test from being swapped: the program's code and data, and the stacks of threads
// to come. Without that, reports would wait behind the swapping, and could not say so when a page cannot be read back.
// On fault only: the runtime reserves far more address space than the machine has memory.
func (m *memory) lockOthers() error {
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("lock own memory: %w", err)
	}
	if err := unix.Munlock(m.content); err != nil {
		return fmt.Errorf("unlock the pages under test: %w", err)
	}
	return nil
}

func (m *memory) page(number int) []byte {
	return m.content[number*pageSize : (number+1)*pageSize]
}

// write gives a page its next version.
func (m *memory) write(number int) {
	m.last[number]++
	m.versions[number] = m.last[number]
	fill(m.page(number), m.seed, uint32(number), m.versions[number])
}

// drop gives count pages back to the kernel, swap slots included; they are zeros from now on (G3).
func (m *memory) drop(first, count int) error {
	run := m.content[first*pageSize : (first+count)*pageSize]
	if err := unix.Madvise(run, unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("drop pages %d to %d: %w", first, first+count-1, err)
	}
	clear(m.versions[first : first+count])
	return nil
}

// pageOut has the kernel reclaim pages now, as it would under memory pressure.
func (m *memory) pageOut(first, count int) error {
	if err := unix.Madvise(m.content[first*pageSize:(first+count)*pageSize], unix.MADV_PAGEOUT); err != nil {
		return fmt.Errorf("page out pages %d to %d: %w", first, first+count-1, err)
	}
	return nil
}

// verify compares a page with what it must hold; expected is a scratch page. A difference is a *mismatchError.
func (m *memory) verify(number int, expected []byte) error {
	fill(expected, m.seed, uint32(number), m.versions[number])
	found := m.page(number)
	if bytes.Equal(found, expected) {
		return nil
	}
	return m.describe(number, expected, found)
}

// faulted returns the page that an address lies in.
func (m *memory) faulted(address uintptr) (number int, ok bool) {
	start := uintptr(unsafe.Pointer(unsafe.SliceData(m.content)))
	if address < start || address >= start+uintptr(len(m.content)) {
		return 0, false
	}
	return int((address - start) / pageSize), true
}

// mismatchError is a page that does not hold what was written to it.
type mismatchError struct {
	page     int
	version  uint32 // the version it must hold
	differs  int    // bytes that differ
	first    int    // offset of the first of them
	expected []byte // the bytes from there on, at most 32
	found    []byte
	is       string // what the page looks like
}

func (e *mismatchError) Error() string {
	return fmt.Sprintf("page %d version %d: %d bytes differ from offset %d on: expected %x, got %x: it holds %s",
		e.page, e.version, e.differs, e.first, e.expected, e.found, e.is)
}

func (m *memory) describe(number int, expected, found []byte) *mismatchError {
	e := &mismatchError{page: number, version: m.versions[number], first: -1, is: m.recognise(number, found)}
	for i := range expected {
		if expected[i] == found[i] {
			continue
		}
		if e.first < 0 {
			e.first = i
		}
		e.differs++
	}
	if e.first < 0 { // it was different a moment ago
		e.first, e.is = 0, "the right content when read a second time"
	}
	end := min(e.first+32, pageSize)
	e.expected, e.found = bytes.Clone(expected[e.first:end]), bytes.Clone(found[e.first:end])
	return e
}

// recognise says what a page with the wrong content is, as far as its bytes tell.
func (m *memory) recognise(number int, found []byte) string {
	if len(bytes.Trim(found, "\x00")) == 0 {
		return "zeros"
	}
	page, version := identify(m.seed, found)
	if int(page) >= len(m.versions) || version == 0 {
		return "nothing this run wrote"
	}
	whole := "all of "
	candidate := make([]byte, pageSize)
	if fill(candidate, m.seed, page, version); !bytes.Equal(candidate, found) {
		whole = "the start of "
	}
	if int(page) != number {
		return fmt.Sprintf("%sanother page: page %d version %d", whole, page, version)
	}
	if version < m.versions[number] {
		return fmt.Sprintf("%san older version: %d", whole, version)
	}
	return fmt.Sprintf("%sversion %d", whole, version)
}
