//go:build interop

package examples

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tmemd/tmemd/deploy/isolated"
	"github.com/tmemd/tmemd/deploy/readme"
)

// kernels are commands that are for the kernel of a real host: `make e2e` has such.
var kernels = regexp.MustCompile(`^(systemctl enable --now tmem-swap@nbd0|tmemctl doctor|swapon |mkswap |nbd-client )`)

// deb is the package that is installed. TestMain builds it.
var deb string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tmemd-examples-")
	if err == nil {
		err = buildPackage(dir)
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

func buildPackage(dir string) error {
	for _, words := range [][]string{
		{"go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=v1.2.3", "-o", dir, "./cmd/tmemd", "./cmd/tmemctl"},
		{"deploy/debian/build.sh", "v1.2.3", dir, dir},
	} {
		c := exec.Command(words[0], words[1:]...)
		c.Dir, c.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0", "DPKG_DEB_COMPRESSOR_TYPE=none")
		if printed, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%q: %w: %s", words, err, printed)
		}
	}
	deb = filepath.Join(dir, "tmemd_1.2.3-1_amd64.deb")
	return nil
}

// host is a machine with the package installed. hosts are names that it knows, with addresses.
func host(t *testing.T, hosts string) *isolated.Machine {
	t.Helper()
	m := isolated.Start(t, isolated.Systemd)
	m.Put(deb, "/tmp/tmemd.deb")
	m.Write("/etc/hosts", "127.0.0.1 localhost\n"+hosts)
	m.Must("dpkg -i --force-unsafe-io /tmp/tmemd.deb")
	return m
}

// follow types what a README says: what is for root on the host of that name, in one folder, but for what is a kernel's. It returns
// how many commands that were.
func follow(t *testing.T, m *isolated.Machine, example, name string) (commands int) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(example, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	folder := "/root"
	for _, c := range readme.Commands(string(text)) {
		if c.Host != name || kernels.MatchString(c.Line) {
			continue
		}
		if to, ok := strings.CutPrefix(c.Line, "cd "); ok {
			folder = to
			continue
		}
		m.Must("cd " + folder + " && " + c.Line)
		commands++
	}
	return commands
}

// use writes pages to an export by QEMU's client, and reads them back.
func use(t *testing.T, m *isolated.Machine, client string) {
	t.Helper()
	for _, verb := range []string{"write", "read"} {
		commands := make([]string, 0, 32)
		for i := range 32 {
			commands = append(commands, fmt.Sprintf("-c '%s -P %d %dM 1M'", verb, i+1, i*3))
		}
		if printed := m.Must("qemu-io " + strings.Join(commands, " ") + " " + client); strings.Contains(printed, "failed") {
			t.Fatalf("%s says %s", client, printed)
		}
	}
}

func TestSmallBoard(t *testing.T) {
	t.Parallel()
	m := host(t, "")
	text, err := os.ReadFile("small-board/README.md")
	if err != nil {
		t.Fatal(err)
	}
	up, down, found := strings.Cut(string(text), "\nTo take it away:")
	if !found {
		t.Fatal("the README does not say how to take it away")
	}
	for _, c := range readme.Commands(up) {
		if !kernels.MatchString(c.Line) {
			m.Must(c.Line)
		}
	}
	use(t, m, "-f raw 'nbd+unix:///swap?socket=/var/lib/tmemd/nbd.sock'")
	if status := m.Must("tmemctl status --json"); !strings.Contains(status, `"max_bytes": 268435456`) || !strings.Contains(status, `"size_bytes": 2147483648`) {
		t.Errorf("the status is %s", status)
	}
	for _, c := range readme.Commands(down) {
		m.Must(c.Line)
	}
	m.Fails("systemctl is-active tmemd")
}

func TestRAMServer(t *testing.T) {
	t.Parallel()
	m := host(t, "127.0.0.1 ramserver\n")
	if n := follow(t, m, "ram-server", ""); n < 10 {
		t.Errorf("%d commands were typed", n)
	}
	client := func(name, export string) string {
		folder := "/root/" + name
		m.Must(fmt.Sprintf("mkdir -p %[1]s && cd /etc/tmemd && cp ca.crt %[1]s/ca-cert.pem && cp %[2]s.crt %[1]s/client-cert.pem && cp %[2]s.key %[1]s/client-key.pem", folder, name))
		return fmt.Sprintf("--object tls-creds-x509,id=tls,endpoint=client,dir=%s --image-opts driver=nbd,server.type=inet,server.host=ramserver,server.port=10809,export=%s,tls-creds=tls", folder, export)
	}
	for _, name := range []string{"host1", "host2"} {
		use(t, m, client(name, name))
	}
	m.Fails("qemu-io -c 'read 0 4k' " + client("host2", "host1"))
	m.Fails("qemu-io -f raw -c 'read 0 4k' nbd://ramserver:10809/host1")
	if status := m.Must("tmemctl backend list --json"); !strings.Contains(status, `"pages": 16384`) {
		t.Errorf("of 2 times 8192 pages the server's memory has %s", status)
	}
	m.Must("systemctl stop tmemd")
}

