//go:build interop

package container

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/deploy/isolated"
)

const top = "../.."

// image is what an image says of itself, in the words of OCI.
type image struct {
	User         string
	ExposedPorts map[string]any
	Entrypoint   []string
	Cmd          []string
	Volumes      map[string]any
	StopSignal   string
}

func run(t *testing.T, dir string, name string, args ...string) string {
	t.Helper()
	c := exec.Command(name, args...)
	c.Dir = dir
	printed, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, printed)
	}
	return string(printed)
}

// engine is buildah with a store of its own.
type engine struct {
	*testing.T
	store string
}

func (e engine) do(args ...string) string {
	e.Helper()
	return run(e.T, top, "buildah", append([]string{"--root", filepath.Join(e.store, "root"), "--runroot", filepath.Join(e.store, "run")}, args...)...)
}

// build has the engine make the image, and returns it with a folder that has its content. The image to build on cannot be fetched
// where tests run: one with that name is made, of a shell, and Go with its caches is this machine's.
func build(t *testing.T, base string) (made image, root string) {
	t.Helper()
	e := engine{t, t.TempDir()}
	t.Cleanup(func() {
		e.do("rm", "--all") // unmounts
		e.do("rmi", "--all", "--force")
	})
	tree := t.TempDir()
	run(t, tree, "sh", "-euc", "mkdir -p bin etc tmp root && cp \"$(command -v busybox)\" bin/busybox && for name in sh mkdir; do ln -s busybox bin/$name; done && echo root:x:0:0::/root:/bin/sh >etc/passwd")
	value := func(name string) string { return strings.TrimSpace(run(t, top, "go", "env", name)) }
	container := strings.TrimSpace(e.do("from", "scratch"))
	e.do("copy", container, tree, "/")
	e.do("config", "--env", "PATH=/usr/local/go/bin:/bin", "--env", "GOPROXY=off", "--env", "GOFLAGS=-buildvcs=false", "--env", "GOMODCACHE=/modules", "--env", "GOCACHE=/cache", container)
	e.do("commit", "--quiet", container, base)
	e.do("build", "--pull-never", "--isolation", "chroot", "--layers=false", "--format", "oci", "--build-arg", "VERSION=v1.2.3",
		"--volume", value("GOROOT")+":/usr/local/go:ro", "--volume", value("GOMODCACHE")+":/modules", "--volume", value("GOCACHE")+":/cache",
		"--file", "deploy/container/Containerfile", "--tag", "tmemd", ".")
	var inspected struct {
		OCIv1 struct {
			Config image `json:"config"`
		}
	}
	if err := json.Unmarshal([]byte(e.do("inspect", "--type", "image", "tmemd")), &inspected); err != nil {
		t.Fatal(err)
	}
	made = inspected.OCIv1.Config
	container = strings.TrimSpace(e.do("from", "--pull-never", "tmemd"))
	return made, strings.TrimSpace(e.do("mount", container))
}

