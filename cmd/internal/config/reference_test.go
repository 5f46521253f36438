package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// offLine is a line of the reference with a key or table that is not in force.
var offLine = regexp.MustCompile(`(?m)^#(\[\[?[a-z.]+\]\]?|[a-z_]+ = .+)$`)

func parseReference(t *testing.T, text string) (file, *Config) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "reference.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, _, err := readFile(path)
	if err != nil {
		t.Fatalf("%v", err)
	}
	host := Host{RAM: 8 << 30, Root: true, Env: func(string) string { return "" }, Kinds: []string{"ramster", "zcache"}}
	c, _, err := Parse([]string{"--config", path}, host)
	if text == Reference && err != nil {
		t.Fatal(err)
	}
	return f, c
}

// TestReferenceHasEveryKey: whoever adds a key explains it there.
func TestReferenceHasEveryKey(t *testing.T) {
	f, _ := parseReference(t, offLine.ReplaceAllString(Reference, "$1"))
	written := writtenOf(f)
	shown := map[string]bool{"backend.size": true} // another word for max_pool
	for key := range written {
		for _, k := range keys {
			first, last := k.name, ""
			if i := strings.LastIndexByte(k.name, '.'); i > 0 {
				first, last = k.name[:i], k.name[i:]
			}
			// export.size is written as export.swap.size.
			if key == k.name || strings.HasPrefix(key, k.name+".") || strings.HasPrefix(key, first+".") && strings.HasSuffix(key, last) {
				shown[k.name] = true
			}
		}
	}
	for _, k := range keys {
		// false is as if it were not written.
		if off := regexp.MustCompile(`(?m)^#` + lastPart(k.name) + ` = false$`); !shown[k.name] && !off.MatchString(Reference) {
			t.Errorf("%s is not explained", k.name)
		}
	}
}

// TestReferenceChangesNothing: it is what tmemd does without a file.
func TestReferenceChangesNothing(t *testing.T) {
	_, with := parseReference(t, Reference)
	host := Host{RAM: 8 << 30, Root: true, Env: func(string) string { return "" }, Kinds: []string{"ramster", "zcache"}}
	without, _, err := Parse(nil, host)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Config{with, without} {
		c.origins, c.written, c.given = nil, nil, nil
		for i := range c.Exports {
			c.Exports[i].SizeChosen = false
		}
	}
	if !reflect.DeepEqual(with, without) {
		t.Errorf("with the reference\n%+v\nwithout a file\n%+v", with, without)
	}
}
