//go:build interop

package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/deploy/isolated"
)

// build makes the package of this source, and returns its path.
func build(t *testing.T) string {
	t.Helper()
	bin, into := t.TempDir(), t.TempDir()
	top := filepath.Join("..", "..")
	run(t, top, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=v1.2.3", "-o", bin, "./cmd/tmemd", "./cmd/tmemctl")
	var sums [2][sha256.Size]byte
	name := filepath.Join(into, "tmemd_1.2.3-1_amd64.deb")
	for i := range sums {
		run(t, top, "deploy/debian/build.sh", "v1.2.3", bin, into)
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = sha256.Sum256(content)
	}
	if sums[0] != sums[1] {
		t.Error("built twice, the packages differ (K5)")
	}
	return name
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	c := exec.Command(name, args...)
	c.Dir, c.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "DPKG_DEB_COMPRESSOR_TYPE=gzip") // xz takes ten times as long
	printed, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, printed)
	}
	return string(printed)
}

// TestPackage builds the package, looks at what is in it, and does with it on a machine with systemd what an administrator
// would: install, start, use, kill, upgrade, remove, purge.
func TestPackage(t *testing.T) {
	deb := build(t)
	t.Run("contents", func(t *testing.T) { checkContents(t, deb) })
	t.Run("lintian", func(t *testing.T) {
		if printed := run(t, "", "lintian", "--allow-root", "--fail-on", "none", deb); strings.TrimSpace(printed) != "" {
			t.Errorf("lintian complains:\n%s", printed)
		}
	})
	t.Run("life", func(t *testing.T) { live(t, deb) })
}

func checkContents(t *testing.T, deb string) {
	control := run(t, "", "dpkg-deb", "-I", deb)
	for _, want := range []string{"Package: tmemd\n", "Version: 1.2.3-1\n", "Architecture: amd64\n", "conffiles", "postinst", "prerm", "postrm", "md5sums"} {
		if !strings.Contains(control, want) {
			t.Errorf("the control data lacks %q:\n%s", want, control)
		}
	}
	if got := run(t, "", "dpkg-deb", "-I", deb, "conffiles"); got != "/etc/default/tmemd\n/etc/tmemd/tmemd.toml\n" {
		t.Errorf("conffiles are %q", got)
	}
	modes := map[string]string{}
	for line := range strings.Lines(run(t, "", "dpkg-deb", "-c", deb)) {
		fields := strings.Fields(line)
		if len(fields) != 6 || fields[1] != "root/root" {
			t.Errorf("not a plain file of root's: %s", line)
			continue
		}
		modes[strings.TrimPrefix(fields[5], ".")] = fields[0]
	}
	for path, mode := range map[string]string{
		"/": "drwxr-xr-x", "/usr/bin/tmemd": "-rwxr-xr-x", "/usr/bin/tmemctl": "-rwxr-xr-x",
		"/usr/lib/systemd/system/tmemd.service": "-rw-r--r--", "/usr/lib/systemd/system/tmem-swap@.service": "-rw-r--r--",
		"/usr/lib/systemd/system/tmem-swap-remote@.service": "-rw-r--r--", "/usr/lib/sysusers.d/tmemd.conf": "-rw-r--r--",
		"/usr/share/bash-completion/completions/tmemctl": "-rw-r--r--", "/usr/share/zsh/vendor-completions/_tmemctl": "-rw-r--r--",
		"/usr/share/fish/vendor_completions.d/tmemctl.fish": "-rw-r--r--", "/usr/share/man/man8/tmemd.8.gz": "-rw-r--r--",
		"/usr/share/man/man8/tmemctl.8.gz": "-rw-r--r--", "/usr/share/man/man8/tmemctl-backend-unload.8.gz": "-rw-r--r--",
		"/usr/share/doc/tmemd/copyright": "-rw-r--r--", "/usr/share/doc/tmemd/README.md": "-rw-r--r--",
		"/usr/share/doc/tmemd/changelog.gz": "-rw-r--r--", "/usr/share/doc/tmemd/changelog.Debian.gz": "-rw-r--r--",
	} {
		if modes[path] != mode {
			t.Errorf("%s has the mode %q, want %s", path, modes[path], mode)
		}
	}
	for path := range modes {
		if strings.HasSuffix(path, ".go") {
			t.Errorf("%s is source", path)
		}
	}
	text := run(t, "", "sh", "-c", `dpkg-deb --fsys-tarfile "$0" | tar -xO ./usr/share/doc/tmemd/copyright`, deb)
	for _, module := range []string{"== Go, LICENSE ==", "github.com/prometheus/client_golang@", "github.com/pierrec/lz4/v4@", "github.com/spf13/cobra@"} {
		if !strings.Contains(text, module) {
			t.Errorf("the copyright file does not name the licence of %s", module)
		}
	}
}

