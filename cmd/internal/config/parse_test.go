package config

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/backends/zcache"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

const gib = 1 << 30

// testHost has 16 GiB of RAM, and a home in the test's own folder.
func testHost(home string) Host {
	env := map[string]string{"HOME": home}
	return Host{RAM: 16 * gib, Env: func(name string) string { return env[name] }, Kinds: []string{"zcache"}}
}

// parseText parses the flags and, if text is not empty, a file of that content.
// DIR in both stands for a folder of the test.
func parseText(t *testing.T, dir, text string, args ...string) (*Config, error) {
	t.Helper()
	in := func(s string) string { return strings.ReplaceAll(s, "DIR", dir) }
	for i := range args {
		args[i] = in(args[i])
	}
	if text != "" {
		path := filepath.Join(dir, "tmemd.toml")
		if err := os.WriteFile(path, []byte(in(text)), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	config, _, err := Parse(args, testHost(dir))
	return config, err
}

func TestDefaults(t *testing.T) {
	dir := t.TempDir()
	config, err := parseText(t, dir, "")
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, ".local/state/tmemd")
	if config.StateDir != state || config.Fresh || config.LogLevel != slog.LevelInfo {
		t.Errorf("state folder %q, fresh %v, level %v", config.StateDir, config.Fresh, config.LogLevel)
	}
	if len(config.Listen) != 1 || config.Listen[0].String() != "unix://"+state+"/nbd.sock" {
		t.Errorf("Listen = %v", config.Listen)
	}
	if config.Metrics != "127.0.0.1:9757" || config.MetricsChosen {
		t.Errorf("Metrics = %q, chosen %v", config.Metrics, config.MetricsChosen)
	}
	if len(config.Exports) != 1 || !reflect.DeepEqual(config.Exports[0], Export{Name: "swap", Size: 16 * gib, Storage: state + "/swap.img"}) {
		t.Errorf("Exports = %+v", config.Exports)
	}
	size := int64(16*gib) / 5 >> 20 << 20
	if len(config.Backends) != 1 || !reflect.DeepEqual(config.Backends[0], Backend{Kind: "zcache", Name: "zcache", Memory: size, Zcache: zcache.Config{Limit: size, SelfSizing: true}}) {
		t.Errorf("Backends = %+v, want a size of %d", config.Backends, size)
	}
	if config.NBD != (NBD{Socket: Socket{Mode: 0o600, Owner: -1, Group: -1}}) {
		t.Errorf("NBD = %+v", config.NBD)
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	config, err := parseText(t, dir, `
state_dir = "DIR/state"
listen = ["unix://DIR/state/a.sock", "tcp://127.0.0.1:0", "tcp://[::1]:10809"]
metrics = "off"
log_level = "debug"

[[export]]
name = "swap"
size = "200%"

[[export]]
name = "scratch"
size = 1073741824
storage = "DIR/scratch.img"

[[backend]]
kind = "zcache"
size = "512MiB"

[[backend]]
kind = "zcache"
name = "second"

[nbd]
max_connections = 8
max_handshakes = 4
workers = 16
max_outstanding = 12
buffer_size = "64MiB"
handshake_timeout = "5s"
stall_timeout = "3m"
`)
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Listen; len(got) != 3 || got[0].Address != dir+"/state/a.sock" || got[2].Address != "[::1]:10809" {
		t.Errorf("Listen = %v", got)
	}
	if config.Metrics != "" || config.LogLevel != slog.LevelDebug {
		t.Errorf("Metrics = %q, LogLevel = %v", config.Metrics, config.LogLevel)
	}
	exports := []Export{
		{Name: "swap", Size: 32 * gib, SizeChosen: true, Storage: dir + "/state/swap.img"},
		{Name: "scratch", Size: gib, SizeChosen: true, Storage: dir + "/scratch.img"},
	}
	if !reflect.DeepEqual(config.Exports, exports) {
		t.Errorf("Exports = %+v, want %+v", config.Exports, exports)
	}
	if b := config.Backends; len(b) != 2 || b[0].Name != "zcache" || b[0].Zcache.Limit != 512<<20 || b[1].Name != "second" {
		t.Errorf("Backends = %+v", b)
	}
	nbd := NBD{
		MaxConnections: 8, MaxHandshakes: 4, Workers: 16, MaxOutstanding: 12, BufferSize: 64 << 20,
		HandshakeTimeout: 5 * time.Second, StallTimeout: 3 * time.Minute,
		Socket: Socket{Mode: 0o600, Owner: -1, Group: -1},
	}
	if config.NBD != nbd {
		t.Errorf("NBD = %+v, want %+v", config.NBD, nbd)
	}
}

func TestFlagsOverrideFile(t *testing.T) {
	dir := t.TempDir()
	config, err := parseText(t, dir, `
state_dir = "DIR/nowhere/at/all"
listen = ["fax://"]
metrics = "here"
log_level = "loud"
[[export]]
name = "disk"
size = "lots"
[[backend]]
kind = "tape"
`, "--state-dir=DIR/s", "--listen", "tcp://localhost:0", "--listen=unix://DIR/b.sock", "--metrics", "off",
		"--log-level", "warn", "--size", "64M", "--backend", "none", "--fresh")
	if err != nil {
		t.Fatal(err)
	}
	if config.StateDir != dir+"/s" || len(config.Listen) != 2 || config.Metrics != "" || config.LogLevel != slog.LevelWarn || !config.Fresh {
		t.Errorf("got %+v", config)
	}
	if config.Exports[0].Name != "disk" || config.Exports[0].Size != 64<<20 || len(config.Backends) != 0 {
		t.Errorf("got exports %+v, backends %+v", config.Exports, config.Backends)
	}
}

func TestNoBackendInFile(t *testing.T) {
	config, err := parseText(t, t.TempDir(), "backend = []\n")
	if err != nil || len(config.Backends) != 0 {
		t.Errorf("got %+v, %v", config, err)
	}
}

// TestSizeOfExistingStorage: storage that is there decides the default size.
func TestSizeOfExistingStorage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for length, want := range map[int64]int64{0: 16 * gib, 4096: 16 * gib, 3 << 20: 3 << 20, 3<<20 + 5000: 3<<20 + 4096} {
		if err := os.Truncate(path, length); err != nil {
			t.Fatal(err)
		}
		config, err := parseText(t, dir, "[[export]]\nstorage = \"DIR/disk.img\"\n")
		if err != nil || config.Exports[0].Size != want || config.Exports[0].SizeChosen {
			t.Errorf("%d bytes of storage: %+v, %v, want a size of %d", length, config, err, want)
		}
	}
}

// TestStorageByTwoPaths: a link does not make it two.
func TestStorageByTwoPaths(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.img"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a.img", filepath.Join(dir, "b.img")); err != nil {
		t.Fatal(err)
	}
	_, err := parseText(t, dir, "[[export]]\nname='a'\nstorage='DIR/a.img'\n[[export]]\nname='b'\nstorage='DIR/b.img'\n")
	if err == nil || !strings.Contains(err.Error(), "is the storage of export a already") {
		t.Errorf("Parse = %v", err)
	}
}

