package config

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cleancache"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/protect"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/tier"
)

// Config is everything that the daemon can be told, checked and complete.
type Config struct {
	StateDir      string // absolute
	Memory        string // folder on memory for what outlives the process, absolute; empty for none
	MemoryChosen  bool   // somebody asked for this folder; else the daemon can do without
	Fresh         bool   // empty the storage first
	AllowFaults   bool   // backends and storage can be made to fail
	LogLevel      slog.Level
	Listen        []Address
	Metrics       string // HOST:PORT, or empty for none
	MetricsChosen bool   // somebody asked for this address; else another will do
	Clients       []Client
	Templates     []Template
	Exports       []Export
	Bases         []Base
	Disks         []Disk
	Backends      []Backend
	NBD           NBD
	Ramster       PeerTLS // of backends that are other hosts' memory
	Donor         *Donor  // nil: no memory is lent
	DonorOnly     bool    // nothing is served but memory: there are no exports, and no backends

	MetricsExports int // how many exports have series of their own

	StatusPage bool // there is a page for browsers beside the metrics

	Protect protect.Mode // for swap of this host
	Touch   bool         // take page maps' and backends' memory at the start

	origins map[string]origin // by key, "listen[0]"
	given   map[string]bool   // names of the flags that were there
	written Written
}

// Files are the paths of the files that a daemon with these settings reads when it
// starts.
func (c *Config) Files() (paths []string) {
	paths = []string{c.origins["config"].flag}
	if t := c.NBD.TLS; t.Mode != nbd.TLSOff {
		paths = append(paths, t.Certificate, t.Key, t.ClientCA)
	}
	return slices.DeleteFunc(paths, func(path string) bool { return path == "" })
}

// Export is one export to serve.
type Export struct {
	Name       string
	Size       int64 // bytes, a multiple of the page size
	SizeChosen bool  // somebody asked for this size; else an existing export keeps its own
	Storage    string

	Writethrough tier.Writethrough // to begin with
	Allow        []string          // who may open it, as ParseAccess takes it; nil has no rules
	Client       string            // whom it belongs to; empty is frontswap's default
}

// Disk is one disk to serve, with a cache.
type Disk struct {
	Name     string
	Path     string // of a file or block device that is there
	ReadOnly bool
	Mode     cleancache.Mode // to begin with
	Allow    []string        // as of an Export

	Base   string           // the name of the base that Path is an overlay over, made if it is not there; or empty
	Shared *cleancache.UUID // the name that it shares its cached pages under, of one of the bases; or nil
}

// Base is an image that disks lie over, or share content with.
type Base struct {
	Name string
	Path string
	UUID cleancache.UUID // says that the content is the same
}

// Backend is one backend to load at start.
type Backend struct {
	Kind string
	Name string

	Memory int64 // of this host that it may take, in bytes

	Zcache  zcache.Config // of one of that kind
	Ramster Ramster       // of one of that kind
}

// Host is what the defaults depend on.
type Host struct {
	RAM   int64               // bytes
	Root  bool                // whether the user is root
	Env   func(string) string // the environment
	Kinds []string            // the backends that the daemon can load
}

// ThisHost describes the machine and the user.
func ThisHost(kinds []string) (Host, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return Host{}, fmt.Errorf("find out the size of RAM: %w", os.NewSyscallError("sysinfo", err))
	}
	ram := int64(info.Totalram) * int64(info.Unit)
	return Host{RAM: ram, Root: os.Geteuid() == 0, Env: os.Getenv, Kinds: kinds}, nil
}

// DefaultStateDir is where a daemon of this user keeps its state.
func (h Host) DefaultStateDir() (string, error) {
	return DefaultStateDir(h.Root, h.Env)
}

// DefaultStateDir is where a daemon of that user keeps its state.
func DefaultStateDir(root bool, env func(string) string) (string, error) {
	if root {
		return "/var/lib/tmemd", nil
	}
	if dir := env("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "tmemd"), nil
	}
	if home := env("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "tmemd"), nil
	}
	return "", cli.Misuse("give --state-dir a folder of your own", "there is no default state folder: neither XDG_STATE_HOME nor HOME is an absolute path")
}

// origin says where a setting came from.
type origin struct {
	flag string // "--size", or empty
	pos  position
	key  string // "export.size", as it is shown
}

// Fault is an error at run time about a setting, given by its key, that names
// where it came from.
func (c *Config) Fault(key, hint string, err error) *cli.Error {
	return cli.Failure(hint, "%s%v", c.origins[key].prefix(c.origins["config"].flag), err)
}

// prefix is what an error about the setting begins with; path is the file.
func (o origin) prefix(path string) string {
	switch {
	case o.flag != "":
		return o.flag + ": "
	case o.pos.line > 0:
		return fmt.Sprintf("%s:%d: %s: ", path, o.pos.line, o.key)
	case o.key != "":
		return o.key + " (default): "
	}
	return ""
}
