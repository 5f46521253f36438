//go:build interop

package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// vendor is where Debian has systemd's own units.
const vendor = "/usr/lib/systemd/system"

// enabled are the units under test, with the target that wants each.
var enabled = map[string]string{
	"tmemd.service": "swap.target", "tmem-swap@nbd0.service": "swap.target", "tmem-swap-remote@nbd1.service": "remote-fs.target",
}

// newRoot makes a folder that looks like a host on which the units are installed and enabled, with /tmp on memory and something
// that brings the network up late: where loops come from. change may have a word about a unit's text.
func newRoot(t *testing.T, change func(unit, text string) string) string {
	t.Helper()
	root := t.TempDir()
	units := filepath.Join(root, vendor)
	must(t, os.MkdirAll(filepath.Dir(units), 0o755))
	must(t, os.CopyFS(units, os.DirFS(vendor)))
	copyFile(t, "/usr/share/systemd/tmp.mount", filepath.Join(units, "tmp.mount"))
	enable(t, root, "local-fs.target", "tmp.mount", "tmp.mount")
	enable(t, root, "network-online.target", "systemd-networkd-wait-online.service", "systemd-networkd-wait-online.service")
	bin := filepath.Join(root, "usr/bin")
	must(t, os.MkdirAll(bin, 0o755))
	for _, program := range []string{"tmemd", "tmemctl"} {
		must(t, os.WriteFile(filepath.Join(bin, program), []byte("#!/bin/sh\n"), 0o755))
	}
	must(t, os.MkdirAll(filepath.Join(root, "etc/tmemd"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "etc/tmemd/nbd1.env"), nil, 0o644))
	files, err := filepath.Glob("*.service")
	must(t, err)
	if len(files) != len(enabled) {
		t.Fatalf("units are %v", files)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(units, file), []byte(change(file, string(text))), 0o644))
	}
	for unit, target := range enabled {
		enable(t, root, target, template(unit), unit)
	}
	return root
}

// template is the file of a unit: "a@b.service" is made of "a@.service".
func template(unit string) string { return regexp.MustCompile(`@\w+\.`).ReplaceAllString(unit, "@.") }

func enable(t *testing.T, root, target, file, name string) {
	t.Helper()
	wants := filepath.Join(root, "etc/systemd/system", target+".wants")
	must(t, os.MkdirAll(wants, 0o755))
	must(t, os.Symlink(filepath.Join(vendor, file), filepath.Join(wants, name)))
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, text, 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func analyze(t *testing.T, args ...string) (printed string, err error) {
	t.Helper()
	out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
	return string(out), err
}

// verify returns systemd's complaints about a host that boots.
func verify(t *testing.T, root string) string {
	t.Helper()
	args := []string{"verify", "--root=" + root, "--man=no", "multi-user.target"}
	for unit := range enabled {
		args = append(args, unit)
	}
	printed, err := analyze(t, args...)
	if err != nil {
		return printed + err.Error()
	}
	return printed
}

func unchanged(_, text string) string { return text }

func TestUnitsVerify(t *testing.T) {
	if complaints := verify(t, newRoot(t, unchanged)); complaints != "" {
		t.Errorf("systemd complains:\n%s", complaints)
	}
}

// TestVerifySeesWhatIsWrong: the same with a unit that has a mistake; a test that cannot fail would be worth nothing.
func TestVerifySeesWhatIsWrong(t *testing.T) {
	tests := []struct {
		name, unit, from, to, want string
	}{
		{"a loop by way of local file systems", "tmemd.service", "After=", "After=local-fs.target ", "ordering cycle"},
		{"a loop by way of /tmp", "tmem-swap@.service", "RuntimeDirectory=tmemctl", "RuntimeDirectory=tmemctl\nPrivateTmp=yes", "ordering cycle"},
		{"a loop by way of the network", "tmem-swap-remote@.service", "Before=remote-fs.target", "Before=swap.target", "ordering cycle"},
		{"a setting that there is not", "tmemd.service", "OOMScoreAdjust=", "OutOfMemoryScore=", "Unknown key"},
		{"a program that there is not", "tmemd.service", "/usr/bin/tmemd ", "/usr/bin/tmem ", "/usr/bin/tmem is not executable"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			root := newRoot(t, func(unit, text string) string {
				if unit != test.unit {
					return text
				}
				if !strings.Contains(text, test.from) {
					t.Fatalf("%s has no %q", unit, test.from)
				}
				return strings.Replace(text, test.from, test.to, 1)
			})
			if complaints := verify(t, root); !strings.Contains(complaints, test.want) {
				t.Errorf("systemd complains of %q; want %q", complaints, test.want)
			}
		})
	}
}

