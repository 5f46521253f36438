//go:build interop

package isolated

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// What is done there is not done here (L1), with systemd and without.
func TestIsolation(t *testing.T) {
	for _, first := range []Init{None, Systemd} {
		t.Run(string(first), func(t *testing.T) {
			devices := listDevices(t)
			m := Start(t, first)
			before := m.Changes()
			m.Must("echo there >/etc/isolated-test && rm /etc/debian_version && touch /dev/shm/isolated-test")
			for _, path := range []string{"/etc/isolated-test", "/dev/shm/isolated-test"} {
				if _, err := os.Stat(path); err == nil {
					t.Errorf("%s is here as well", path)
				}
			}
			if _, err := os.Stat("/etc/debian_version"); err != nil {
				t.Errorf("a file that was removed there: %v", err)
			}
			changes := m.Changes()
			for _, want := range []string{"/etc/isolated-test", "/etc/debian_version"} {
				if slices.Contains(before, want) || !slices.Contains(changes, want) {
					t.Errorf("%s is not among the changes %v", want, changes)
				}
			}
			m.Fails("echo 1 >/proc/sys/vm/swappiness")
			m.Fails("echo 1 >/sys/kernel/mm/transparent_hugepage/enabled")
			m.Must("chmod 600 /dev/null /dev/zero /dev/tty")
			if now := listDevices(t); now != devices {
				t.Errorf("devices were\n%s\nand are\n%s", devices, now)
			}
			if links := m.Must("ip -o link show up"); strings.Count(links, "\n") != 1 || !strings.Contains(links, ": lo:") {
				t.Errorf("interfaces that are up there:\n%s", links)
			}
		})
	}
}

func listDevices(t *testing.T) string {
	t.Helper()
	list, err := exec.Command("stat", "-c", "%n %A %U %G", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, list)
	}
	return string(list)
}
