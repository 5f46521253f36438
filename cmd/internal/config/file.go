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
	Backend  []fileBackend `toml:"backend"`
	NBD      fileNBD       `toml:"nbd"`
}

type fileExport struct {
	Name    *string `toml:"name"`
	Size    literal `toml:"size"`
	Storage *string `toml:"storage"`

	Writethrough *string `toml:"writethrough"`
}

type fileBackend struct {
	Kind *string `toml:"kind"`
	Name *string `toml:"name"`
	Size literal `toml:"size"`
}

type fileNBD struct {
	MaxConnections   *int64  `toml:"max_connections"`
	MaxHandshakes    *int64  `toml:"max_handshakes"`
	Workers          *int64  `toml:"workers"`
	MaxOutstanding   *int64  `toml:"max_outstanding"`
	BufferSize       literal `toml:"buffer_size"`
	HandshakeTimeout *string `toml:"handshake_timeout"`
	StallTimeout     *string `toml:"stall_timeout"`
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
	{"backend", `[[backend]] on a line of its own, then its keys`},
	{"backend.kind", `kind = "zcache"`},
	{"backend.name", `name = "zcache"`},
	{"backend.size", `size = "20%"`},
	{"nbd", `[nbd] on a line of its own, then its keys`},
	{"nbd.max_connections", `max_connections = 256`},
	{"nbd.max_handshakes", `max_handshakes = 64`},
	{"nbd.workers", `workers = 256`},
	{"nbd.max_outstanding", `max_outstanding = 128`},
	{"nbd.buffer_size", `buffer_size = "128MiB"`},
	{"nbd.handshake_timeout", `handshake_timeout = "10s"`},
	{"nbd.stall_timeout", `stall_timeout = "2m"`},
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
