package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/tmemd/tmemd/nbd"
)

// exportMiB is the swap of a guest.
const exportMiB = 512

// swapDevice is an export in plain memory: what a guest swapped out can be counted.
//
// Reads and writes of one page at once do not happen: the client is a kernel that swaps.
type swapDevice struct {
	data []byte
}

var _ nbd.Device = (*swapDevice)(nil)

func (d *swapDevice) Size() (int64, error)                     { return int64(len(d.data)), nil }
func (d *swapDevice) ReadAt(p []byte, off int64) (int, error)  { return copy(p, d.data[off:]), nil }
func (d *swapDevice) WriteAt(p []byte, off int64) (int, error) { return copy(d.data[off:], p), nil }
func (d *swapDevice) TryReadAt(p []byte, off int64) bool       { copy(p, d.data[off:]); return true }
func (d *swapDevice) TryWriteAt(p []byte, off int64) int       { return copy(d.data[off:], p) }
func (d *swapDevice) Sync() error                              { return nil }
func (d *swapDevice) Prefetch(_, _ int64) error                { return nil }

func (d *swapDevice) Trim(off, length int64) error {
	clear(d.data[off : off+length])
	return nil
}

func (d *swapDevice) WriteZeroes(off, length int64, _ bool) error { return d.Trim(off, length) }

func (d *swapDevice) Extents(_, length int64, report func(int64, bool, uint32) bool) error {
	report(length, false, 0)
	return nil
}

// count counts the pages behind the swap's header. Slots that were never in use, or are free
// and discarded, read as zeros; so do pages of zeros, which cost as little.
func (d *swapDevice) count() (*census, error) {
	c, err := newCensus()
	if err != nil {
		return nil, err
	}
	for page := d.data[pageSize:]; len(page) > 0; page = page[pageSize:] {
		c.add(page[:pageSize])
	}
	return c, nil
}

// machine is a guest and the server that it swaps to. Its methods are for one goroutine.
type machine struct {
	device  *swapDevice
	port    int
	input   io.Writer
	lines   chan string // of its console, those for the host; closed when it ends
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	ended   error  // how, when lines is closed
	console []byte // what it printed last, when lines is closed
}

// startMachine starts QEMU and a server. The caller must close it.
func startMachine(ctx context.Context, arguments []string) (*machine, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m := &machine{
		device: &swapDevice{data: make([]byte, exportMiB<<20)}, port: listener.Addr().(*net.TCPAddr).Port,
		lines: make(chan string, 64),
	}
	server, err := nbd.NewServer(nbd.Config{Exports: []nbd.Export{{Name: "swap", Device: m.device}}})
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	ctx, m.cancel = context.WithCancel(ctx)
	command := exec.CommandContext(ctx, "qemu-system-x86_64", arguments...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	input, err := command.StdinPipe()
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	m.input = input
	output, err := command.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	command.Stderr = command.Stdout
	m.tasks.Go(func() {
		_ = server.Serve(ctx, listener) // ends with ctx; the guest sees all else
		server.Close()
	})
	started := make(chan error)
	m.tasks.Go(func() {
		runtime.LockOSThread() // Pdeathsig counts the thread
		defer runtime.UnlockOSThread()
		err := command.Start()
		started <- err
		if err != nil {
			return
		}
		m.read(output)
		m.ended = command.Wait()
		close(m.lines)
	})
	if err := <-started; err != nil {
		m.close()
		return nil, fmt.Errorf("start qemu: %w", err)
	}
	return m, nil
}

func (m *machine) read(output io.Reader) {
	for lines := bufio.NewScanner(output); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if _, told, ok := strings.Cut(line, "dedup: "); ok {
			m.lines <- told
			continue
		}
		m.console = append(m.console, line+"\n"...)
		m.console = m.console[max(0, len(m.console)-8<<10):]
	}
}

// await returns the rest of the next line, which has to begin with a word.
func (m *machine) await(ctx context.Context, word string) (string, error) {
	select {
	case line, ok := <-m.lines:
		if !ok {
			return "", fmt.Errorf("the guest ended: %v\n%s", m.ended, m.console)
		}
		rest, is := strings.CutPrefix(line, word)
		if !is {
			m.cancel()
			for range m.lines {
			}
			return "", fmt.Errorf("the guest said %q, not %q\n%s", line, word, m.console)
		}
		return strings.TrimSpace(rest), nil
	case <-ctx.Done():
		m.cancel()
		for range m.lines {
		}
		return "", fmt.Errorf("wait for %q: %w\n%s", word, ctx.Err(), m.console)
	}
}

func (m *machine) say(line string) error {
	_, err := io.WriteString(m.input, line+"\n")
	return err
}

// close ends the guest and the server.
func (m *machine) close() {
	m.cancel()
	m.tasks.Wait()
}
