package state

import (
	"errors"
	"os"
	"testing"
)

// FuzzLoad: whatever is in state.json, it is a state of this version or refused.
func FuzzLoad(f *testing.F) {
	for _, text := range []string{
		`{"version":1,"boot_id":"b","clean":true,"exports":[{"name":"swap","size":4096,"storage":"/s"}]}`,
		`{"version":1}`, `{"version":2}`, `{`, `null`, `{"version":1,"exports":[{"size":1e99}]}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		folder, err := Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer folder.Close()
		if err := os.WriteFile(folder.Path("state.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, found, err := folder.Load()
		if !found || err != nil && !errors.Is(err, ErrDamaged) || err == nil && s.Version != version {
			t.Errorf("Load of %q = %+v, %v, %v", text, s, found, err)
		}
	})
}