func TestContainerfile(t *testing.T) {
	text, err := os.ReadFile("Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	bases := regexp.MustCompile(`(?m)^FROM (\S+)`).FindAllStringSubmatch(string(text), -1)
	if len(bases) != 2 || bases[1][1] != "scratch" {
		t.Fatalf("it is built on %v", bases)
	}
	checkCompiler(t, bases[0][1])
	made, root := build(t, bases[0][1])
	if !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(made.User) {
		t.Errorf("it runs as %s", made.User)
	}
	if _, found := made.Volumes["/var/lib/tmemd"]; !found || made.StopSignal != "SIGTERM" || len(made.ExposedPorts) != 2 {
		t.Errorf("the image is %+v", made)
	}

	// Nothing is there but what was meant to be: no shell, no libraries.
	var files []string
	for file := range strings.FieldsSeq(run(t, root, "find", ".", "!", "-type", "d")) {
		files = append(files, strings.TrimPrefix(file, "."))
	}
	slices.Sort(files)
	if want := []string{"/etc/tmemd/tmemd.toml", "/usr/bin/tmemctl", "/usr/bin/tmemd", "/usr/share/doc/tmemd/LICENSE"}; !slices.Equal(files, want) {
		t.Errorf("the image has the files %v, want %v", files, want)
	}
	start(t, root, made)
}

// checkCompiler: the image's Go is named exactly, and no older than the module's.
func checkCompiler(t *testing.T, base string) {
	t.Helper()
	tag := regexp.MustCompile(`^docker\.io/library/golang:(\d+)\.(\d+)\.(\d+)-[a-z]+$`).FindStringSubmatch(base)
	module, err := os.ReadFile(filepath.Join(top, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	wanted := regexp.MustCompile(`(?m)^go (\d+)\.(\d+)\.(\d+)$`).FindStringSubmatch(string(module))
	if tag == nil || wanted == nil {
		t.Fatalf("it is built on %s, and go.mod says %v", base, wanted)
	}
	var has, needs [3]int
	for i := range has {
		fmt.Sscan(tag[i+1], &has[i])
		fmt.Sscan(wanted[i+1], &needs[i])
	}
	if slices.Compare(has[:], needs[:]) < 0 {
		t.Errorf("it is built with Go %v, and the module needs %v", has, needs)
	}
}

// start runs the image's command in its root, read-only but for what README.md says, as its user, with no capability; and uses it.
func start(t *testing.T, root string, made image) {
	m := isolated.Start(t, isolated.None)
	m.Must("mkdir /tmp/image")
	m.Put(root+"/.", "/tmp/image")
	user, group, _ := strings.Cut(made.User, ":")
	if owners := run(t, root, "stat", "-c", "%u:%g", "var/lib/tmemd", "run/tmemd"); owners != strings.Repeat(made.User+"\n", 2) {
		t.Errorf("its folders are of %s", owners)
	}
	m.Must(fmt.Sprintf(`cd /tmp/image && mkdir -p proc dev/shm &&
		mount --bind . . && cd /tmp/image && mkdir /tmp/volume && chmod 700 /tmp/volume && chown %[1]s:%[2]s /tmp/volume &&
		mount -o remount,bind,ro . && mount --bind /tmp/volume var/lib/tmemd && mount -t proc proc proc &&
		mount -t tmpfs -o mode=700,uid=%[1]s,gid=%[2]s tmpfs run/tmemd && mount -t tmpfs -o mode=1777,size=1200m tmpfs dev/shm`, user, group))
	m.Write("/tmp/inside", fmt.Sprintf("#!/bin/sh\nexec chroot --userspec=%s:%s --groups= /tmp/image \"$@\"\n", user, group))
	m.Must("chmod +x /tmp/inside")
	command := slices.Concat(made.Entrypoint, made.Cmd)
	if printed := m.Must("/tmp/inside " + strings.Join(command, " ") + " --check"); printed != "the settings are good\n" {
		t.Errorf("--check says %q", printed)
	}
	m.Must("/tmp/inside " + strings.Join(command, " ") + " >/tmp/log 2>&1 & echo $! >/tmp/pid")
	const ctl = "/tmp/inside /usr/bin/tmemctl --state-dir /var/lib/tmemd "
	m.Must("for i in $(seq 100); do " + ctl + "status >/dev/null 2>&1 && exit; sleep 0.1; done; cat /tmp/log; exit 1")
	if status := m.Must("grep -h -E '^(Uid|CapEff|CapPrm)' /proc/$(cat /tmp/pid)/status"); status != fmt.Sprintf("Uid:\t%[1]s\t%[1]s\t%[1]s\t%[1]s\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n", user) {
		t.Errorf("the daemon runs as %s", status)
	}
	const uri = "'nbd+unix:///swap?socket=/tmp/image/run/tmemd/nbd.sock'"
	m.Must("qemu-io -f raw -c 'write -P 0xa5 1M 1M' -c 'read -P 0xa5 1M 1M' " + uri)
	if pages := m.Must(ctl + "backend list --json"); !strings.Contains(pages, `"pages": 256`) {
		t.Errorf("after 256 pages were written: %s", pages)
	}
	m.Must("kill -TERM $(cat /tmp/pid) && for i in $(seq 100); do test -d /proc/$(cat /tmp/pid)/cwd || exit 0; sleep 0.1; done; cat /tmp/log; exit 1")
	if left := m.Must("ls /tmp/image/dev/shm; stat -c %s /tmp/volume/swap.img"); left != "4294967296\n" {
		t.Errorf("stopped, memory and volume have %s", left)
	}
}
