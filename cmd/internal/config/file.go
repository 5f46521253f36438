package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// A configuration file is at most this long, in bytes.
const maxFileSize = 1 << 20

// file is the configuration file as it is decoded. Its tags are the keys.
// Pointers and nil slices tell what is not there.
type file struct {
	StateDir *string       `toml:"state_dir"`
	Memory   *string       `toml:"memory_dir"`
	Listen   []string      `toml:"listen"`
	Metrics  *string       `toml:"metrics"`
	LogLevel *string       `toml:"log_level"`
	Export   []fileExport  `toml:"export"`
	Base     []fileBase    `toml:"base"`
	Disk     []fileDisk    `toml:"disk"`
	Backend  []fileBackend `toml:"backend"`
	NBD      fileNBD       `toml:"nbd"`
	Host     fileHost      `toml:"host"`
}

type fileExport struct {
	Name    *string `toml:"name"`
	Size    literal `toml:"size"`
	Storage *string `toml:"storage"`

	Writethrough *string  `toml:"writethrough"`
	Allow        []string `toml:"allow"`
}

type fileDisk struct {
	Name     *string  `toml:"name"`
	Path     *string  `toml:"path"`
	ReadOnly bool     `toml:"read_only"`
	Mode     *string  `toml:"mode"`
	Allow    []string `toml:"allow"`
	Base     *string  `toml:"base"`
	Shared   *string  `toml:"shared"`
}

type fileBase struct {
	Name *string `toml:"name"`
	Path *string `toml:"path"`
	UUID *string `toml:"uuid"`
}

type fileBackend struct {
	Kind *string `toml:"kind"`
	Name *string `toml:"name"`
	Size literal `toml:"size"`

	fileZcache
}

// fileZcache are the settings of a zcache; see zcacheSettings.
type fileZcache struct {
	MaxPool        literal `toml:"max_pool"`
	SelfSizing     literal `toml:"self_sizing"`
	MinPool        literal `toml:"min_pool"`
	Codec          literal `toml:"codec"`
	Incompressible literal `toml:"incompressible"`
	Accept         literal `toml:"accept_threshold_percent"`
	Staging        literal `toml:"staging"`
	ColdAfter      literal `toml:"cold_after"`
	ColdCPU        literal `toml:"cold_cpu_percent"`
	ScrubPeriod    literal `toml:"scrub_period"`
}

// settings are those that are in the file.
func (f fileZcache) settings() []Setting {
	var given []Setting
	for _, s := range []Setting{
		{"max_pool", string(f.MaxPool)}, {"self_sizing", string(f.SelfSizing)}, {"min_pool", string(f.MinPool)},
		{"codec", string(f.Codec)}, {"incompressible", string(f.Incompressible)}, {"accept_threshold_percent", string(f.Accept)},
		{"staging", string(f.Staging)}, {"cold_after", string(f.ColdAfter)}, {"cold_cpu_percent", string(f.ColdCPU)},
		{"scrub_period", string(f.ScrubPeriod)},
	} {
		if s.Value != "" {
			given = append(given, s)
		}
	}
	return given
}

type fileNBD struct {
	MaxConnections   *int64  `toml:"max_connections"`
	MaxHandshakes    *int64  `toml:"max_handshakes"`
	Workers          *int64  `toml:"workers"`
	MaxOutstanding   *int64  `toml:"max_outstanding"`
	BufferSize       literal `toml:"buffer_size"`
	HandshakeTimeout *string `toml:"handshake_timeout"`
	StallTimeout     *string `toml:"stall_timeout"`
	SocketMode       literal `toml:"socket_mode"`
	SocketOwner      literal `toml:"socket_owner"`
	SocketGroup      literal `toml:"socket_group"`
	TLS              fileTLS `toml:"tls"`
}

type fileTLS struct {
	Mode        *string `toml:"mode"`
	Certificate *string `toml:"certificate"`
	Key         *string `toml:"key"`
	ClientCA    *string `toml:"client_ca"`
}

type fileHost struct {
	Protect *string `toml:"protect"`
	Touch   bool    `toml:"touch"`
}

// literal is a TOML string or number as it was written, so that size = 4096 and
// size = "4KiB" both work and both get errors of our own.
type literal string

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *literal) UnmarshalText(text []byte) error {
	*l = literal(text)
	return nil
}

