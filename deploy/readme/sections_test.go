//go:build interop

package readme

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tmemd/tmemd/deploy/isolated"
)

// build makes the programs, once.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tmemd-readme-")
	if err != nil {
		return "", err
	}
	c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=v1.2.3", "-o", dir, "./cmd/tmemd", "./cmd/tmemctl")
	c.Dir, c.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
	if printed, err := c.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build the programs: %w: %s", err, printed)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, _ := build(); dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// operator is a machine with the programs installed, whose root has README.md.
type operator struct {
	*isolated.Machine
	t    *testing.T
	text string
}

func newOperator(t *testing.T, hosts string) *operator {
	t.Helper()
	dir, err := build()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	o := &operator{isolated.Start(t, isolated.None), t, string(text)}
	for _, program := range []string{"tmemd", "tmemctl"} {
		o.Put(filepath.Join(dir, program), "/usr/bin/"+program)
	}
	o.Write("/etc/hosts", "127.0.0.1 localhost\n"+hosts)
	o.Must("mkdir -p /etc/tmemd /var/lib/images /srv /backup")
	return o
}

// start starts a daemon with a configuration and waits until it serves.
func (o *operator) start(name, command, config string) {
	o.t.Helper()
	o.Write("/etc/tmemd/"+name+".toml", config)
	o.Must(fmt.Sprintf("%s --config /etc/tmemd/%s.toml >/tmp/%[2]s.log 2>&1 & for i in $(seq 200); do grep -q '^  admin' /tmp/%[2]s.log && exit; sleep 0.1; done; cat /tmp/%[2]s.log; exit 1", command, name))
}

// untyped are commands that no test in this package types, and why.
var untyped = map[*regexp.Regexp]string{
	regexp.MustCompile(`^tmemctl attach .* && mount `):       "the kernel's: deploy/vm attaches and mounts disks",
	regexp.MustCompile(`^qemu-system-x86_64 … `):             "cut short; deploy/examples starts QEMU",
	regexp.MustCompile(`^(modprobe|systemctl|swapon|dpkg) `): "the kernel's and systemd's: deploy/vm types them",
}

// follow types the commands of a section, for one host, as they stand but for what instead has, and returns what each printed. A
// command is known by its beginning.
func (o *operator) follow(section, host string, instead ...string) map[string]string {
	o.t.Helper()
	replace, printed := strings.NewReplacer(instead...), map[string]string{}
	for _, c := range Commands(Section(o.text, section)) {
		if c.Host != host {
			continue
		}
		if untypedReason(c.Line) == "" {
			printed[c.Line] = o.Must("cd /root && " + replace.Replace(c.Line))
		}
	}
	if len(printed) == 0 {
		o.t.Fatalf("README.md has no commands in %s", section)
	}
	return printed
}

func untypedReason(line string) string {
	for pattern, reason := range untyped {
		if pattern.MatchString(line) {
			return reason
		}
	}
	return ""
}

// shows fails if a command did not print something.
func (o *operator) shows(printed map[string]string, command, want string) {
	o.t.Helper()
	for line, text := range printed {
		if strings.HasPrefix(line, command) {
			if !regexp.MustCompile(want).MatchString(text) {
				o.t.Errorf("%s prints %q, want %s", line, text, want)
			}
			return
		}
	}
	o.t.Errorf("README.md does not say %s", command)
}

var configuration = regexp.MustCompile(`^    (\[|[a-z_]+ = )`)

// configurations returns the blocks of a section that are configurations.
func configurations(text, section string) (all []string) {
	inside := false
	lines := strings.Split(Section(text, section), "\n")
	for i, line := range lines {
		switch {
		case configuration.MatchString(line) && !inside && lines[i-1] == "":
			all, inside = append(all, ""), true
		case inside && line == "" && i+1 < len(lines) && configuration.MatchString(lines[i+1]):
		case !strings.HasPrefix(line, "    ") || strings.HasPrefix(line, "    # ") || strings.HasPrefix(line, "    $ "):
			inside = false
		}
		if inside {
			all[len(all)-1] += strings.TrimPrefix(line, "    ") + "\n"
		}
	}
	return all
}

