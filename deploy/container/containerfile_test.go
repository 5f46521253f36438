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

// stage is what a Containerfile says between one FROM and the next.
type stage struct {
	base, name   string
	instructions []instruction
}

type instruction struct {
	keyword string
	flags   map[string]string
	words   []string
	text    string // all of it
}

// parse reads a Containerfile, of which it knows the instructions that ours has.
func parse(t *testing.T, text string) (stages []stage) {
	t.Helper()
	for number, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		keyword, rest, _ := strings.Cut(line, " ")
		if keyword == "FROM" {
			words := strings.Fields(rest)
			s := stage{base: words[0]}
			if len(words) == 3 && words[1] == "AS" {
				s.name = words[2]
			} else if len(words) != 1 {
				t.Fatalf("line %d: %s", number+1, line)
			}
			stages = append(stages, s)
			continue
		}
		if len(stages) == 0 || !slices.Contains([]string{"WORKDIR", "COPY", "RUN", "ARG", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}, keyword) {
			t.Fatalf("line %d: an instruction that is not known here: %s", number+1, line)
		}
		i := instruction{keyword: keyword, flags: map[string]string{}, text: rest}
		if strings.HasPrefix(rest, "[") {
			if err := json.Unmarshal([]byte(rest), &i.words); err != nil {
				t.Fatalf("line %d: %v: %s", number+1, err, line)
			}
		} else {
			i.words = strings.Fields(rest)
		}
		for keyword == "COPY" && strings.HasPrefix(i.words[0], "--") {
			name, value, _ := strings.Cut(strings.TrimPrefix(i.words[0], "--"), "=")
			i.flags[name], i.words = value, i.words[1:]
		}
		last := &stages[len(stages)-1]
		last.instructions = append(last.instructions, i)
	}
	return stages
}

func (s stage) last(t *testing.T, keyword string) instruction {
	t.Helper()
	for _, i := range slices.Backward(s.instructions) {
		if i.keyword == keyword {
			return i
		}
	}
	t.Fatalf("there is no %s", keyword)
	return instruction{}
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

// build does what the instructions say, each stage in a folder, and returns that of the last one.
func build(t *testing.T, stages []stage) (root string) {
	t.Helper()
	roots := map[string]string{}
	for _, s := range stages {
		root = t.TempDir()
		if err := os.Chmod(root, 0o755); err != nil {
			t.Fatal(err)
		}
		roots[s.name] = root
		folder := "/"
		for _, i := range s.instructions {
			switch i.keyword {
			case "WORKDIR":
				folder = i.words[0]
				run(t, "", "mkdir", "-p", filepath.Join(root, folder))
			case "COPY":
				from, to := top, i.words[len(i.words)-1]
				if name := i.flags["from"]; name != "" {
					if from = roots[name]; from == "" {
						t.Fatalf("COPY from %q, which is no stage before", name)
					}
				}
				at := to
				if !filepath.IsAbs(to) {
					at = filepath.Join(folder, to)
				}
				at = filepath.Join(root, at)
				if strings.HasSuffix(to, "/") {
					run(t, "", "mkdir", "-p", at)
				} else {
					run(t, "", "mkdir", "-p", filepath.Dir(at))
				}
				for _, source := range i.words[:len(i.words)-1] {
					run(t, "", "cp", "-r", filepath.Join(from, source), at)
				}
				if owner := i.flags["chown"]; owner != "" {
					run(t, "", "chown", owner, at)
				}
			case "RUN": // in this machine's root, with paths of the stage; Go's caches are this machine's
				command := regexp.MustCompile(`(^| )/(out|state|shared)`).ReplaceAllString(i.text, "${1}"+root+"/$2")
				run(t, filepath.Join(root, folder), "sh", "-euc", "VERSION=v1.2.3; "+command)
			}
		}
	}
	return root
}

func TestContainerfile(t *testing.T) {
	text, err := os.ReadFile("Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	stages := parse(t, string(text))
	if len(stages) != 2 || stages[1].base != "scratch" {
		t.Fatalf("the stages are %+v", stages)
	}
	checkCompiler(t, stages[0].base)
	image := stages[1]
	if user := image.last(t, "USER").text; !regexp.MustCompile(`^[1-9]\d*:[1-9]\d*$`).MatchString(user) {
		t.Errorf("it runs as %s", user)
	}
	root := build(t, stages)

	// Nothing is there but what was meant to be: no shell, no libraries.
	var files []string
	for file := range strings.FieldsSeq(run(t, root, "find", ".", "!", "-type", "d")) {
		files = append(files, strings.TrimPrefix(file, "."))
	}
	slices.Sort(files)
	if want := []string{"/etc/tmemd/tmemd.toml", "/usr/bin/tmemctl", "/usr/bin/tmemd", "/usr/share/doc/tmemd/LICENSE"}; !slices.Equal(files, want) {
		t.Errorf("the image has the files %v, want %v", files, want)
	}
	start(t, root, image)
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
func start(t *testing.T, root string, image stage) {
	m := isolated.Start(t, isolated.None)
	m.Must("mkdir /tmp/image")
	m.Put(root+"/.", "/tmp/image")
	user, group, _ := strings.Cut(image.last(t, "USER").text, ":")
	m.Must(fmt.Sprintf(`cd /tmp/image && chown %[1]s:%[2]s var/lib/tmemd run/tmemd && chmod 755 . && mkdir -p proc dev/shm &&
		mount --bind . . && cd /tmp/image && mkdir /tmp/volume && chmod 700 /tmp/volume && chown %[1]s:%[2]s /tmp/volume &&
		mount -o remount,bind,ro . && mount --bind /tmp/volume var/lib/tmemd && mount -t proc proc proc &&
		mount -t tmpfs -o mode=700,uid=%[1]s,gid=%[2]s tmpfs run/tmemd && mount -t tmpfs -o mode=1777,size=1200m tmpfs dev/shm`, user, group))
	m.Write("/tmp/inside", fmt.Sprintf("#!/bin/sh\nexec chroot --userspec=%s:%s --groups= /tmp/image \"$@\"\n", user, group))
	m.Must("chmod +x /tmp/inside")
	command := slices.Concat(image.last(t, "ENTRYPOINT").words, image.last(t, "CMD").words)
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
	if signal := image.last(t, "STOPSIGNAL").text; signal != "SIGTERM" {
		t.Errorf("it is stopped by %s", signal)
	}
	m.Must("kill -TERM $(cat /tmp/pid) && for i in $(seq 100); do test -d /proc/$(cat /tmp/pid)/cwd || exit 0; sleep 0.1; done; cat /tmp/log; exit 1")
	if left := m.Must("ls /tmp/image/dev/shm; stat -c %s /tmp/volume/swap.img"); left != "4294967296\n" {
		t.Errorf("stopped, memory and volume have %s", left)
	}
}
