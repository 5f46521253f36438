package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

// Whoever pastes what is announced finds tmemctl, also where PATH does not have it.
func TestAnnouncedCommandIsFound(t *testing.T) {
	folder := t.TempDir()
	d := &Daemon{options: Options{Program: filepath.Join(folder, "tmemd")}}
	if got := d.ctl("unix"); got != "tmemctl" {
		t.Errorf("without a tmemctl beside it: %s", got)
	}
	beside := filepath.Join(folder, "tmemctl")
	if err := os.WriteFile(beside, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := d.ctl("unix"); got != beside {
		t.Errorf("with a tmemctl beside it: %s", got)
	}
	if got := d.ctl("tcp"); got != "tmemctl" {
		t.Errorf("for another host: %s", got)
	}
	t.Setenv("PATH", folder+":/usr/bin")
	if got := d.ctl("unix"); got != "tmemctl" {
		t.Errorf("with its folder in PATH: %s", got)
	}
}