// keys lists what a configuration file may hold, with a value to show.
var keys = []struct{ name, example string }{
	{"state_dir", `state_dir = "/var/lib/tmemd"`},
	{"memory_dir", `memory_dir = "/dev/shm/tmemd"`},
	{"listen", `listen = ["unix:///run/tmemd/nbd.sock", "tcp://127.0.0.1:10809"]`},
	{"metrics", `metrics = "127.0.0.1:9757"`},
	{"log_level", `log_level = "info"`},
	{"export", `[[export]] on a line of its own, then its keys`},
	{"export.name", `name = "swap"`},
	{"export.size", `size = "8GiB"`},
	{"export.storage", `storage = "/var/lib/tmemd/swap.img"`},
	{"export.writethrough", `writethrough = "async"`},
	{"export.allow", `allow = ["cert:client1", "uid:1000", "gid:1000"]`},
	{"disk", `[[disk]] on a line of its own, then its keys`},
	{"disk.name", `name = "root"`},
	{"disk.path", `path = "/var/lib/images/root.img"`},
	{"disk.read_only", `read_only = true`},
	{"disk.mode", `mode = "inclusive"`},
	{"disk.allow", `allow = ["cert:client1", "uid:1000", "gid:1000"]`},
	{"disk.base", `base = "debian"`},
	{"disk.shared", `shared = "0e3a5c84-93f1-4d2e-a1b7-5f60c9d8e721"`},
	{"base", `[[base]] on a line of its own, then its keys`},
	{"base.name", `name = "debian"`},
	{"base.path", `path = "/var/lib/images/debian.img"`},
	{"base.uuid", `uuid = "0e3a5c84-93f1-4d2e-a1b7-5f60c9d8e721"`},
	{"backend", `[[backend]] on a line of its own, then its keys`},
	{"backend.kind", `kind = "zcache"`},
	{"backend.name", `name = "zcache"`},
	{"backend.size", `size = "20%"`},
	{"backend.max_pool", `max_pool = "20%"`},
	{"backend.self_sizing", `self_sizing = "on"`},
	{"backend.min_pool", `min_pool = "5%"`},
	{"backend.codec", `codec = "lz4"`},
	{"backend.incompressible", `incompressible = "refuse"`},
	{"backend.accept_threshold_percent", `accept_threshold_percent = 90`},
	{"backend.staging", `staging = "64MiB"`},
	{"backend.cold_after", `cold_after = "10m"`},
	{"backend.cold_cpu_percent", `cold_cpu_percent = 10`},
	{"backend.scrub_period", `scrub_period = "6h"`},
	{"nbd", `[nbd] on a line of its own, then its keys`},
	{"nbd.max_connections", `max_connections = 256`},
	{"nbd.max_handshakes", `max_handshakes = 64`},
	{"nbd.workers", `workers = 256`},
	{"nbd.max_outstanding", `max_outstanding = 128`},
	{"nbd.buffer_size", `buffer_size = "128MiB"`},
	{"nbd.handshake_timeout", `handshake_timeout = "10s"`},
	{"nbd.stall_timeout", `stall_timeout = "2m"`},
	{"nbd.socket_mode", `socket_mode = "0660"`},
	{"nbd.socket_owner", `socket_owner = "root"`},
	{"nbd.socket_group", `socket_group = "disk"`},
	{"nbd.tls", `[nbd.tls] on a line of its own, then its keys`},
	{"nbd.tls.mode", `mode = "required"`},
	{"nbd.tls.certificate", `certificate = "/etc/tmemd/server.crt"`},
	{"nbd.tls.key", `key = "/etc/tmemd/server.key"`},
	{"nbd.tls.client_ca", `client_ca = "/etc/tmemd/clients.crt"`},
	{"host", `[host] on a line of its own, then its keys`},
	{"host.protect", `protect = "auto"`},
	{"host.touch", `touch = true`},
}

// readFile decodes a configuration file. The positions are good for errors in
// what was decoded.
func readFile(path string) (file, positions, error) {
	var f file
	st, err := os.Stat(path)
	if err == nil && st.Size() > maxFileSize {
		return f, positions{}, cli.Misuse("is it the right file?", "--config: %s has %s, the limit is %s",
			path, cli.Bytes(uint64(st.Size())), cli.Bytes(maxFileSize))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return f, positions{}, cli.Misuse("give --config the path of a TOML file, or leave it out to run on defaults", "--config: %v", err)
	}
	p := findPositions(path, text)
	decoder := toml.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	return f, p, p.explain(decoder.Decode(&f))
}

// explain makes errors for humans of what the decoder returned.
func (p positions) explain(err error) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		var all []error
		for i := range unknown.Errors {
			e := &unknown.Errors[i]
			row, column := e.Position()
			key := strings.Join(e.Key(), ".")
			all = append(all, p.misuse(row, column, key, "unknown key", cureUnknown(key)))
		}
		return errors.Join(all...)
	}
	var bad *toml.DecodeError
	if !errors.As(err, &bad) {
		return err
	}
	row, column := bad.Position()
	key := strings.Join(bad.Key(), ".")
	message := strings.TrimPrefix(bad.Error(), "toml: ")
	if kind, mismatch := strings.CutPrefix(message, "cannot decode TOML "); mismatch {
		kind, _, _ = strings.Cut(kind, " into")
		return p.misuse(row, column, key, fmt.Sprintf("a value of type %s is not expected here", kind), "write "+exampleOf(key))
	}
	return p.misuse(row, column, key, message, "correct the line; see https://toml.io for the syntax")
}

func exampleOf(key string) string {
	for _, k := range keys {
		if strings.EqualFold(k.name, key) {
			return k.example
		}
	}
	return "a value of another type"
}

// cureUnknown suggests the nearest key, or names the ones of the same table.
func cureUnknown(key string) string {
	best, nearest := 3, "" // more than two letters off is another word
	for _, k := range keys {
		if d := distance(strings.ToLower(key), k.name); d < best {
			best, nearest = d, k.name
		}
	}
	if nearest != "" {
		return "did you mean " + lastPart(nearest) + "?"
	}
	table := strings.TrimSuffix(key, lastPart(key))
	var names []string
	for _, k := range keys {
		if name, found := strings.CutPrefix(k.name, table); found && !strings.Contains(name, ".") {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "remove it"
	}
	return "remove it; the keys here are " + strings.Join(names, ", ")
}

func lastPart(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// distance is the number of letters to insert, delete or replace to make b of a
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
