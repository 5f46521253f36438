package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

// packaged is the file that the Debian package installs as /etc/tmemd/tmemd.toml.
const packaged = "../../../deploy/debian/tmemd.toml"

// switchedOff is a line of that file with a key that may be switched on: a # right before the key or table.
var switchedOff = regexp.MustCompile(`^#(\[\[?[a-z.]+\]\]?|[a-z_]+ = .+)$`)

// The packaged file shows every key that there is, in its place, and what it shows are keys and values of the right types.
func TestPackagedFileShowsEveryKey(t *testing.T) {
	text, err := os.ReadFile(packaged)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if found := switchedOff.FindStringSubmatch(line); found != nil {
			line = found[1]
		}
		all.WriteString(line + "\n")
	}
	path := filepath.Join(t.TempDir(), "all.toml")
	if err := os.WriteFile(path, []byte(all.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readFile(path); err != nil {
		t.Fatalf("with every setting switched on: %v", err)
	}
	var tree map[string]any
	if err := toml.Unmarshal([]byte(all.String()), &tree); err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	collect(shown, "", tree)
	for _, k := range keys {
		if k.name == "backend.size" { // another word for max_pool, and ramster's
			continue
		}
		if !shown[k.name] {
			t.Errorf("the file does not show %s", k.name)
		}
		delete(shown, k.name)
	}
	delete(shown, "backend.size")
	for name := range shown {
		t.Errorf("the file shows %s, which is not among the keys", name)
	}
}

// collect adds the keys of a table, and of those below it.
func collect(into map[string]bool, prefix string, value any) {
	switch value := value.(type) {
	case map[string]any:
		for key, below := range value {
			into[prefix+key] = true
			collect(into, prefix+key+".", below)
		}
	case []any:
		for _, below := range value {
			if _, table := below.(map[string]any); table {
				collect(into, prefix, below)
			}
		}
	}
}

// What the file has switched on is what tmemd does without a file.
func TestPackagedFileChangesNothing(t *testing.T) {
	host := Host{RAM: 8 << 30, Root: true, Env: func(string) string { return "" }, Kinds: []string{"zcache", "ramster"}}
	with, _, err := Parse([]string{"--config", packaged}, host)
	if err != nil {
		t.Fatal(err)
	}
	without, _, err := Parse(nil, host)
	if err != nil {
		t.Fatal(err)
	}
	if len(with.Exports) != 1 || len(with.Backends) != 1 {
		t.Fatalf("%d exports, %d backends", len(with.Exports), len(with.Backends))
	}
	got, want := with.Exports[0], without.Exports[0]
	if got.Name != want.Name || got.Size != want.Size || got.Storage != want.Storage || got.Writethrough != want.Writethrough {
		t.Errorf("with the file the export is %+v, without it %+v", got, want)
	}
	if got, want := with.Backends[0], without.Backends[0]; got.Kind != want.Kind || got.Name != want.Name || got.Memory != want.Memory {
		t.Errorf("with the file the backend is %+v, without it %+v", got, want)
	}
	if with.Protect != without.Protect || with.Touch != without.Touch || with.Metrics != without.Metrics || len(with.Listen) != 1 || with.Listen[0] != without.Listen[0] {
		t.Errorf("with the file the daemon is %+v, without it %+v", with, without)
	}
}