// TestSections types what README.md shows to an operator who has the package: every command of the sections below, as it stands.
func TestSections(t *testing.T) {
	t.Parallel()
	o := newOperator(t, "127.0.0.2 host2\n")
	o.Must("ip address add 10.0.0.1/32 dev lo") // the address in the configuration
	blocks := configurations(o.text, "## Settings")
	disks := configurations(o.text, "## Disks")
	clients := configurations(o.text, "## A pool for virtual machines")
	if len(blocks) != 1 || len(disks) != 2 || len(clients) != 1 {
		t.Fatalf("README.md has %d, %d and %d configurations", len(blocks), len(disks), len(clients))
	}
	o.Must("truncate -s 16M /var/lib/images/root.img && seq 1 100000 | head -c 16M >/var/lib/images/debian.img && truncate -s 16M /var/lib/images/debian.img")
	o.start("tmemd", "tmemd", blocks[0]+disks[0]+disks[1])

	seen := o.follow("## Seeing what it does", "")
	o.shows(seen, "tmemctl status", `swap +8 GiB`)
	o.shows(seen, "tmemctl top", `zcache`)
	o.shows(seen, "tmemctl log --level", `WARN.*without`)
	o.shows(seen, "tmemctl doctor", `problems, `)
	o.shows(seen, "curl ", `^ready\n$`)

	set := o.follow("## Settings", "")
	o.shows(set, "tmemd --check", `^the settings are good\n$`)
	o.shows(set, "tmemctl reload", `.`)

	pid := strings.TrimSpace(o.Must("pgrep -x tmemd"))
	o.Must(`perl -e '$x = join ",", 1..500000; system "touch /tmp/full"; sleep 600' >/dev/null 2>&1 & echo $! >/tmp/perl; for i in $(seq 100); do test -e /tmp/full && exit; sleep 0.1; done; exit 1`)
	estimated := o.follow("## How large a pool?", "", "4711", strings.TrimSpace(o.Must("cat /tmp/perl")))
	o.shows(estimated, "tmemctl estimate", `use: tmemctl backend set zcache `)

	measured := o.follow("## How fast is a server?", "")
	o.shows(measured, "tmemctl bench", `verified: [1-9]\d* pages right, 0 wrong`)

	disk := o.follow("## Disks", "")
	o.shows(disk, "tmemctl disk list", `root +16 MiB`)
	o.Must("tmemctl disk list | grep -E 'data +8 GiB' && test ! -e /srv/vm2.overlay")

	// The client is destroyed at the end of the section; those that are saved are made as it says.
	guests := o.follow("## A pool for virtual machines", "")
	o.shows(guests, "tmemctl client destroy", `.`)
	if list := o.Must("tmemctl export list"); strings.Contains(list, "vm1-swap") {
		t.Errorf("vm1-swap is there still: %s", list)
	}
	o.Write("/etc/tmemd/clients.toml", clients[0])
	if checked := o.Must("tmemd --check --config /etc/tmemd/clients.toml --state-dir /tmp/clients"); checked != "the settings are good\n" {
		t.Errorf("tmemd says of the clients' configuration: %s", checked)
	}

	o.start("host2", "tmemd --state-dir /var/lib/host2", "listen = [\"tcp://host2:10809\", \"unix:///var/lib/host2/nbd.sock\"]\nmetrics = \"off\"\n[[export]]\nname = \"vm1-swap\"\nsize = \"64MiB\"\n")
	o.start("tmemd2", "tmemd --state-dir /srv/tmemd2", "metrics = \"off\"\n[[client]]\nname = \"vms\"\n")
	o.Must("tmemctl export create vm2-swap --size 4GiB")
	o.Must("tmemctl export create vm1-swap --size 64MiB && head -c 8M /var/lib/images/debian.img >/tmp/pages")
	const image = " 'nbd+unix:///%s?socket=/var/lib/%s/nbd.sock'"
	o.Must("qemu-img convert -n -f raw -O raw /tmp/pages" + fmt.Sprintf(image, "vm1-swap", "tmemd"))
	o.Must("echo 'correct horse battery staple' >/root/backup.key")
	moved := o.follow("## Saving, restoring and moving an export", "")
	o.shows(moved, "tmemctl export save", `saved export vm1-swap: `)
	o.shows(moved, "tmemctl export restore", `restored export vm1-copy`)
	o.shows(moved, "tmemctl export move vm1-swap", `moved export vm1-swap to tcp://host2:10809: clients were held back`)
	o.shows(moved, "tmemctl export move vm2-swap", `moved export vm2-swap to unix:///srv/tmemd2/nbd.sock: clients were held back`)
	if at := o.Must("readlink /run/vm2.sock"); at != "/srv/tmemd2/nbd.sock\n" {
		t.Errorf("the link leads to %s", at)
	}
	for export, folder := range map[string]string{"vm1-copy": "tmemd", "vm1-swap": "host2"} {
		o.Must("nbdsh -u" + fmt.Sprintf(image, export, folder) + ` -c 'open("/tmp/back", "wb").write(h.pread(8 << 20, 0))' && cmp /tmp/pages /tmp/back`)
	}

	upgraded := o.follow("## Stopping, killing, upgrading", "")
	o.shows(upgraded, "tmemctl upgrade", `^upgraded: process `+pid+` is tmemd v1.2.3 now\n$`)
	o.Must("tmemctl status")
}

