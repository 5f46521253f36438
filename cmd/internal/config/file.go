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
	StateDir *string          `toml:"state_dir"`
	Memory   *string          `toml:"memory_dir"`
	Listen   []string         `toml:"listen"`
	Metrics  *string          `toml:"metrics"`
	LogLevel *string          `toml:"log_level"`
	Client   []filePoolClient `toml:"client"`
	Template []fileTemplate   `toml:"template"`
	Export   []fileExport     `toml:"export"`
	Base     []fileBase       `toml:"base"`
	Disk     []fileDisk       `toml:"disk"`
	Backend  []fileBackend    `toml:"backend"`
	NBD      fileNBD          `toml:"nbd"`
	Host     fileHost         `toml:"host"`
	Ramster  fileRamster      `toml:"ramster"`
	Donor    *fileDonor       `toml:"donor"`

	StatusPage *bool `toml:"status_page"`

	MetricsExports *int `toml:"metrics_exports"`
}

type fileExport struct {
	Name    *string `toml:"name"`
	Size    literal `toml:"size"`
	Storage *string `toml:"storage"`

	Writethrough *string  `toml:"writethrough"`
	Allow        []string `toml:"allow"`
	Client       *string  `toml:"client"`
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
