package attach

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// The header of a swap area, in its first page: union swap_header of
// linux/swap.h, in the byte order of the machine. Ahead of it are 1024 bytes for
// boot code and disk labels.
const (
	pageSize      = 4096
	signature     = "SWAPSPACE2"
	headerStart   = 1024
	headerVersion = 1

	// What other content is looked for in: file systems, disk labels and the like
	// leave their mark here.
	probeSize = 64 << 10

	// The kernel takes no area with fewer pages.
	minPages = 10
)

// area is what a device has on it.
type area int

const (
	areaBlank   area = iota // only zeros at its start
	areaSwap                // a swap area as large as the device
	areaSmaller             // a swap area, and the device goes on behind it
	areaForeign             // something else
)

// What prepareSwap did, as the log says it.
const (
	didNothing = ""
	didMake    = "made a swap area"
	didGrow    = "the swap area is as large as the device again"
	didSpare   = "the swap area ends before the device does and there is data behind it: both stay as they are; attach it with --force to use it all"
)

// prepareSwap sees to it that a device is a swap area of its full size, and says
// what it did. Content that is none is refused, or overwritten with force.
//
// A swap area that is smaller than the device is that of an export that grew. Of
// its header only the last page changes: UUID, label and bad pages are its
// owner's still, and if that write is lost the area is what it was. A new header
// would lose them; leaving it would never use what was added. Whether the rest
// belongs to nobody is told in the same way as with a device that is blank: there
// are zeros at its start. If not (a disk that had other content before the export
// grew onto it) the smaller area is used, which harms nobody, rather than none.
func prepareSwap(device io.ReaderAt, write func(header []byte) error, size uint64, force bool) (did string, err error) {
	if size/pageSize < minPages {
		return didNothing, cli.Failure("make the export larger", "%d bytes are too few for swap", size)
	}
	kind, what, err := probe(device, size)
	if err != nil {
		return didNothing, err
	}
	var header []byte
	switch {
	case kind == areaSwap:
		return didNothing, nil
	case kind == areaSmaller:
		did = didGrow
		if header, err = growHeader(device, size, force); header == nil && err == nil {
			return didSpare, nil
		}
	case kind == areaForeign && !force:
		return didNothing, cli.Failure("attach another export, or give --force to make swap of it, which destroys what it has",
			"the device is not empty: %s", what)
	default:
		did = didMake
		header, err = makeHeader(size)
	}
	if err != nil {
		return didNothing, err
	}
	if err := write(header); err != nil {
		return didNothing, fmt.Errorf("make swap: %w", err)
	}
	return did, nil
}

// growHeader is the header of a smaller swap area, made for the whole device. It
// is nil if something is behind the area, unless force says that it may go.
func growHeader(device io.ReaderAt, size uint64, force bool) ([]byte, error) {
	header := make([]byte, pageSize)
	if _, err := device.ReadAt(header, 0); err != nil {
		return nil, fmt.Errorf("read the swap area's header: %w", err)
	}
	_, pages := headerFields(header)
	behind := make([]byte, min(probeSize, size-pages*pageSize))
	if _, err := device.ReadAt(behind, int64(pages*pageSize)); err != nil {
		return nil, fmt.Errorf("look at what is behind the swap area: %w", err)
	}
	if !force && bytes.Count(behind, []byte{0}) != len(behind) {
		return nil, nil
	}
	return header, putPages(header, size)
}

// probe says what is on a device.
func probe(device io.ReaderAt, size uint64) (kind area, what string, err error) {
	start := make([]byte, min(probeSize, size))
	if _, err := device.ReadAt(start, 0); err != nil {
		return 0, "", fmt.Errorf("look at what the device has: %w", err)
	}
	page := start[:pageSize]
	if string(page[pageSize-len(signature):]) == signature {
		version, pages := headerFields(page)
		switch {
		case version != headerVersion, pages < minPages, pages > size/pageSize:
			return areaForeign, fmt.Sprintf("it is a swap area of version %d and %d pages, the device has %d pages", version, pages, size/pageSize), nil
		case pages < size/pageSize:
			return areaSmaller, "", nil
		}
		return areaSwap, "", nil
	}
	for offset, b := range start {
		if b != 0 {
			return areaForeign, describe(start, offset), nil
		}
	}
	return areaBlank, "", nil
}

// marks of what is common on block devices.
var marks = []struct {
	offset int
	bytes  string
	what   string
}{
	{0, "LUKS\xba\xbe", "an encrypted volume (LUKS)"},
	{0, "XFSB", "an XFS file system"},
	{1080, "\x53\xef", "an ext file system"},
	{512, "EFI PART", "a partition table (GPT)"},
	{536, "LVM2 001", "an LVM volume"},
	{510, "\x55\xaa", "a partition table or boot sector"},
}

func describe(start []byte, offset int) string {
	for _, m := range marks {
		if bytes.HasPrefix(start[m.offset:], []byte(m.bytes)) {
			return "it looks like " + m.what
		}
	}
	return fmt.Sprintf("there is data at offset %d", offset)
}

