package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Names of the servers.
const (
	serverNbdkit = "nbdkit"      // its memory plugin, raw
	serverZstd   = "nbdkit-zstd" // the same, compressing
	serverQemu   = "qemu-nbd"    // a file in memory
	serverGoNBD  = "go-nbd"      // go-nbd's server, plain memory
	serverEngine = "engine"      // our NBD engine, plain memory
	serverTmemd  = "tmemd"       // the daemon, with its defaults
	serverKeep   = "tmemd-keep"  // the daemon, keeping incompressible pages too
	serverTier   = "tier"        // what the daemon serves, without the daemon
)

// allServers are measured by default. Ratios are to the first.
var allServers = []string{serverNbdkit, serverZstd, serverQemu, serverGoNBD, serverEngine, serverTmemd, serverKeep}

// keepSetting is the line of a backend's configuration that has zcache keep
// incompressible pages in memory.
const keepSetting = `incompressible = "keep"`

// titles are what the report calls them.
var titles = map[string]string{
	serverNbdkit: "nbdkit memory, raw",
	serverZstd:   "nbdkit memory, zstd",
	serverQemu:   "qemu-nbd, tmpfs",
	serverGoNBD:  "go-nbd memory, raw",
	serverEngine: "engine alone, raw",
	serverTmemd:  "tmemd, zcache (lz4)",
	serverKeep:   "tmemd, keeping all",
	serverTier:   "tier, zcache (lz4)",
}

// errAbsent is a server that cannot be had here.
var errAbsent = errors.New("not to be had here")

// findServers returns those of the servers asked for that are on the machine,
// and says which are not.
func findServers(ctx context.Context, out io.Writer, o options) ([]server, error) {
	var found []server
	for _, name := range o.servers {
		s, err := findServer(ctx, name, o)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, errAbsent) {
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
	s := server{name: name, title: titles[name]}
	var path string
	var err error
	switch name {
	case serverNbdkit:
		path, err = exec.LookPath("nbdkit")
		s.prepare = nbdkit(path)
	case serverZstd:
		path, err = exec.LookPath("nbdkit")
		s.prepare = nbdkit(path, "allocator=zstd")
	case serverQemu:
		return findQemu(s)
	case serverEngine, serverTier, serverGoNBD:
		path, err = os.Executable()
		s.prepare = ownServer(path, name, o.profiles)
		if name == serverGoNBD {
			s.lacks = map[string]string{swapQD16: "its server takes the requests behind a TRIM for the TRIM's payload"}
		}
	case serverTmemd:
		path, err = findTmemd(ctx, o)
		s.prepare = tmemd(path, "", "--backend", "zcache")
	case serverKeep:
		path, err = findTmemd(ctx, o)
		s.prepare = tmemd(path, "[[backend]]\nkind = \"zcache\"\n"+keepSetting+"\n")
	default:
		err = fmt.Errorf("no server %q: there are %s, %s", name, strings.Join(allServers, ", "), serverTier)
	}
	return s, err
}

func nbdkit(path string, more ...string) func(string, string, int) (*exec.Cmd, string, error) {
	return func(_, socket string, pages int) (*exec.Cmd, string, error) {
		arguments := []string{"--foreground", "--unix", socket, "memory", fmt.Sprintf("size=%d", pages*pageSize)}
		return exec.Command(path, append(arguments, more...)...), "", nil
	}
}

// sharedMemory is where a tmpfs is on every Linux.
const sharedMemory = "/dev/shm"

// findQemu finds qemu-nbd and how it can use a file in memory: native AIO takes
// O_DIRECT, which tmpfs has since Linux 6.6.
func findQemu(s server) (server, error) {
	path, err := exec.LookPath("qemu-nbd")
	if err != nil {
		return s, err
	}
	probe, err := os.CreateTemp(sharedMemory, "bench-")
	if err != nil {
		return s, fmt.Errorf("%w: %w", errAbsent, err)
	}
	defer os.Remove(probe.Name())
	defer probe.Close()
	access := []string{"--cache=none", "--aio=native"}
	s.title += ", native aio"
	if direct, err := os.OpenFile(probe.Name(), os.O_RDWR|unix.O_DIRECT, 0); err == nil {
		direct.Close()
	} else {
		access = []string{"--cache=writeback", "--aio=threads"}
		s.title = titles[serverQemu] + ", threads"
	}
	s.outside = true
	s.prepare = func(_, socket string, pages int) (*exec.Cmd, string, error) {
		file, err := os.CreateTemp(sharedMemory, "bench-")
		if err != nil {
			return nil, "", err
		}
		defer file.Close()
		if err := file.Truncate(int64(pages) * pageSize); err != nil {
			os.Remove(file.Name())
			return nil, "", err
		}
		arguments := append([]string{"--format=raw", "--discard=unmap", "--shared=16", "--persistent",
			"--export-name=" + exportName, "--socket=" + socket}, access...)
		return exec.Command(path, append(arguments, file.Name())...), file.Name(), nil
	}
	return s, nil
}

// ownServer is this program as a server.
func ownServer(path, name, profiles string) func(string, string, int) (*exec.Cmd, string, error) {
	device, engine := deviceMemory, engineOwn
	switch name {
	case serverTier:
		device = deviceTier
	case serverGoNBD:
		engine = engineGoNBD
	}
	return func(folder, socket string, pages int) (*exec.Cmd, string, error) {
		arguments := []string{serveCommand, "-device", device, "-engine", engine, "-socket", socket, "-pages", fmt.Sprint(pages)}
		if profiles != "" {
			arguments = append(arguments, "-profile", filepath.Join(profiles, name+"-"+filepath.Base(folder)+".prof"))
		}
		return exec.Command(path, arguments...), "", nil
	}
}

// findTmemd returns the daemon's binary, which it builds if it has to.
func findTmemd(ctx context.Context, o options) (string, error) {
	if o.tmemd != "" {
		return o.tmemd, nil
	}
	path := filepath.Join(o.folder, "tmemd")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/tmemd/tmemd/cmd/tmemd")
	if message, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build tmemd (run in the repository, or give -tmemd): %w\n%s", err, message)
	}
	return path, nil
}

// tmemd is the daemon with a configuration file of that content, if there is any,
// and more flags.
func tmemd(path, configuration string, more ...string) func(string, string, int) (*exec.Cmd, string, error) {
	return func(folder, socket string, pages int) (*exec.Cmd, string, error) {
		arguments := []string{"--state-dir", folder, "--size", fmt.Sprintf("%dKiB", pages*pageSize>>10),
			"--listen", "unix://" + socket, "--metrics", "127.0.0.1:0"}
		if configuration != "" {
			file := filepath.Join(folder, "tmemd.toml")
			if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
				return nil, "", err
			}
			arguments = append(arguments, "--config", file)
		}
		return exec.Command(path, append(arguments, more...)...), "", nil
	}
}