// TestOtherHosts types what README.md says about lending: certificates, donors, a borrower.
func TestOtherHosts(t *testing.T) {
	t.Parallel()
	const section = "## Other hosts' memory"
	names := "10.77.0.1 east\n10.77.0.2 west host1\n"
	east, host := newOperator(t, names), newOperator(t, names)
	isolated.Connect(east.Machine, "10.77.0.1/24", host.Machine, "10.77.0.2/24")
	host.follow(section, "")
	host.Must("cp /root/*.crt /root/*.key /etc/tmemd")
	host.Must("tar -cC /etc/tmemd -f /tmp/certificates.tar ca.crt east.crt east.key")
	east.Write("/tmp/certificates.tar", host.Must("cat /tmp/certificates.tar"))
	east.Must("tar -xC /etc/tmemd -f /tmp/certificates.tar")
	blocks := configurations(host.text, section)
	if len(blocks) != 2 {
		t.Fatalf("README.md has %d configurations", len(blocks))
	}
	east.start("donor", "tmemd donor", blocks[0])
	west := strings.ReplaceAll(blocks[0], "east", "west")
	host.start("west", "tmemd donor --state-dir /var/lib/west", "metrics = \"127.0.0.1:9758\"\n"+west)
	host.start("tmemd", "tmemd", blocks[1])
	for deadline := time.Now().Add(30 * time.Second); strings.Count(host.Must("tmemctl donor list --json"), `"state": "up"`) != 2; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the donors are %s", host.Must("tmemctl donor list"))
		}
	}
	borrowed := host.follow(section, "host1")
	host.shows(borrowed, "tmemctl donor list", `east.*\n.*west`)
	lent := east.follow(section, "east")
	east.shows(lent, "tmemctl lend status", `cert:host1`)
	east.shows(lent, "tmemctl lend set", `4 GiB`)
}

// Every command that README.md shows is typed by a test, or has its place in a list with the reason.
func TestEveryCommandIsTyped(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	typed := map[string]string{
		"## Two commands":                           "the machine that runs this test",
		"## Five minutes":                           "TestFiveMinutes",
		"## Installing":                             "deploy/vm",
		"## Seeing what it does":                    "TestSections",
		"## Settings":                               "TestSections",
		"## How large a pool?":                      "TestSections",
		"## How fast is a server?":                  "TestSections",
		"## Disks":                                  "TestSections",
		"## A pool for virtual machines":            "TestSections",
		"## Other hosts' memory":                    "TestOtherHosts",
		"## Saving, restoring and moving an export": "TestSections",
		"## Stopping, killing, upgrading":           "TestSections",
	}
	found := 0
	for section := range typed {
		n := len(Commands(Section(string(text), section)))
		if n == 0 && section != "## Two commands" {
			t.Errorf("%s has no commands: take it out of the list", section)
		}
		found += n
	}
	for _, c := range Commands(string(text)) {
		if c.Host != "" && c.Host != "host1" && c.Host != "east" { // TestOtherHosts is those
			t.Errorf("%s is for %s, whom no test is", c.Line, c.Host)
		}
	}
	if all := len(Commands(string(text))); found != all {
		t.Errorf("README.md has %d commands, and those sections %d: have the others typed too", all, found)
	}

	// The other documents have tests of their own, or a reason.
	elsewhere := map[string]string{
		"examples/small-board/README.md": "deploy/examples, TestSmallBoard",
		"examples/ram-server/README.md":  "deploy/examples, TestRAMServer",
		"examples/vm-host/README.md":     "deploy/examples, TestVMHost",
		"examples/donor-pair/README.md":  "deploy/examples, TestDonorPair",
		"container/README.md":            "deploy/container has buildah do what the commands for podman say",
		"kubernetes/README.md":           "no cluster: deploy/kubernetes reads the files as Kubernetes does",
	}
	var documents []string
	for _, pattern := range []string{"*.md", "*/*.md", "*/*/*.md"} {
		found, err := filepath.Glob(filepath.Join("..", pattern))
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, found...)
	}
	for _, file := range documents {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(file, "../")
		if n := len(Commands(string(text))); (n > 0) != (elsewhere[name] != "") {
			t.Errorf("%s has %d commands, which are said to be typed by %q", name, n, elsewhere[name])
		}
	}
	if len(documents) < len(elsewhere) {
		t.Errorf("only %v were found", documents)
	}
}