// makeHeader is what mkswap writes.
func makeHeader(size uint64) ([]byte, error) {
	page := make([]byte, pageSize)
	header := page[headerStart:]
	binary.NativeEndian.PutUint32(header, headerVersion)
	if err := putPages(page, size); err != nil {
		return nil, err
	}
	// header[8:12] is the number of bad pages, none.
	uuid := header[12:28]
	if _, err := rand.Read(uuid); err != nil {
		return nil, fmt.Errorf("make swap: %w", err)
	}
	uuid[6], uuid[8] = uuid[6]&0x0f|0x40, uuid[8]&0x3f|0x80 // version 4, RFC 9562
	copy(header[28:44], "tmemd")                            // the label
	copy(page[pageSize-len(signature):], signature)
	return page, nil
}

// headerFields are a header's version and how many pages the area has, with the
// header's own.
func headerFields(page []byte) (version uint32, pages uint64) {
	return binary.NativeEndian.Uint32(page[headerStart:]), uint64(binary.NativeEndian.Uint32(page[headerStart+4:])) + 1
}

// putPages makes a header that of a device of a size: it names the last page.
func putPages(page []byte, size uint64) error {
	pages := size / pageSize
	if pages > 1<<32 {
		return fmt.Errorf("make swap: %d pages are more than a swap area has", pages)
	}
	binary.NativeEndian.PutUint32(page[headerStart+4:], uint32(pages-1))
	return nil
}

// prepareDevice is prepareSwap for a block device. Opening it exclusively fails
// while this host swaps to it.
func prepareDevice(path string, size uint64, force bool) (did string, err error) {
	device, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return didNothing, cli.Failure("swapoff or umount it first, or attach another device", "%s is in use as swap or mounted", path)
	}
	if err != nil {
		return didNothing, fmt.Errorf("make swap: %w", err)
	}
	defer func() { err = errors.Join(err, device.Close()) }()
	return prepareSwap(device, func(header []byte) error {
		_, err := device.WriteAt(header, 0)
		return errors.Join(err, device.Sync())
	}, size, force)
}

// Flags of swapon: linux/swap.h.
const (
	swapPrefer       = 0x8000
	swapPriorityMask = 0x7fff
	swapDiscard      = 0x10000

	// MaxPriority is the highest priority of a swap area.
	MaxPriority = swapPriorityMask
)

// swapOn has the kernel swap to a device. With discard it tells the device about
// all pages at once, and from then on about clusters that come free.
func swapOn(path string, priority int, discard bool) error {
	flags := swapPrefer | priority&swapPriorityMask
	if discard {
		flags |= swapDiscard
	}
	if err := swapCall(unix.SYS_SWAPON, path, uintptr(flags)); err != nil {
		return fmt.Errorf("swap on %s: %w", path, err)
	}
	return nil
}

// swapOff has the kernel read everything back from a device. It takes as long as
// that takes.
func swapOff(path string) error {
	err := swapCall(unix.SYS_SWAPOFF, path, 0)
	switch {
	case errors.Is(err, unix.ENOMEM):
		return cli.Failure("end programs, or add other swap first; nothing is lost", "swap off %s: there is not enough memory for what is on it", path)
	case errors.Is(err, unix.EINVAL): // it is not swapped on
		return nil
	case err != nil:
		return fmt.Errorf("swap off %s: %w", path, err)
	}
	return nil
}

func swapCall(call uintptr, path string, flags uintptr) error {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(call, uintptr(unsafe.Pointer(name)), flags, 0); errno != 0 {
		return errno
	}
	return nil
}

// swapUsed is how much of a swap device is in use, in bytes; ok is false if the
// kernel does not swap to it. proc is /proc.
func swapUsed(proc, device string) (used int64, ok bool, err error) {
	areas, err := SwapAreas(proc)
	if err != nil {
		return 0, false, err
	}
	for _, area := range areas {
		if area.Name == device {
			return area.Used, true, nil
		}
	}
	return 0, false, nil
}

// SwapArea is a line of /proc/swaps.
type SwapArea struct {
	Name     string // "/dev/nbd0"; blanks in it are written as \040
	Used     int64  // bytes
	Priority int
}

// SwapAreas lists what the kernel swaps to. proc is /proc.
func SwapAreas(proc string) ([]SwapArea, error) {
	text, err := os.ReadFile(filepath.Join(proc, "swaps"))
	if err != nil {
		return nil, fmt.Errorf("read the list of swap areas: %w", err)
	}
	var list []SwapArea
	// Filename Type Size Used Priority, sizes in KiB.
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[0] == "Filename" {
			continue
		}
		kib, err := strconv.ParseInt(fields[3], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read the list of swap areas: %w", err)
		}
		priority, err := strconv.Atoi(fields[4])
		if err != nil {
			return nil, fmt.Errorf("read the list of swap areas: %w", err)
		}
		list = append(list, SwapArea{fields[0], kib << 10, priority})
	}
	return list, nil
}
