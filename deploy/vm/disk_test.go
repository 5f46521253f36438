//go:build e2e

package vm

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

//go:embed disk.sh
var diskScript []byte

//go:embed root.sh
var rootScript []byte

const diskMiB = 64

// TestDiskUnderBackends: a guest untars, hashes, rewrites and deletes on an ext4 file system on a disk, reading it back from
// the device again and again. With backends loaded, replaced, squeezed and unloaded meanwhile it finds the same as without any.
func TestDiskUnderBackends(t *testing.T) {
	for _, series := range firstKernel() {
		t.Run("linux-"+series, func(t *testing.T) {
			s := newDiskScenario(t, series)
			s.format("plain.img")
			s.format("cached.img")
			s.serve(fmt.Sprintf("[[disk]]\nname = \"plain\"\npath = %q\n[[disk]]\nname = \"cached\"\npath = %q\n",
				s.path("plain.img"), s.path("cached.img")))
			want := s.boot("work", "plain", 0)

			ctx, stop := context.WithCancel(s.ctx)
			operated := make(chan int)
			go func() { operated <- s.operate(ctx) }()
			got := s.boot("work", "cached", 0)
			stop()
			if n := <-operated; n < 10 {
				t.Errorf("only %d operations happened meanwhile", n)
			}
			if !slices.Equal(got, want) || len(want) < 8 {
				t.Errorf("with backends the guest says\n%s\nand without\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			d := s.disk("cached")
			t.Logf("the disk was asked for %d pages, %d of them cached, and %d were written", d.SuccGets+d.FailedGets, d.SuccGets, d.Invalidates)
			if d.SuccGets == 0 || d.Invalidates == 0 {
				t.Errorf("the cache was not used: %+v", d)
			}
			s.daemon.stop()
			s.check("plain.img")
			s.check("cached.img")
		})
	}
}

// TestBootFromOverlay: a guest has its root on an overlay over a base, and starts from it twice; another one starts from another
// overlay. What the first read is cached for all, and each finds what it wrote itself, and nothing else.
func TestBootFromOverlay(t *testing.T) {
	for _, series := range firstKernel() {
		t.Run("linux-"+series, func(t *testing.T) {
			s := newDiskScenario(t, series)
			s.format("base.img", "-d", s.root())
			base, err := os.ReadFile(s.path("base.img"))
			if err != nil {
				t.Fatal(err)
			}
			s.serve(fmt.Sprintf("[[base]]\nname = \"base\"\npath = %q\nuuid = \"0e3a5c84-93f1-4d2e-a1b7-5f60c9d8e721\"\n"+
				"[[disk]]\nname = \"one\"\npath = %q\nbase = \"base\"\n[[disk]]\nname = \"two\"\npath = %q\nbase = \"base\"\n",
				s.path("base.img"), s.path("one.overlay"), s.path("two.overlay")))
			s.daemon.load(s.ctx, "64MiB")

			first, cold := s.bootFrom("one", 1)
			second, warm := s.bootFrom("one", 2)
			other, shared := s.bootFrom("two", 1)
			t.Logf("pages from the cache and from storage: %v in the first boot, %v in the second, %v in that of the other machine", cold, warm, shared)
			for boot, c := range map[string]diskReads{"second": warm, "other machine's": shared} {
				if c.storage*10 >= cold.storage || c.cache == 0 {
					t.Errorf("the %s boot was not mostly served from the cache", boot)
				}
			}
			if !slices.Equal(other, first) {
				t.Errorf("one overlay says\n%s\nand another\n%s", strings.Join(first, "\n"), strings.Join(other, "\n"))
			}
			for line, want := range map[string]string{
				"result: root is": "/dev/nbd0 ext4", "result: tree": resultOf(t, first, "result: tree"),
				"result: boots before:": "1", "result: state before:": resultOf(t, first, "result: state after:"),
			} {
				if got := resultOf(t, second, line); got != want {
					t.Errorf("%s %q at the second boot, want %q", line, got, want)
				}
			}
			s.daemon.stop()
			if now, err := os.ReadFile(s.path("base.img")); err != nil || !bytes.Equal(now, base) {
				t.Errorf("the base was changed: %v", err)
			}
		})
	}
}

// root makes the folder of a small system: busybox, the script that is its process 1, and files to read and to write.
func (s *diskScenario) root() (folder string) {
	s.Helper()
	folder = s.path("root")
	busybox, err := findTool("busybox")
	if err != nil {
		s.Fatal(err)
	}
	for _, name := range []string{"bin", "sbin", "dev", "proc", "var/boots"} {
		if err := os.MkdirAll(filepath.Join(folder, name), 0o755); err != nil {
			s.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "sbin", "init"), rootScript, 0o755); err != nil {
		s.Fatal(err)
	}
	s.tool("", "cp", busybox, filepath.Join(folder, "bin", "busybox"))
	s.tool("", "cp", s.path("tree.tar"), filepath.Join(folder, "var", "state"))
	s.tool("", "cp", "-r", s.tree, filepath.Join(folder, "tree"))
	return folder
}

// diskReads is how many pages came from where.
type diskReads struct{ cache, storage uint64 }

// bootFrom boots a machine from an overlay over the base, and says what it read.
func (s *diskScenario) bootFrom(name string, boot int) (results []string, reads diskReads) {
	s.Helper()
	count := func() (n diskReads) {
		for _, d := range []disk{s.disk("base"), s.disk(name)} {
			n.cache, n.storage = n.cache+d.SuccGets, n.storage+d.Storage.PagesRead
		}
		return n
	}
	before := count()
	results = s.boot("boot", name, boot)
	after := count()
	return results, diskReads{after.cache - before.cache, after.storage - before.storage}
}

// resultOf is what a guest said about something.
func resultOf(t *testing.T, results []string, about string) string {
	t.Helper()
	for _, line := range results {
		if rest, found := strings.CutPrefix(line, about); found {
			return strings.TrimSpace(rest)
		}
	}
	t.Fatalf("the guest does not say %q in\n%s", about, strings.Join(results, "\n"))
	return ""
}

// diskScenario is a tmemd with disks, and machines that use them one after the other.
type diskScenario struct {
	*testing.T
	ctx       context.Context
	dir       string
	tree      string // folder of files
	kernel    *Kernel
	initramfs string
	daemon    *daemon
}

func newDiskScenario(t *testing.T, series string) *diskScenario {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	t.Cleanup(cancel)
	s := &diskScenario{T: t, ctx: ctx, dir: t.TempDir()}
	s.tree = s.path("tree")
	cache := os.Getenv("TMEMD_VM_CACHE")
	if cache == "" {
		cache = filepath.Join("..", "..", ".cache", "vm")
	}
	var err error
	if s.kernel, err = FetchKernel(ctx, cache, series); err != nil {
		t.Fatal(err)
	}
	// Files of many lengths that compress: this module's own.
	s.tool("", "cp", "-r", filepath.Join("..", "..", "frontswap"), s.tree)
	for _, folder := range []string{"nbd", "tier", "backends"} {
		s.tool("", "cp", "-r", filepath.Join("..", "..", folder), s.tree)
	}
	s.tool("", "tar", "cf", s.path("tree.tar"), "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-C", s.tree, ".")
	s.build()
	s.daemon = newDaemon(t, t.TempDir(), "tmemd")
	for _, program := range []string{s.daemon.program, s.daemon.ctl} {
		if err := BuildProgram(ctx, "github.com/tmemd/tmemd/cmd/"+filepath.Base(program), program); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *diskScenario) path(name string) string { return filepath.Join(s.dir, name) }

func (s *diskScenario) tool(dir, name string, args ...string) {
	s.Helper()
	if printed, err := runTool(s.ctx, dir, name, args...); err != nil {
		s.Fatalf("%v: %s", err, printed)
	}
}

// build makes the initramfs.
func (s *diskScenario) build() {
	s.Helper()
	busybox, err := findTool("busybox")
	if err != nil {
		s.Fatal(err)
	}
	contents := archive{"init": {content: diskScript, executable: true}}
	add := func(name, from string) {
		if err := contents.add(name, from); err != nil {
			s.Fatal(err)
		}
	}
	add("bin/busybox", busybox)
	add("tree.tar", s.path("tree.tar"))
	for _, module := range s.kernel.Modules { // ext4 is in the kernel itself
		add(path.Join("modules", filepath.Base(module)), module)
	}
	if err := contents.addTool(s.ctx, "nbd-client"); err != nil {
		s.Fatal(err)
	}
	s.initramfs = s.path("initramfs")
	f, err := os.Create(s.initramfs)
	if err != nil {
		s.Fatal(err)
	}
	if err := contents.write(f); err != nil {
		s.Fatal(err)
	}
	if err := f.Close(); err != nil {
		s.Fatal(err)
	}
}

// format makes an image with an ext4 file system.
func (s *diskScenario) format(name string, options ...string) {
	s.Helper()
	s.tool("", "mke2fs", append(append([]string{"-q", "-t", "ext4", "-b", "4096"}, options...), s.path(name), fmt.Sprint(diskMiB, "M"))...)
}

// check has the file system of an image checked.
func (s *diskScenario) check(name string) {
	s.Helper()
	if printed, err := runTool(s.ctx, "", "e2fsck", "-f", "-n", s.path(name)); err != nil {
		s.Errorf("%s: %v: %s", name, err, printed)
	}
}

// serve starts tmemd with the disks, and no backend.
func (s *diskScenario) serve(disks string) {
	s.Helper()
	file := s.path("tmemd.toml")
	if err := os.WriteFile(file, []byte(disks), 0o600); err != nil {
		s.Fatal(err)
	}
	s.daemon.args = []string{"--state-dir", s.daemon.stateDir, "--memory-dir", s.daemon.memory, "--backend", "none",
		"--config", file, "--listen", "tcp://" + freeAddress(s.T), "--metrics", "127.0.0.1:0"}
	s.daemon.start(s.ctx)
}

func (s *diskScenario) disk(name string) disk {
	s.Helper()
	for _, d := range s.daemon.status(s.ctx).Disks {
		if d.Name == name {
			return d
		}
	}
	s.Fatalf("there is no disk %s", name)
	return disk{}
}

// boot runs a machine to its end, and returns its results.
func (s *diskScenario) boot(scenario, disk string, boot int) (results []string) {
	s.Helper()
	qemu, err := findTool("qemu-system-x86_64")
	if err != nil {
		s.Fatal(err)
	}
	parameters := []string{
		"console=ttyS0", "quiet", "oops=panic", "panic=-1", "mitigations=off", "nokaslr", "no_timer_check", "tsc=unstable",
		"clocksource=hpet", "random.trust_cpu=on",
		fmt.Sprintf("nbd_port=%d", s.daemon.port(s.ctx)), "disk=" + disk, "scenario=" + scenario, fmt.Sprint("boot=", boot),
	}
	command := exec.CommandContext(s.ctx, qemu,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "tcg,thread=multi,tb-size=128", "-smp", "2",
		"-m", "256", "-kernel", s.kernel.Image, "-initrd", s.initramfs, "-append", strings.Join(parameters, " "), "-serial", "stdio",
		"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=")
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := command.CombinedOutput()
	if err != nil {
		s.Fatalf("qemu: %v:\n%s", err, output)
	}
	for line := range strings.Lines(string(output)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "result:") {
			results = append(results, line)
		}
	}
	if len(results) == 0 || results[len(results)-1] != "result: done" || bytes.Contains(output, []byte("rror")) {
		s.Fatalf("the guest did not come to a good end:\n%s", output)
	}
	return results
}

// operate loads, squeezes, replaces, freezes and unloads backends until it is told to stop, and counts.
func (s *diskScenario) operate(ctx context.Context) (operations int) {
	random := rand.New(rand.NewPCG(1, 2))
	loaded := ""
	tmemctl := func(args ...string) {
		command := exec.Command(s.daemon.ctl, append([]string{"--state-dir", s.daemon.stateDir}, args...)...)
		if printed, err := command.CombinedOutput(); err != nil {
			s.Errorf("tmemctl %q: %v: %s", args, err, printed)
		}
		operations++
	}
	for n := 0; ctx.Err() == nil; n++ {
		name := fmt.Sprint("cache", n)
		switch {
		case loaded == "":
			tmemctl("backend", "load", "zcache", "--name", name, "--size", "48MiB")
			loaded = name
		default:
			switch random.IntN(6) {
			case 0:
				tmemctl("backend", "unload", loaded)
				loaded = ""
			case 1:
				tmemctl("backend", "replace", loaded, "--with", "zcache", "--name", name, "--size", "48MiB")
				loaded = name
			case 2:
				tmemctl("backend", "freeze", loaded)
				tmemctl("backend", "thaw", loaded)
			case 3:
				tmemctl("disk", "set", "cached", "mode="+[]string{"inclusive", "exclusive"}[random.IntN(2)])
			default:
				tmemctl("backend", "set", loaded, fmt.Sprintf("max_pool=%dMiB", 1+random.IntN(40)))
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(random.IntN(400)) * time.Millisecond):
		}
	}
	return operations
}