func TestActions(t *testing.T) {
	dir := t.TempDir()
	for arg, want := range map[string]Action{
		"--help": ActionHelp, "-h": ActionHelp, "--version": ActionVersion, "--check": ActionCheck, "--fresh": ActionRun,
	} {
		config, action, err := Parse([]string{arg}, testHost(dir))
		if err != nil || action != want || (config != nil) != (want == ActionRun || want == ActionCheck) {
			t.Errorf("Parse(%s) = %v, %v, %v", arg, config, action, err)
		}
	}
}

// TestErrors holds the exact text of what a human is told: where, what, cure.
func TestErrors(t *testing.T) {
	tests := []struct {
		name string
		text string
		args []string
		want string
	}{
		{name: "unknown flag", args: []string{"--colour"}, want: `
error: flag provided but not defined: --colour
hint: tmemd --help lists the flags
`},
		{name: "flag without value", args: []string{"--size"}, want: `
error: flag needs an argument: --size
hint: tmemd --help lists the flags
`},
		{name: "argument", args: []string{"start"}, want: `
error: tmemd takes no arguments, not "start"
hint: tmemd --help lists the flags
`},
		{name: "flag size", args: []string{"--size", "8GiX"}, want: `
error: --size: "8GiX" has the unknown unit "GiX"
hint: write a whole number with KiB, MiB, GiB, TiB (or K, M, G, T, the same), or a percentage of RAM: 512MiB, 8GiB, 20%
`},
		{name: "flag size too small", args: []string{"--size", "4K"}, want: `
error: --size: "4K" is too small for an export
hint: make it 1MiB or more
`},
		{name: "flag backend", args: []string{"--backend", "zram"}, want: `
error: --backend: there is no backend of the kind "zram"
hint: use zcache
`},
		{name: "flag state dir", args: []string{"--state-dir", "DIR/no/such"}, want: `
error: --state-dir: the folder DIR/no does not exist
hint: create it first: mkdir -p DIR/no
`},
		{name: "flag state dir is a file", text: "# empty\n", args: []string{"--state-dir", "DIR/tmemd.toml"}, want: `
error: --state-dir: DIR/tmemd.toml is not a folder
hint: give it a folder, or a path where one can be made
`},
		{name: "flag listen", args: []string{"--listen", "/run/nbd.sock"}, want: `
error: --listen: "/run/nbd.sock" is not an address
hint: write unix:///PATH or tcp://HOST:PORT, where port 0 picks a free one
`},
		{name: "flag listen port", args: []string{"--listen", "tcp://127.0.0.1:nbd"}, want: `
error: --listen: "127.0.0.1:nbd" has the port "nbd", which is not a number up to 65535
hint: write unix:///PATH or tcp://HOST:PORT, where port 0 picks a free one
`},
		{name: "flag metrics", args: []string{"--metrics", ":9757"}, want: `
error: --metrics: ":9757" names no host
hint: write HOST:PORT, where port 0 picks a free one, or off
`},
		{name: "flag log level", args: []string{"--log-level", "loud"}, want: `
error: --log-level: "loud" is not a level
hint: write debug, info, warn or error
`},
		{name: "no file", args: []string{"--config", "DIR/no.toml"}, want: `
error: --config: open DIR/no.toml: no such file or directory
hint: give --config the path of a TOML file, or leave it out to run on defaults
`},
		{name: "several flags", args: []string{"--size", "0", "--metrics", "x"}, want: `
error: --metrics: "x": missing port in address
hint: write HOST:PORT, where port 0 picks a free one, or off
error: --size: "0" is nothing
hint: write a whole number with KiB, MiB, GiB, TiB (or K, M, G, T, the same), or a percentage of RAM: 512MiB, 8GiB, 20%
`},
		{name: "long path", args: []string{"--state-dir", "DIR/" + strings.Repeat("x", 100)}, want: `
error: --state-dir: the path of the socket DIR/` + strings.Repeat("x", 100) + `/admin.sock has N bytes, the system allows 107
hint: use a state folder with a shorter path
`},
		{name: "unknown keys", text: "\nsize = 5\n[[export]]\nsice = \"8GiB\"\n", want: `
error: DIR/tmemd.toml:2: size: unknown key
2| size = 5
 | ^
hint: remove it; the keys here are state_dir, memory_dir, listen, metrics, metrics_exports, status_page, log_level, client, template, export, disk, base, backend, nbd, ramster, donor, host
error: DIR/tmemd.toml:4: export.sice: unknown key
4| sice = "8GiB"
 | ^
hint: did you mean size?
`},
		{name: "unknown table", text: "[ndb]\nworkers = 3\n", want: `
error: DIR/tmemd.toml:1: ndb: unknown key
1| [ndb]
 |  ^
hint: did you mean nbd?
`},
		{name: "not TOML", text: "state_dir = \"/tmp\nlisten = []\n", want: `
error: DIR/tmemd.toml:1: basic strings cannot have new lines
1| state_dir = "/tmp
 |                  ^
hint: correct the line; see https://toml.io for the syntax
`},
		{name: "wrong type", text: "listen = \"tcp://127.0.0.1:10809\"\n", want: `
error: DIR/tmemd.toml:1: listen: a value of type string is not expected here
1| listen = "tcp://127.0.0.1:10809"
 |          ^
hint: write listen = ["unix:///run/tmemd/nbd.sock", "tcp://127.0.0.1:10809"]
`},
		{name: "size in file", text: "[[export]]\nname = \"a\"\n[[export]]\nname = \"b\"\n\tsize = \"8 GiX\" # room\n", want: `
error: DIR/tmemd.toml:5: export.size: "8 GiX" has the unknown unit "GiX"
5| 	size = "8 GiX" # room
 | 	       ^
hint: write a whole number with KiB, MiB, GiB, TiB (or K, M, G, T, the same), or a percentage of RAM: 512MiB, 8GiB, 20%
`},
		{name: "size of another type", text: "export = [\n  {name = \"a\", size = true},\n]\n", want: `
error: DIR/tmemd.toml:2: export.size: "true" is not a size
2|   {name = "a", size = true},
 |                       ^
hint: write a whole number with KiB, MiB, GiB, TiB (or K, M, G, T, the same), or a percentage of RAM: 512MiB, 8GiB, 20%
`},
		{name: "setting of a backend", text: "[[backend]]\nkind = \"zcache\"\ncodec = \"zip\"\nscrub_period = 5\nself_sizing = 1\nsize = \"1GiB\"\nmax_pool = \"2GiB\"\n", want: `
error: DIR/tmemd.toml:7: backend.max_pool: size says the same
7| max_pool = "2GiB"
 |            ^
hint: remove one of them
error: DIR/tmemd.toml:5: backend.self_sizing: "1" is neither on nor off
5| self_sizing = 1
 |               ^
hint: write on or off
error: DIR/tmemd.toml:3: backend.codec: "zip" compresses no pages
3| codec = "zip"
 |         ^
hint: write lz4 or zstd
error: DIR/tmemd.toml:4: backend.scrub_period: "5" is not a time between a second and a year
4| scrub_period = 5
 |                ^
hint: write a number with s, m or h, such as 10m, or off
`},
		{name: "settings that do not go together", text: "[[backend]]\nkind = \"zcache\"\nmax_pool = \"1GiB\"\nmin_pool = \"50%\"\n", want: `
error: DIR/tmemd.toml:4: backend.min_pool: 8 GiB is more than max_pool, 1 GiB
4| min_pool = "50%"
 |            ^
hint: set min_pool to less, or max_pool to more
`},
		{name: "size not whole pages", text: "[[export]]\nsize = 2097153\n", want: `
error: DIR/tmemd.toml:2: export.size: "2097153" is not a multiple of the page size, 4096
2| size = 2097153
 |        ^
hint: the nearest below is 2097152
`},
		{name: "names", text: "[[export]]\nname = \"a b\"\n[[export]]\n[[export]]\n", want: `
error: DIR/tmemd.toml:2: export.name: "a b" is not a name
2| name = "a b"
 |        ^
hint: use 1 to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit
error: DIR/tmemd.toml:4: export.name: there is an export swap already
4| [[export]]
 |   ^
hint: give each [[export]] a name of its own
`},
		{name: "which size", text: "[[export]]\nname = \"a\"\n[[export]]\nname = \"b\"\n", args: []string{"--size", "1G"}, want: `
error: --size: which of the 2 exports in DIR/tmemd.toml is meant?
hint: set size below each [[export]] instead
`},
		{name: "storage folder", text: "[[export]]\nstorage = \"DIR/no/swap.img\"\n", want: `
error: DIR/tmemd.toml:2: export.storage: the folder DIR/no does not exist
2| storage = "DIR/no/swap.img"
 |           ^
hint: create it first: mkdir -p DIR/no
`},
		{name: "storage kind", text: "[[export]]\nstorage = \"/dev/null\"\n", want: `
error: DIR/tmemd.toml:2: export.storage: /dev/null is neither a file nor a block device
2| storage = "/dev/null"
 |           ^
hint: give it a file or a block device
`},
		{name: "storage twice", text: "[[export]]\nname=\"a\"\nstorage = \"DIR/s\"\n[[export]]\nname=\"b\"\nstorage=\"DIR/s\"\n", want: `
error: DIR/tmemd.toml:6: export.storage: DIR/s is the storage of export a already
6| storage="DIR/s"
 |         ^
hint: give each export storage of its own
`},
		{name: "storage twice by default", text: "[[export]]\nname=\"a\"\nstorage = \"DIR/.local/state/tmemd/b.img\"\n[[export]]\nname=\"b\"\n", want: `
error: export.storage (default): DIR/.local/state/tmemd/b.img is the storage of export a already
hint: give each export storage of its own
`},
		{name: "relative paths", text: "state_dir = \"state\"\nlisten = [\n  \"unix://nbd.sock\",\n]\n", want: `
error: DIR/tmemd.toml:1: state_dir: "state" is not an absolute path
1| state_dir = "state"
 |             ^
hint: write the whole path, from the / on
error: DIR/tmemd.toml:3: listen: "unix://nbd.sock" has no absolute path
3|   "unix://nbd.sock",
 |   ^
hint: write unix:///PATH or tcp://HOST:PORT, where port 0 picks a free one
`},
		{name: "listen folder", text: "listen = [\"unix://DIR/run/nbd.sock\"]\n", want: `
error: DIR/tmemd.toml:1: listen: the folder DIR/run does not exist
1| listen = ["unix://DIR/run/nbd.sock"]
 |           ^
hint: create it first: mkdir -p DIR/run
`},
		{name: "listen empty", text: "listen = []\n", want: `
error: DIR/tmemd.toml:1: listen: no address to serve on
1| listen = []
 | ^
hint: leave it out to serve on nbd.sock in the state folder
`},
		{name: "listen twice", text: "listen = [\"tcp://127.0.0.1:7\", \"tcp://127.0.0.1:7\"]\n", want: `
error: DIR/tmemd.toml:1: listen: tcp://127.0.0.1:7 is there twice
1| listen = ["tcp://127.0.0.1:7", "tcp://127.0.0.1:7"]
 |                                ^
hint: remove one of them
`},
		{name: "backend without kind", text: "[[backend]]\nsize = \"10%\"\n", want: `
error: DIR/tmemd.toml:1: backend.kind: no kind is given
1| [[backend]]
 |   ^
hint: write kind = "zcache"
`},
		{name: "backend too large", text: "[[backend]]\nkind = \"zcache\"\nsize = \"17GiB\"\n", want: `
error: DIR/tmemd.toml:3: backend.size: "17GiB" is more than the RAM of this machine, 16 GiB
3| size = "17GiB"
 |        ^
hint: write a whole number with KiB, MiB, GiB, TiB (or K, M, G, T, the same), or a percentage of RAM: 512MiB, 8GiB, 20%
`},
		{name: "backend twice", text: "[[backend]]\nkind = \"zcache\"\n[[backend]]\nkind = \"zcache\"\n", want: `
error: DIR/tmemd.toml:3: backend.name: there is a backend zcache already
3| [[backend]]
 |   ^
hint: give each [[backend]] a name of its own
`},
		{name: "backend named like an owner", text: "[[backend]]\nkind = \"zcache\"\nname = \"hole\"\n", want: `
error: DIR/tmemd.toml:3: backend.name: the name hole is taken: it means something else beside backends
3| name = "hole"
 |        ^
hint: choose another one
`},
		{name: "too many backends", text: strings.Repeat("[[backend]]\nkind = \"tape\"\n", 16), want: `
error: DIR/tmemd.toml:31: backend: 16 backends, but at most 15 can be loaded at a time
31| [[backend]]
  |   ^
hint: remove some
` + func() string {
			var b strings.Builder
			for i := range 16 {
				line := strconv.Itoa(2*i + 2)
				pad := strings.Repeat(" ", len(line))
				b.WriteString("error: DIR/tmemd.toml:" + line + ": backend.kind: there is no backend of the kind \"tape\"\n" +
					line + "| kind = \"tape\"\n" + pad + "|        ^\nhint: use zcache\n")
			}
			return b.String()
		}()},
		{name: "nbd", text: "[nbd]\nworkers = 0\nbuffer_size = \"1MiB\"\nstall_timeout = \"soon\"\n", want: `
error: DIR/tmemd.toml:2: nbd.workers: 0 is out of range
2| workers = 0
 |           ^
hint: write a number from 1 to 65536
error: DIR/tmemd.toml:4: nbd.stall_timeout: "soon" is not a time
4| stall_timeout = "soon"
 |                 ^
hint: write a number with s, m or h, such as 10s
error: DIR/tmemd.toml:3: nbd.buffer_size: "1MiB" is out of range
3| buffer_size = "1MiB"
 |               ^
hint: make it 32 MiB or more, and less than RAM
`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := parseText(t, dir, test.text, test.args...)
			var out strings.Builder
			code := cli.Report(&out, err)
			got := strings.ReplaceAll(out.String(), dir, "DIR")
			want := strings.TrimPrefix(test.want, "\n")
			if test.name == "long path" { // the folder's length is the machine's
				got = regexpBytes.ReplaceAllString(got, "has N bytes")
			}
			if got != want || code != cli.ExitUsage {
				t.Errorf("exit code %d and\n%s\nwant code %d and\n%s", code, got, cli.ExitUsage, want)
			}
		})
	}
}

