//go:build e2e

package vm

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
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
// the device again and again. With backends loaded, replaced, squeezed to nearly nothing and unloaded meanwhile it finds the same as
// without any; and again with backends that lose single pages, or all, and take some, or none, and a tmemd that is killed, and
// tmemctl attach --no-swap to look after the device.
func TestDiskUnderBackends(t *testing.T) {
	for _, series := range firstKernel() {
		t.Run("linux-"+series, func(t *testing.T) {
			s := newDiskScenario(t, series)
			images := []string{"plain", "cached", "faulty"}
			var disks strings.Builder
			for _, name := range images {
				s.format(name + ".img")
				fmt.Fprintf(&disks, "[[disk]]\nname = %q\npath = %q\n", name, s.path(name+".img"))
			}
			s.serve(disks.String())
			want := s.boot("work", "plain", "nbd-client", 0)
			s.bootWhile("cached", "nbd-client", want, s.operator("cached").operate)
			s.daemon.stop()
			// Rules before a backend take away its way without waiting, so only now.
			s.daemon.args = append(s.daemon.args, "--allow-faults")
			s.daemon.start(s.ctx)
			s.bootWhile("faulty", "agent", want, s.operator("faulty").lose)
			s.daemon.stop()
			for _, name := range images {
				s.check(name + ".img")
			}
		})
	}
}

// bootWhile boots a machine while somebody operates backends. It has to find what it finds without any.
func (s *diskScenario) bootWhile(name, attach string, want []string, operate func(ctx context.Context) (operations int)) {
	s.Helper()
	ctx, stop := context.WithCancel(s.ctx)
	operated := make(chan int)
	go func() {
		defer close(operated) // none, if it gave up
		operated <- operate(ctx)
	}()
	got := s.boot("work", name, attach, 0)
	stop()
	if n := <-operated; n < 10 {
		s.Errorf("only %d operations happened meanwhile", n)
	}
	if !slices.Equal(got, want) || len(want) < 8 {
		s.Errorf("with backends the guest says\n%s\nand without\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	d := s.disk(name)
	s.Logf("disk %s was asked for %d pages, %d of them cached, and %d were written", name, d.SuccGets+d.FailedGets, d.SuccGets, d.Invalidates)
	if d.FailedGets == 0 || d.Invalidates == 0 {
		s.Errorf("the disk was not used: %+v", d)
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
	results = s.boot("boot", name, "nbd-client", boot)
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
	ctl := s.path("tmemctl")
	if err := BuildProgram(s.ctx, "github.com/tmemd/tmemd/cmd/tmemctl", ctl); err != nil {
		s.Fatal(err)
	}
	add("bin/tmemctl", ctl)
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
func (s *diskScenario) boot(scenario, disk, attach string, boot int) (results []string) {
	s.Helper()
	qemu, err := findTool("qemu-system-x86_64")
	if err != nil {
		s.Fatal(err)
	}
	parameters := []string{
		"console=ttyS0", "quiet", "oops=panic", "panic=-1", "mitigations=off", "nokaslr", "no_timer_check", "tsc=unstable",
		"clocksource=hpet", "random.trust_cpu=on",
		fmt.Sprintf("nbd_port=%d", s.daemon.port(s.ctx)), "disk=" + disk, "attach=" + attach, "scenario=" + scenario, fmt.Sprint("boot=", boot),
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
