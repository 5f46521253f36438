package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/sharedmem"
	"github.com/tmemd/tmemd/deploy/corpus"
	"github.com/tmemd/tmemd/nbd/client"
)

// zramControl is where the kernel's zram driver makes devices: reading hot_add
// makes one, writing its number to hot_remove removes it.
const zramControl = "/sys/class/zram-control"

// zramColumns are the workloads that zram is measured with. There is no depth:
// the driver compresses in the thread that asks.
var zramColumns = []column{
	{"write, first time", 1, columns[0].make, once},
	{"read", 1, randomRead, timed},
	{"write", 1, randomWrite, timed},
	{"swap pattern", 1, swapPattern, timed},
}

const zramSwap = 3 // index of the swap pattern

// zramHere says why zram cannot be measured, or nothing.
func zramHere() error {
	if os.Geteuid() != 0 {
		return errors.New("making a device takes root")
	}
	if _, err := os.Stat(filepath.Join(zramControl, "hot_add")); err != nil {
		return fmt.Errorf("the kernel has no zram loaded: %w", err)
	}
	return nil
}

// measureZram takes a new device through all zramColumns.
func measureZram(ctx context.Context, folder string, pages *corpus.Corpus, o options) (cells []cell, err error) {
	z, err := openZram(folder, pages.Pages())
	if err != nil {
		return nil, fmt.Errorf("measure zram: %w", err)
	}
	defer func() { err = errors.Join(err, z.Close()) }()
	content := client.NewContent(pages, 0, pages.Pages())
	for i, c := range zramColumns {
		duration := o.cell
		if c.way == once {
			duration = 1<<63 - 1
		}
		result, processor, err := z.run(ctx, c.make(content, o.seed+uint64(i)), duration)
		if err != nil {
			return nil, fmt.Errorf("measure zram: %s: %w", c.title, err)
		}
		cells = append(cells, makeCell(result, latenciesOf(result), processor))
	}
	return cells, nil
}

// zramDevice is a zram device of our own. Close removes it.
type zramDevice struct {
	number string
	node   string // made here and to be removed, or empty
	file   *os.File
	page   *sharedmem.Region // aligned for O_DIRECT
}

func openZram(folder string, pages int) (_ *zramDevice, err error) {
	text, err := os.ReadFile(filepath.Join(zramControl, "hot_add"))
	if err != nil {
		return nil, fmt.Errorf("add a device: %w", err)
	}
	z := &zramDevice{number: strings.TrimSpace(string(text))}
	defer func() {
		if err != nil {
			err = errors.Join(err, z.Close())
		}
	}()
	settings := filepath.Join("/sys/block", "zram"+z.number)
	for _, set := range []struct{ name, value string }{
		{"comp_algorithm", "lz4"}, {"disksize", fmt.Sprint(pages * pageSize)},
	} {
		if err := os.WriteFile(filepath.Join(settings, set.name), []byte(set.value), 0); err != nil {
			return nil, err
		}
	}
	node := filepath.Join("/dev", "zram"+z.number)
	if _, err := os.Stat(node); errors.Is(err, os.ErrNotExist) {
		if node, err = z.makeNode(settings, folder); err != nil {
			return nil, err
		}
	}
	if z.file, err = os.OpenFile(node, os.O_RDWR|unix.O_DIRECT, 0); err != nil {
		return nil, err
	}
	z.page, err = sharedmem.NewPrivate("zram page", pageSize)
	return z, err
}

// makeNode is for machines without devtmpfs or udev.
func (z *zramDevice) makeNode(settings, folder string) (string, error) {
	text, err := os.ReadFile(filepath.Join(settings, "dev"))
	if err != nil {
		return "", err
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil {
		return "", fmt.Errorf("numbers of the device: %w", err)
	}
	z.node = filepath.Join(folder, "zram"+z.number)
	if err := unix.Mknod(z.node, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return "", fmt.Errorf("make a node for the device: %w", err)
	}
	return z.node, nil
}

// Close removes the device, with what is in it.
func (z *zramDevice) Close() error {
	var errs []error
	if z.page != nil {
		errs = append(errs, z.page.Close())
	}
	if z.file != nil {
		errs = append(errs, z.file.Close())
	}
	if z.node != "" {
		errs = append(errs, os.Remove(z.node))
	}
	// udev may have the new device open for a moment.
	var err error
	for range 100 {
		if err = os.WriteFile(filepath.Join(zramControl, "hot_remove"), []byte(z.number), 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.Join(append(errs, err)...)
}

// run drives the device with a workload, one request after the other, and returns
// the processor time of the thread, which is all that was spent.
func (z *zramDevice) run(ctx context.Context, w client.Workload, duration time.Duration) (*client.Result, time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	result := new(client.Result)
	before, err := threadTime()
	if err != nil {
		return nil, 0, err
	}
	var r client.Request
	start := time.Now()
	for now := time.Duration(0); now < duration && ctx.Err() == nil && w.Next(&r); {
		if err := z.do(&r); err != nil {
			return nil, 0, fmt.Errorf("%v at offset %d: %w", r.Command, r.Offset, err)
		}
		w.Done(&r)
		done := time.Since(start)
		switch r.Command {
		case client.Read:
			result.Reads.Add(done-now, 1)
		case client.Write:
			result.Writes.Add(done-now, 1)
		default:
			result.Others.Add(done-now, 1)
		}
		now = done
	}
	result.Elapsed = time.Since(start)
	after, err := threadTime()
	return result, after - before, errors.Join(err, ctx.Err())
}

// do executes one request. The pages of a corpus are aligned as O_DIRECT needs
// it, as is all large memory of Go, so that a write costs no copy of ours.
func (z *zramDevice) do(r *client.Request) error {
	switch r.Command {
	case client.Read:
		if _, err := z.file.ReadAt(z.page.Bytes(), int64(r.Offset)); err != nil {
			return err
		}
		if r.Data != nil && !bytes.Equal(r.Data, z.page.Bytes()) {
			return errors.New("wrong content")
		}
		return nil
	case client.Write:
		_, err := z.file.WriteAt(r.Data, int64(r.Offset))
		return err
	case client.Trim:
		part := [2]uint64{r.Offset, uint64(r.Length)}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, z.file.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&part))); errno != 0 {
			return fmt.Errorf("BLKDISCARD: %w", errno)
		}
		return nil
	}
	return errors.New("no such request for a block device")
}

// threadTime is what the calling thread has used.
func threadTime() (time.Duration, error) {
	var used unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &used); err != nil {
		return 0, fmt.Errorf("processor time of the thread: %w", err)
	}
	return time.Duration(used.Nano()), nil
}