func TestNoDefaultStateDir(t *testing.T) {
	host := testHost("")
	_, _, err := Parse(nil, host)
	var out strings.Builder
	cli.Report(&out, err)
	want := "error: there is no default state folder: neither XDG_STATE_HOME nor HOME is an absolute path\n" +
		"hint: give --state-dir a folder of your own\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestDefaultStateDir(t *testing.T) {
	tests := []struct {
		root bool
		env  map[string]string
		want string
	}{
		{true, map[string]string{"HOME": "/root", "XDG_STATE_HOME": "/x"}, "/var/lib/tmemd"},
		{false, map[string]string{"HOME": "/home/ada"}, "/home/ada/.local/state/tmemd"},
		{false, map[string]string{"HOME": "/home/ada", "XDG_STATE_HOME": "/x"}, "/x/tmemd"},
		{false, map[string]string{"HOME": "/home/ada", "XDG_STATE_HOME": "relative"}, "/home/ada/.local/state/tmemd"},
	}
	for _, test := range tests {
		got, err := DefaultStateDir(test.root, func(name string) string { return test.env[name] })
		if err != nil || got != test.want {
			t.Errorf("DefaultStateDir(%v, %v) = %q, %v, want %q", test.root, test.env, got, err, test.want)
		}
	}
}

func TestFault(t *testing.T) {
	dir := t.TempDir()
	config, err := parseText(t, dir, "listen = [\n\"tcp://127.0.0.1:1\",\n\"unix://DIR/b.sock\"]\n", "--metrics", "127.0.0.1:2")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"listen[1]": dir + "/tmemd.toml:3: listen: file does not exist",
		"metrics":   "--metrics: file does not exist",
		"state_dir": "state_dir (default): file does not exist",
	} {
		if got := config.Fault(key, "", os.ErrNotExist).Error(); got != want {
			t.Errorf("Fault(%s) = %q, want %q", key, got, want)
		}
	}
}
