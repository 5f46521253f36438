package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/tmemd/tmemd/nbd/client"
)

// exportName is the name of every server's export.
const exportName = "swap"

// server is a server to measure.
type server struct {
	name  string
	title string
	// prepare makes the command that starts it in a folder of its own, with an
	// export of that many pages on the socket. It may leave a file elsewhere,
	// which is to be removed afterwards.
	prepare func(folder, socket string, pages int) (command *exec.Cmd, leaves string, err error)
	lacks   map[string]string // titles of columns that it cannot do, and why
	outside bool              // its pages are not in its own memory
}

// running is a server that runs.
type running struct {
	command  *exec.Cmd
	socket   string
	leaves   string        // a file to remove, or empty
	messages bytes.Buffer  // what it printed; read after ended
	ended    chan struct{} // closed when it has been waited for
	waited   error         // set before ended is closed
}

const (
	startLimit = 30 * time.Second
	endLimit   = 10 * time.Second
)

// start starts a server and returns when it takes connections.
func (s server) start(ctx context.Context, folder string, pages int) (*running, *client.Conn, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, nil, err
	}
	r := &running{socket: filepath.Join(folder, "nbd.sock"), ended: make(chan struct{})}
	var err error
	if r.command, r.leaves, err = s.prepare(folder, r.socket, pages); err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	r.command.Stdout, r.command.Stderr = &r.messages, &r.messages
	r.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go r.supervise(started)
	if err := <-started; err != nil {
		r.remove()
		return nil, nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	conn, err := r.connect(ctx)
	if err != nil {
		r.end()
		return nil, nil, fmt.Errorf("start %s: %w\n%s", s.name, err, r.messages.String())
	}
	return r, conn, nil
}

// supervise starts the process and waits for it, on one thread: when the thread
// that started it ends, Pdeathsig ends the process.
func (r *running) supervise(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := r.command.Start()
	started <- err
	if err != nil {
		return
	}
	r.waited = r.command.Wait()
	close(r.ended)
}

// connect waits for the socket.
func (r *running) connect(ctx context.Context) (*client.Conn, error) {
	for deadline := time.Now().Add(startLimit); ; {
		conn, err := client.Dial(ctx, "unix", r.socket, exportName)
		if err == nil {
			return conn, nil
		}
		select {
		case <-r.ended:
			return nil, fmt.Errorf("it ended: %w", r.waited)
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, err
		}
	}
}

func (r *running) pid() int { return r.command.Process.Pid }

// end ends the server: our own ones have a profile to write or memory files to
// remove, the rest have nothing that is needed any more.
func (r *running) end() {
	defer r.remove()
	signal := syscall.SIGKILL
	if slices.Contains(r.command.Args, serveCommand) || slices.Contains(r.command.Args, "--state-dir") {
		signal = syscall.SIGTERM
	}
	// Errors mean that it has ended.
	_ = syscall.Kill(-r.pid(), signal)
	select {
	case <-r.ended:
	case <-time.After(endLimit):
		_ = syscall.Kill(-r.pid(), syscall.SIGKILL)
		<-r.ended
	}
}

// remove removes what the server leaves behind.
func (r *running) remove() {
	if r.leaves != "" {
		_ = os.Remove(r.leaves) // it may have done so itself
	}
}
