package daemon

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/state"
)

// contentID runs a daemon once and returns what it calls the content of its
// export.
func contentID(t *testing.T, dir string, args ...string) string {
	t.Helper()
	i := start(t, dir, args...)
	i.signal()
	if err := i.awaitEnd(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s state.State
	if err := json.Unmarshal(text, &s); err != nil || len(s.Exports) != 1 {
		t.Fatalf("state %s: %v", text, err)
	}
	return s.Exports[0].Content
}

// TestIdentityFollowsTheContent: a client that reconnects must be able to tell a
// restart from an export that was emptied.
func TestIdentityFollowsTheContent(t *testing.T) {
	dir := t.TempDir()
	first := contentID(t, dir)
	if len(first) != 32 {
		t.Fatalf("the content is called %q", first)
	}
	if again := contentID(t, dir); again != first {
		t.Errorf("after a restart it is called %s, before %s", again, first)
	}
	emptied := contentID(t, dir, "--fresh")
	if emptied == first {
		t.Error("an export that was emptied is called as before")
	}
	if other := contentID(t, t.TempDir()); other == first || other == emptied {
		t.Error("two daemons call their content the same")
	}
	e := export{content: first}
	if description := e.nbd().Description; !strings.HasSuffix(description, " "+first) {
		t.Errorf("clients are told %q", description)
	}
}
