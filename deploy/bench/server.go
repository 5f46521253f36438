package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tmemd/tmemd/deploy/bench/client"
)

// Names of the servers.
const (
	serverNbdkit = "nbdkit"      // its memory plugin, raw
	serverZstd   = "nbdkit-zstd" // the same, compressing
	serverEngine = "engine"      // our NBD engine, plain memory
	serverTmemd  = "tmemd"       // the daemon
	serverTier   = "tier"        // what the daemon serves, without the daemon
)

// allServers are measured by default. Ratios are to the first.
var allServers = []string{serverNbdkit, serverZstd, serverEngine, serverTmemd}

// exportName is the name of every server's export.
const exportName = "swap"

// server is a server to measure.
type server struct {
	name  string
	title string
	// command starts it in a folder of its own, with an export of that many
	// pages on the socket.
	command func(folder, socket string, pages int) *exec.Cmd
}

// findServers returns those of the servers asked for that are on the machine,
// and says which are not.
func findServers(ctx context.Context, out io.Writer, o options) ([]server, error) {
	var found []server
	for _, name := range o.servers {
		s, err := findServer(ctx, name, o)
		if errors.Is(err, exec.ErrNotFound) {
			fmt.Fprintf(out, "%s is left out: %v\n\n", name, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, s)
	}
	return found, nil
}

func findServer(ctx context.Context, name string, o options) (server, error) {
	switch name {
	case serverNbdkit, serverZstd:
		path, err := exec.LookPath("nbdkit")
		return server{name, nbdkitTitle(name), nbdkitCommand(path, name)}, err
	case serverEngine, serverTier:
		path, err := os.Executable()
		return server{name, ownTitle(name), ownCommand(path, name, o.profiles)}, err
	case serverTmemd:
		path := o.tmemd
		if path == "" {
			path = filepath.Join(o.folder, "tmemd")
			build := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/tmemd/tmemd/cmd/tmemd")
			if message, err := build.CombinedOutput(); err != nil {
				return server{}, fmt.Errorf("build tmemd (run in the repository, or give -tmemd): %w\n%s", err, message)
			}
		}
		return server{name, "tmemd, zcache (lz4)", func(folder, socket string, pages int) *exec.Cmd {
			return exec.Command(path, "--state-dir", folder, "--size", fmt.Sprintf("%dKiB", pages*pageSize>>10),
				"--backend", "zcache", "--listen", "unix://"+socket, "--metrics", "127.0.0.1:0")
		}}, nil
	}
	return server{}, fmt.Errorf("no server %q: there are %s, %s", name, strings.Join(allServers, ", "), serverTier)
}

func nbdkitTitle(name string) string {
	if name == serverZstd {
		return "nbdkit memory, zstd"
	}
	return "nbdkit memory, raw"
}

func nbdkitCommand(path, name string) func(string, string, int) *exec.Cmd {
	return func(_, socket string, pages int) *exec.Cmd {
		arguments := []string{"--foreground", "--unix", socket, "memory", fmt.Sprintf("size=%d", pages*pageSize)}
		if name == serverZstd {
			arguments = append(arguments, "allocator=zstd")
		}
		return exec.Command(path, arguments...)
	}
}

func ownTitle(name string) string {
	if name == serverTier {
		return "tier, zcache (lz4)"
	}
	return "engine alone, raw"
}

func ownCommand(path, name, profiles string) func(string, string, int) *exec.Cmd {
	device := deviceMemory
	if name == serverTier {
		device = deviceTier
	}
	return func(folder, socket string, pages int) *exec.Cmd {
		arguments := []string{serveCommand, "-device", device, "-socket", socket, "-pages", fmt.Sprint(pages)}
		if profiles != "" {
			arguments = append(arguments, "-profile", filepath.Join(profiles, name+"-"+filepath.Base(folder)+".prof"))
		}
		return exec.Command(path, arguments...)
	}
}

// running is a server that runs.
type running struct {
	command  *exec.Cmd
	socket   string
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
	r.command = s.command(folder, r.socket, pages)
	r.command.Stdout, r.command.Stderr = &r.messages, &r.messages
	r.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go r.supervise(started)
	if err := <-started; err != nil {
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