func TestVMHost(t *testing.T) {
	t.Parallel()
	m := host(t, "")
	m.Must("getent group kvm || groupadd -r kvm") // which QEMU's package makes, or udev
	if n := follow(t, m, "vm-host", ""); n < 7 {
		t.Errorf("%d commands were typed", n)
	}
	if got := m.Must("stat -c %U:%G:%a /run/tmemd/nbd.sock"); got != "tmemd:kvm:660\n" {
		t.Errorf("the socket is %s", got)
	}
	// The machine itself need not run: its disk is there, for QEMU as for a guest, as a user of the group kvm.
	m.Must("truncate -s 64M /tmp/vm1.img && chmod 666 /tmp/vm1.img && useradd -r -G kvm qemu-test")
	command := ""
	for _, c := range readme.Commands(m.Must("cat /usr/share/doc/tmemd/examples/vm-host/README.md")) {
		if c.Host == "host" {
			command = c.Line
		}
	}
	monitor := `(echo 'qemu-io swap "write -P 0xa5 1M 1M"'; echo 'qemu-io swap "read -P 0xa5 1M 1M"'; echo 'info block'; echo quit)`
	printed := m.Must(monitor + " | setpriv --reuid qemu-test --regid qemu-test --init-groups sh -c 'cd /tmp && " + command + " -S -display none -nodefaults -monitor stdio'")
	if strings.Count(printed, "1 MiB, 1 ops") != 2 || strings.Contains(printed, "verification failed") || !strings.Contains(printed, "nbd+unix:///vm1") {
		t.Errorf("QEMU says %s", printed)
	}
	if status := m.Must("tmemctl backend list --json"); !strings.Contains(status, `"pages": 256`) {
		t.Errorf("of 256 pages the host's memory has %s", status)
	}
	m.Must("systemctl stop tmemd")
}

func TestDonorPair(t *testing.T) {
	t.Parallel()
	names := "10.77.0.1 east\n10.77.0.2 west\n"
	east, west := host(t, names), host(t, names)
	isolated.Connect(east, "10.77.0.1/24", west, "10.77.0.2/24")
	text, err := os.ReadFile("donor-pair/README.md")
	if err != nil {
		t.Fatal(err)
	}
	machines, folder := map[string]*isolated.Machine{"east": east, "west": west}, map[string]string{"east": "/root", "west": "/root"}
	carried := false
	for _, c := range readme.Commands(string(text)) {
		m := machines[c.Host]
		if m == nil {
			t.Fatalf("a command is for nobody: %v", c)
		}
		if c.Host == "west" && !carried { // as the text says
			west.Write("/root/certificates.tar", east.Must("tar -cC /etc/tmemd ca.crt west.crt west.key"))
			west.Must("tar -xC /etc/tmemd -f /root/certificates.tar")
			carried = true
		}
		if to, ok := strings.CutPrefix(c.Line, "cd "); ok {
			folder[c.Host] = to
		} else if !kernels.MatchString(c.Line) {
			m.Must("cd " + folder[c.Host] + " && " + c.Line)
		}
	}
	for name, m := range machines {
		await(t, name+" has its donor", func() bool { return strings.Contains(m.Must("tmemctl donor list --json"), `"state": "up"`) })
	}
	// Pages that do not compress go past zcache to the other's memory, and come back as they were.
	const image = " 'nbd+unix:///swap?socket=/var/lib/tmemd/nbd.sock'"
	for name, m := range machines {
		m.Must("head -c 16M /dev/urandom >/tmp/random && truncate -s 16M /tmp/back")
		m.Must("qemu-img convert -n -f raw -O raw /tmp/random" + image)
		m.Must("qemu-io -f raw -c 'read 0 16M'" + image)
		m.Must("nbdsh -u" + image + ` -c 'open("/tmp/back", "wb").write(h.pread(16 << 20, 0))' && cmp /tmp/random /tmp/back`)
		other := machines[map[string]string{"east": "west", "west": "east"}[name]]
		lent := other.Must("tmemctl lend status --json")
		if pages := regexp.MustCompile(`"pages": (\d+)`).FindStringSubmatch(lent); pages == nil || len(pages[1]) < 4 {
			t.Errorf("%s wrote 4096 pages that do not compress; the other lends %s", name, lent)
		}
	}
	// A host may fail without the other losing anything.
	west.Must("systemctl kill -s KILL tmemd && systemctl mask --runtime --now tmemd || true")
	east.Must("nbdsh -u" + image + ` -c 'open("/tmp/back", "wb").write(h.pread(16 << 20, 0))' && cmp /tmp/random /tmp/back`)
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// Every example is in the list, and has its files in the package.
func TestExamplesAreListed(t *testing.T) {
	list, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	contents := strings.Fields(run(t, "dpkg-deb", "-c", deb))
	folders := 0
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		folders++
		if !strings.Contains(string(list), "]("+entry.Name()+"/README.md)") {
			t.Errorf("README.md does not list %s", entry.Name())
		}
		if path := "./usr/share/doc/tmemd/examples/" + entry.Name() + "/README.md"; !slices.Contains(contents, path) {
			t.Errorf("the package lacks %s", path)
		}
	}
	if folders != 4 {
		t.Errorf("%d examples", folders)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	printed, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, printed)
	}
	return string(printed)
}