// live is the life of the package on a machine.
func live(t *testing.T, deb string) {
	m := isolated.Start(t, isolated.Systemd)
	m.Put(deb, "/tmp/tmemd.deb")
	before := m.Changes()
	state := func() string { return strings.TrimSpace(m.Must("systemctl is-active tmemd || true")) }
	pid := func() string { return strings.TrimSpace(m.Must("systemctl show -P MainPID tmemd")) }
	install := func() string { return m.Must("dpkg -i --force-unsafe-io /tmp/tmemd.deb") }

	// Installed, nothing is different (K1), and the settings are good.
	install()
	if got := strings.Fields(m.Must("systemctl is-enabled tmemd tmem-swap@nbd0 || true")); !slices.Equal(got, []string{"disabled", "disabled"}) || state() != "inactive" {
		t.Errorf("installed, the units are %v and the daemon is %s", got, state())
	}
	if printed := m.Must("tmemd --check --config /etc/tmemd/tmemd.toml"); printed != "the settings are good\n" {
		t.Errorf("tmemd --check says %q", printed)
	}
	if printed := m.Must("tmemd --version; tmemctl --version"); printed != "tmemd v1.2.3\ntmemctl v1.2.3\n" {
		t.Errorf("the versions are %q", printed)
	}
	m.Must("bash -n /usr/share/bash-completion/completions/tmemctl")

	// Started, it is ready when systemctl returns, as the user tmemd, and serves.
	m.Must("systemctl start tmemd")
	if got := m.Must("stat -c %U:%a /var/lib/tmemd; ps -o user= -p " + pid()); got != "tmemd:700\ntmemd\n" {
		t.Errorf("the daemon's folder and process are of %q", got)
	}
	if status := m.Must("tmemctl status --json"); !strings.Contains(status, `"version": "v1.2.3"`) || !strings.Contains(status, `"kind": "zcache"`) {
		t.Errorf("the status is %s", status)
	}
	const uri = "'nbd+unix:///swap?socket=/var/lib/tmemd/nbd.sock'"
	const image = "qemu-io -f raw -c '%s' " + uri
	m.Must(fmt.Sprintf(image, "write -P 0xa5 1M 1M"))
	if pages := m.Must("tmemctl backend list --json"); !strings.Contains(pages, `"pages": 256`) {
		t.Errorf("after 256 pages were written: %s", pages)
	}
	// Its configuration is read anew, and the daemon stays.
	first := pid()
	m.Must("systemctl reload tmemd")
	if log := m.Must("journalctl -u tmemd"); state() != "active" || pid() != first || !strings.Contains(log, "configuration read anew") {
		t.Errorf("after a reload the daemon is %s, process %s after %s, and says %s", state(), pid(), first, log)
	}

	// Killed, it is there again, with what it had.
	m.Must("kill -KILL " + first)
	m.Must("for i in $(seq 200); do tmemctl status >/dev/null 2>&1 && exit; sleep 0.1; done; systemctl status tmemd; exit 1")
	second := pid()
	if second == first {
		t.Error("the killed process serves")
	}
	m.Must(fmt.Sprintf(image, "read -P 0xa5 1M 1M"))

	// Installed anew, the running one stays (K3), and can become the new one.
	if printed := install(); !strings.Contains(printed, "tmemctl upgrade") || pid() != second {
		t.Errorf("an upgrade of the package has the process %s after %s, and says %s", pid(), second, printed)
	}
	m.Must("tmemctl upgrade && systemctl is-active tmemd")
	m.Must(fmt.Sprintf(image, "read -P 0xa5 1M 1M"))

	// Not removed while this host swaps by tmemctl, or a client is there (K2).
	m.Must("mkdir /run/tmemctl && echo {} >/run/tmemctl/nbd3.json")
	if printed := m.Fails("dpkg -r tmemd"); !strings.Contains(printed, "tmemctl detach /dev/nbd3") {
		t.Errorf("while this host swaps, a removal says %s", printed)
	}
	m.Must("rm -r /run/tmemctl")
	leave := attach(t, m, "qemu-io -f raw "+uri)
	if printed := m.Fails("dpkg -r tmemd"); !strings.Contains(printed, "hosts use its exports") {
		t.Errorf("while a client is attached, a removal says %s", printed)
	}
	leave()
	if state() != "active" || !strings.Contains(m.Must("dpkg -s tmemd"), " ok installed\n") {
		t.Error("after a removal that was refused the daemon or the package is not there")
	}

	// Removed, it has moved its pages to storage, and settings are there; installed again, it begins where it was.
	m.Must("dpkg -r tmemd")
	if state() != "inactive" || strings.TrimSpace(m.Must("ls /dev/shm")) != "" {
		t.Errorf("removed, the daemon is %s, and in memory there is %s", state(), m.Must("ls -R /dev/shm"))
	}
	m.Must("test -e /etc/tmemd/tmemd.toml && test -s /var/lib/tmemd/swap.img && ! test -e /usr/bin/tmemd")
	install()
	m.Must("systemctl enable --now tmemd")
	m.Must("echo >/etc/tmemd/nbd0.env && systemctl enable tmem-swap@nbd0 && touch /etc/tmemd/server.key")

	// Purged, nothing is left but the user, and what somebody put into /etc/tmemd (K4).
	m.Must("dpkg -P tmemd")
	allowed := regexp.MustCompile(`^/(var/lib/dpkg/|var/log/dpkg\.log|var/cache/|etc/(passwd|group|shadow|gshadow)-?$|etc/\.pwd\.lock|var/lib/systemd/)`)
	left := slices.DeleteFunc(m.Changes(), func(path string) bool { return slices.Contains(before, path) || allowed.MatchString(path) })
	if !slices.Equal(left, []string{"/etc/tmemd/server.key"}) {
		t.Errorf("purged, it leaves %v", left)
	}
	if folders := m.Must("ls -d /var/lib/tmemd /usr/share/doc/tmemd 2>/dev/null || true"); folders != "" {
		t.Errorf("purged, it leaves the folders %s", folders)
	}
	if units := m.Must("systemctl list-unit-files --no-legend 'tmem*' || true"); strings.TrimSpace(units) != "" {
		t.Errorf("purged, systemd knows the units %s", units)
	}
	if bad := m.Must("systemctl --failed --no-legend"); strings.Contains(bad, "tmem") {
		t.Errorf("units that failed: %s", bad)
	}
}

// attach has a program that reads commands be attached until leave is called.
func attach(t *testing.T, m *isolated.Machine, command string) (leave func()) {
	t.Helper()
	c := m.Command(context.Background(), command)
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var printed bytes.Buffer
	c.Stdout, c.Stderr = &printed, &printed
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(m.Must("tmemctl status --json"), `"clients": 1`); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not attach", command)
		}
	}
	return func() {
		t.Helper()
		if _, err := io.WriteString(in, "quit\n"); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, printed.String())
		}
	}
}