// TestUnitsAreHardened: systemd's own measure of how exposed a service is, from 0 to 10. What is left is what they are for.
func TestUnitsAreHardened(t *testing.T) {
	root := newRoot(t, unchanged)
	for unit, most := range map[string]float64{"tmemd.service": 2.0, "tmem-swap@nbd0.service": 3.5, "tmem-swap-remote@nbd1.service": 3.5} {
		printed, err := analyze(t, "security", "--root="+root, "--offline=true", "--no-pager", unit)
		if err != nil {
			t.Fatalf("%s: %v\n%s", unit, err, printed)
		}
		found := regexp.MustCompile(`Overall exposure level for ` + regexp.QuoteMeta(unit) + `: ([0-9.]+)`).FindStringSubmatch(printed)
		if found == nil {
			t.Fatalf("no level for %s in:\n%s", unit, printed)
		}
		level, err := strconv.ParseFloat(found[1], 64)
		if err != nil || level > most {
			t.Errorf("%s has the exposure level %s, %v; want %.1f or less:\n%s", unit, found[1], err, most, printed)
		}
	}
}

// TestPagesOutliveTheService: by RemoveIPC systemd would remove what the daemon keeps in /dev/shm whenever the service ends, also
// when it was killed and is started again.
func TestPagesOutliveTheService(t *testing.T) {
	text, err := os.ReadFile("tmemd.service")
	must(t, err)
	for _, line := range []string{"RemoveIPC=no", "Restart=on-failure", "KillMode=process"} {
		if !strings.Contains("\n"+string(text), "\n"+line+"\n") {
			t.Errorf("tmemd.service does not say %s", line)
		}
	}
	if strings.Contains(string(text), "PrivateIPC=yes") {
		t.Error("tmemd.service has a private /dev/shm")
	}
}

// TestOrderAtShutdown: what starts after something stops before it. Swap goes off, then the daemon, all before file systems do;
// and neither is killed with pages to lose.
func TestOrderAtShutdown(t *testing.T) {
	for unit, wanted := range map[string][]string{
		"tmemd.service":             {"Before=umount.target", "Conflicts=umount.target", "Before=shutdown.target", "Conflicts=shutdown.target", "SendSIGKILL=no", "OOMScoreAdjust=-1000", "TimeoutStopSec=infinity"},
		"tmem-swap@.service":        {"After=tmemd.service", "Wants=tmemd.service", "Before=swap.target", "Before=umount.target", "Conflicts=umount.target", "Conflicts=shutdown.target", "SendSIGKILL=no", "OOMScoreAdjust=-1000"},
		"tmem-swap-remote@.service": {"After=network-online.target", "Before=remote-fs.target", "Before=umount.target", "Conflicts=umount.target", "SendSIGKILL=no"},
	} {
		has := settings(t, unit)
		for _, setting := range wanted {
			if !has[setting] {
				t.Errorf("%s lacks %s", unit, setting)
			}
		}
		for _, fatal := range []string{"Requires=tmemd.service", "BindsTo=tmemd.service", "PartOf=tmemd.service"} {
			if has[fatal] {
				t.Errorf("%s has %s: swap would go off with each restart of the daemon", unit, fatal)
			}
		}
	}
}

// settings are the assignments of a unit, one for each word of a list.
func settings(t *testing.T, unit string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(unit)
	must(t, err)
	found := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		for word := range strings.FieldsSeq(value) {
			found[key+"="+word] = true
		}
	}
	return found
}
