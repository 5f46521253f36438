//go:build interop

package readme

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/deploy/isolated"
)

// TestFiveMinutes types what README.md says under "Five minutes", from what a clone has, on a machine that has Go, make and what this
// one has. The part that the kernel plays is in `make e2e`.
func TestFiveMinutes(t *testing.T) {
	m := isolated.Start(t, isolated.None)
	archive := filepath.Join(t.TempDir(), "clone.tar")
	pack := exec.Command("sh", "-c", `git ls-files -z -co --exclude-standard | tar --null --ignore-failed-read -cf "$0" -T -`, archive)
	pack.Dir = filepath.Join("..", "..")
	if printed, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("copy what a clone has: %v: %s", err, printed)
	}
	m.Put(archive, "/tmp/clone.tar")
	m.Must("mkdir -p /src/tmemd && tar -xf /tmp/clone.tar -C /src/tmemd")
	m.Write("/usr/local/bin/sudo", "#!/bin/sh\nexec \"$@\"\n") // it is root already
	m.Must("chmod +x /usr/local/bin/sudo")
	environment := []string{"GOPROXY=off", "GOFLAGS=-buildvcs=false", "PATH=$PATH:" + value(t, "GOROOT") + "/bin"}
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOTOOLCHAIN"} {
		environment = append(environment, name+"="+value(t, name))
	}
	do := func(line string) string {
		t.Helper()
		return m.Must("cd /src/tmemd && export " + strings.Join(environment, " ") + " && " + line)
	}
	do("make build")
	text := do("cat README.md")
	five := Section(text, "## Five minutes")
	commands := Commands(five)
	if len(commands) < 8 {
		t.Fatalf("README.md's five minutes are %+v", commands)
	}

	do(commands[0].Line + " >/tmp/daemon.log 2>&1 & echo $! >/tmp/pid")
	announced := do("for i in $(seq 100); do grep -q -- --detach /tmp/daemon.log && break; sleep 0.1; done; cat /tmp/daemon.log")
	for line := range strings.Lines(five) {
		// What is printed is as shown, but for numbers and sizes of the machine.
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "nbd ") || strings.HasPrefix(line, "admin ") || strings.HasPrefix(line, "metrics ") ||
			strings.HasPrefix(line, "modprobe ") || strings.HasPrefix(line, "/src/tmemd/bin/tmemctl attach") {
			if !strings.Contains(announced, line) {
				t.Errorf("README.md shows %q, and the daemon says\n%s", line, announced)
			}
		}
	}
	do("seq 1 20000000 | head -c 100M >text.bin")
	wanted := map[string]string{"backend list": "100 MiB", "backend unload": "100 MiB", "export list": "100 MiB", "backend load": "64 MiB", "backend set": "128MiB"}
	for _, c := range commands[1:] {
		printed := do(c.Line)
		for part, want := range wanted {
			if strings.Contains(c.Line, part) {
				delete(wanted, part)
				if !strings.Contains(printed, want) {
					t.Errorf("%s: prints\n%s\nwithout %s", c.Line, printed, want)
				}
			}
		}
		if strings.HasPrefix(c.Line, "curl ") {
			shown := "    $ " + c.Line + "\n    " + strings.ReplaceAll(strings.TrimSpace(printed), "\n", "\n    ") + "\n"
			if !strings.Contains(five, shown) {
				t.Errorf("README.md does not show\n%s", shown)
			}
		}
	}
	if len(wanted) != 0 {
		t.Errorf("not in README.md: %v", wanted)
	}
	do("kill -TERM $(bin/tmemctl --state-dir var status --json | sed -n 's/^  \"pid\": \\([0-9]*\\),/\\1/p')")
	do("for i in $(seq 100); do bin/tmemctl --state-dir var status >/dev/null 2>&1 || exit 0; sleep 0.1; done; exit 1")
}

func value(t *testing.T, name string) string {
	t.Helper()
	printed, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatalf("go env %s: %v", name, err)
	}
	return strings.TrimSpace(string(printed))
}

// Commands that are in the documentation of deploy are read as such: a prompt in the wrong place is no command.
func TestDocumentationHasCommands(t *testing.T) {
	for file, least := range map[string]int{
		"../../README.md": 12, "../examples/small-board/README.md": 6, "../examples/ram-server/README.md": 10, "../examples/vm-host/README.md": 8,
		"../examples/donor-pair/README.md": 12, "../kubernetes/README.md": 4, "../container/README.md": 3,
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := Commands(string(text)); len(got) < least {
			t.Errorf("%s has %d commands, want %d or more: %s", file, len(got), least, fmt.Sprint(got))
		}
	}
}
