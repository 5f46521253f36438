package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// readyTimeout is how long a child may take to get ready; clients are served
// meanwhile.
const readyTimeout = 5 * time.Minute

// child is a process with the new program that rehearses the takeover, as the old
// program sees it.
type child struct {
	process *os.Process
	said    *os.File // our end of what it prints to
	orders  *os.File // our end of what it waits for
	text    bytes.Buffer
}

// startChild starts it. The caller ends it, or hands it over. REQUIRES: the goroutine
// keeps its thread, as the child ends with the thread that started it.
func startChild(program string, h *handover) (_ *child, err error) {
	said, says, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("rehearse the takeover: %w", err)
	}
	defer says.Close()
	listens, orders, err := os.Pipe()
	if err != nil {
		said.Close()
		return nil, fmt.Errorf("rehearse the takeover: %w", err)
	}
	defer listens.Close()
	given := h.locks() // no socket: that would be made blocking on the way
	given.add(ordersPipe, listens)
	process, err := os.StartProcess(program, os.Args, &os.ProcAttr{
		Env:   append(os.Environ(), given.describe(heirRehearses, func(i int) int { return 3 + i })),
		Files: append([]*os.File{nil, says, says}, given.files...),
		Sys:   &unix.SysProcAttr{Pdeathsig: unix.SIGKILL},
	})
	if err != nil {
		said.Close()
		orders.Close()
		return nil, fmt.Errorf("start the new program: %w", err)
	}
	return &child{process: process, said: said, orders: orders}, nil
}

// await waits until the child has said something. It returns an error if the child
// ends without.
func (c *child) await(what string, timeout time.Duration) error {
	if err := c.said.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("listen to the new program: %w", err)
	}
	const most = 16 << 10
	buffer := make([]byte, 4<<10)
	for !strings.Contains(c.text.String(), what+"\n") {
		n, err := c.said.Read(buffer)
		if c.text.Len() < most {
			c.text.Write(buffer[:n])
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("the new program did not find out within %v whether it can take over", timeout)
		case err != nil && n == 0:
			return c.gone()
		}
	}
	return nil
}

// gone is why a child says nothing any more.
func (c *child) gone() error {
	_ = c.process.Kill() // it may have closed its output and stay
	state, err := c.process.Wait()
	if err != nil {
		return fmt.Errorf("wait for the new program: %w", err)
	}
	return fmt.Errorf("the new program cannot take over (%v): %s", state, strings.TrimSpace(c.text.String()))
}

// rehearse has the child rehearse, with everything as it is now.
func (c *child) rehearse(timeout time.Duration) error {
	// Its error is that the child has ended, which await finds out.
	_, _ = c.orders.Write([]byte{0})
	return c.await(rehearsed, timeout)
}

// end ends the child. It may have to wait until clients are served: a page that it
// waits for may be theirs to deliver.
func (c *child) end() {
	c.said.Close()
	c.orders.Close()
	// Their errors are that it has ended, and that it was waited for.
	_ = c.process.Kill()
	_, _ = c.process.Wait()
}

// holderPipe is the name under which the orders of a child are handed over that has
// rehearsed: it holds memory until they are closed.
const holderPipe = "holder"

// handTo makes the child a part of what is handed over.
func (c *child) handTo(h *handover) {
	h.add(holderPipe, c.orders)
	h.child = c.process.Pid
}

// letGo ends the child that the program before this one has left to hold memory, now
// that this one has it.
func (h *Heir) letGo() error {
	if h == nil || h.holder == nil {
		return nil
	}
	err := h.holder.Close()
	if h.child == 0 {
		return err
	}
	// It would end by itself, by way of its own code, and that may take long on a host
	// that is out of memory. Nobody else can have its number before it was waited for.
	for options := unix.WNOHANG; ; {
		ended, waited := unix.Wait4(h.child, nil, options, nil)
		switch {
		case errors.Is(waited, unix.EINTR):
		case waited != nil || ended != 0:
			return errors.Join(err, os.NewSyscallError("wait4", waited))
		default: // it is our child, and lives
			options, err = 0, errors.Join(err, unix.Kill(h.child, unix.SIGKILL))
		}
	}
}
