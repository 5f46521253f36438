package nbd

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestReasons: each reason of the sources is listed, and a new server has counters for all.
func TestReasons(t *testing.T) {
	s, err := NewServer(Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, m := range regexp.MustCompile(`(?m)^\t(refused|failed|denied)[A-Z]\w* += "(\w+)"`).FindAllStringSubmatch(string(text), -1) {
			found[m[1]] = append(found[m[1]], m[2])
		}
	}
	stats := s.Stats()
	for kind, counted := range map[string]map[string]uint64{
		"refused": stats.Connections.Refused, "failed": stats.HandshakeFailures, "denied": stats.AccessDenied,
	} {
		if len(found[kind]) < 3 || len(counted) != len(found[kind]) {
			t.Errorf("%s: %d in the sources, %d counted", kind, len(found[kind]), len(counted))
		}
		for reason, n := range counted {
			if n != 0 || !slices.Contains(found[kind], reason) {
				t.Errorf("%s: %s is %d at the start; the sources have %v", kind, reason, n, found[kind])
			}
		}
	}
}
