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
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tmemd/tmemd/deploy/readme"
)

var (
	//go:embed debian.sh
	debianScript []byte
	//go:embed readme.sh
	readmeScript []byte
)

// doctorSays is what the doctor prints of dead connections when there are none.
var doctorSays = regexp.MustCompile(`^ok +/dev/nbd0: dead connections: requests wait`)

const (
	newUserGuestMiB = 384
	newUserDataMiB  = 24 // a control group may have a third of it in memory
)

// TestReadme: a machine with Debian and systemd on its disk, made of this machine's packages, and a new user who has README.md:
// from a fresh clone, and from the Debian package, to swap that is in use, every byte verified.
func TestReadme(t *testing.T) {
	for _, series := range lastKernel() {
		t.Run("linux-"+series, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			kernel, err := FetchKernel(ctx, cacheDir(), series)
			if err != nil {
				t.Fatal(err)
			}
			d := &debian{T: t, ctx: ctx, tree: filepath.Join(t.TempDir(), "tree"), kernel: kernel}
			d.install("systemd", "dpkg", "dash", "tar", "util-linux", "findutils", "init-system-helpers", "kmod", "mount", "bash", "coreutils", "grep", "sed", "diffutils", "procps", "libc-bin", "perl-base")
			d.commands()
			began := time.Now()
			output := d.boot()
			t.Logf("the machine ran for %.0f s", time.Since(began).Seconds())
			var results []string
			for line := range strings.Lines(string(output)) {
				if line = strings.TrimSpace(line); strings.HasPrefix(line, "result:") || strings.HasPrefix(line, "typed:") {
					results = append(results, line)
				}
			}
			t.Log("the machine says:\n" + strings.Join(results, "\n"))
			if !slices.Contains(results, "result: done") || bytes.Contains(output, []byte("FAILED:")) {
				t.Fatalf("the new user did not come to the end:\n%s", output)
			}
			if lines := LogTrouble(string(output), doctorSays); len(lines) > 0 {
				t.Errorf("the kernel complains:\n%s", strings.Join(lines, "\n"))
			}
		})
	}
}

// debian is a machine's disk, made of packages that are installed here.
type debian struct {
	*testing.T
	ctx    context.Context
	tree   string // folder that becomes the disk
	kernel *Kernel
}

func (d *debian) tool(dir, name string, args ...string) string {
	d.Helper()
	printed, err := runTool(d.ctx, dir, name, args...)
	if err != nil {
		d.Fatal(err)
	}
	return string(printed)
}

func (d *debian) write(name, text string, mode os.FileMode) {
	d.Helper()
	path := filepath.Join(d.tree, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		d.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		d.Fatal(err)
	}
}

// unused are files that a machine without readers does without.
var unused = regexp.MustCompile(`^/(usr/share/(doc|man|locale|info|lintian|i18n|zoneinfo|common-licenses)|usr/lib/python3|boot)(/|$)`)

// install copies packages and those they depend on, with what dpkg knows of them.
func (d *debian) install(seeds ...string) {
	d.Helper()
	names := d.closure(append(seeds, "base-files", "base-passwd"))
	list := filepath.Join(d.TempDir(), "files")
	var files []string
	for file := range strings.Lines(d.tool("", "dpkg-query", append([]string{"-L"}, names...)...)) {
		file = strings.TrimSpace(file)
		if !strings.HasPrefix(file, "/") || unused.MatchString(file) {
			continue
		}
		folder, err := filepath.EvalSymlinks(path.Dir(file)) // /bin is /usr/bin
		if err != nil {
			continue
		}
		if _, err := os.Lstat(file); err == nil { // not if this machine does without
			files = append(files, strings.TrimPrefix(path.Join(folder, path.Base(file)), "/"))
		}
	}
	files = append(files, "bin", "sbin", "lib", "lib64", "etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/nsswitch.conf", "etc/ld.so.cache", "etc/alternatives")
	slices.Sort(files)
	d.write("var/lib/dpkg/status", d.tool("", "dpkg-query", append([]string{"-s"}, names...)...), 0o644)
	d.write("etc/machine-id", "", 0o644)
	d.write("var/lib/dpkg/info/format", "1\n", 0o644)
	d.write("etc/dpkg/dpkg.cfg.d/test", "force-unsafe-io\n", 0o644) // the disk is a file that is gone soon
	for _, name := range names {
		found, err := filepath.Glob("/var/lib/dpkg/info/" + name + "*.list")
		if err != nil {
			d.Fatal(err)
		}
		for _, file := range found {
			text, err := os.ReadFile(file)
			if err != nil {
				d.Fatal(err)
			}
			d.write(strings.TrimPrefix(file, "/"), string(text), 0o644)
		}
	}
	if err := os.WriteFile(list, []byte(strings.Join(slices.Compact(files), "\n")), 0o600); err != nil {
		d.Fatal(err)
	}
	archive := filepath.Join(d.TempDir(), "files.tar")
	d.tool("/", "tar", "-c", "--no-recursion", "-f", archive, "-T", list)
	d.tool("/", "tar", "-x", "-f", archive, "-C", d.tree)
	for _, folder := range []string{"proc", "sys", "dev", "run", "tmp", "root", "mnt", "var/log/journal", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"} {
		if err := os.MkdirAll(filepath.Join(d.tree, folder), 0o755); err != nil {
			d.Fatal(err)
		}
	}
	release := strings.TrimPrefix(d.kernel.Package, "linux-image-")
	release = strings.TrimSuffix(release, "-unsigned")
	for _, module := range d.kernel.Modules {
		content, err := os.ReadFile(module)
		if err != nil {
			d.Fatal(err)
		}
		_, name, _ := strings.Cut(filepath.Base(module), "-")
		d.write(filepath.Join("lib/modules", release, "kernel", name), string(content), 0o644)
	}
	d.tool("", "depmod", "-b", d.tree, release)
}

// closure returns packages with those they depend on, as far as they are installed here.
func (d *debian) closure(seeds []string) []string {
	d.Helper()
	depends, provides := map[string]string{}, map[string]string{}
	for line := range strings.Lines(d.tool("", "dpkg-query", "-W", "-f", "${Package}\t${Pre-Depends}, ${Depends}\t${Provides}\n")) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		depends[fields[0]] = fields[1]
		for provided := range strings.SplitSeq(fields[2], ",") {
			name, _, _ := strings.Cut(strings.TrimSpace(provided), " ")
			provides[name] = fields[0]
		}
	}
	found := map[string]bool{}
	var names []string
	for todo := seeds; len(todo) > 0; todo = todo[1:] {
		name := todo[0]
		if _, installed := depends[name]; !installed {
			name = provides[name]
		}
		if name == "" || found[name] {
			continue
		}
		found[name], names = true, append(names, name)
		for choice := range strings.SplitSeq(depends[name], ",") {
			for one := range strings.SplitSeq(choice, "|") {
				one, _, _ = strings.Cut(strings.TrimSpace(one), " ")
				one, _, _ = strings.Cut(one, ":")
				if _, installed := depends[one]; installed || provides[one] != "" {
					todo = append(todo, one)
					break
				}
			}
		}
	}
	for _, seed := range seeds {
		if !found[seed] {
			d.Fatal(&MissingToolError{Tool: seed, Package: seed})
		}
	}
	return names
}

// commands puts the programs, the package, and what README.md says to type onto the disk.
func (d *debian) commands() {
	d.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		d.Fatal(err)
	}
	bin := filepath.Join(d.tree, "src/tmemd/bin")
	for _, program := range []string{"tmemd", "tmemctl"} {
		if err := BuildProgram(d.ctx, "github.com/tmemd/tmemd/cmd/"+program, filepath.Join(bin, program)); err != nil {
			d.Fatal(err)
		}
	}
	build := exec.CommandContext(d.ctx, filepath.Join("..", "debian", "build.sh"), "v1.2.3", bin, filepath.Join(d.tree, "dist"))
	build.Env = append(os.Environ(), "DPKG_DEB_COMPRESSOR_TYPE=none")
	if printed, err := build.CombinedOutput(); err != nil {
		d.Fatalf("build the package: %v: %s", err, printed)
	}

	five := readme.Section(string(text), "## Five minutes")
	var use []string
	typed := readme.Commands(five)
	for _, c := range typed[1:] {
		// Not with what would overwrite swap, or is about metrics.
		if strings.HasPrefix(c.Line, "nbdcopy ") || strings.HasPrefix(c.Line, "curl ") {
			continue
		}
		use = append(use, c.Line)
	}
	if len(use) < 4 || !strings.HasPrefix(typed[0].Line, "sudo bin/tmemd ") {
		d.Fatalf("README.md's five minutes are %+v", typed)
	}
	_, attach, found := strings.Cut(five, "    to swap to it on this host, as root:\n")
	attach, _, ended := strings.Cut(attach, "\n\n")
	if !found || !ended {
		d.Fatal("README.md does not show how to attach")
	}
	d.write("readme/start", typed[0].Line+"\n", 0o644)
	d.write("readme/attach", strings.ReplaceAll(attach+"\n", "      ", ""), 0o644)
	d.write("readme/use", strings.Join(use, "\n")+"\n", 0o644)

	installing := readme.Section(string(text), "## Installing")
	before, after, found := strings.Cut(installing, "Before a removal")
	if !found {
		d.Fatal("README.md does not show how to remove the package")
	}
	for name, part := range map[string]string{"install": before, "remove": after} {
		var lines []string
		for _, c := range readme.Commands(part) {
			lines = append(lines, c.Line)
		}
		if len(lines) < 2 {
			d.Fatalf("to %s it, README.md says %q", name, lines)
		}
		d.write("readme/"+name, strings.Join(lines, "\n")+"\n", 0o644)
	}
	d.write("readme/run", string(readmeScript), 0o755)
	d.write("etc/systemd/system/readme.service", fmt.Sprintf("[Unit]\nAfter=basic.target\n[Service]\nExecStart=/readme/run\nEnvironment=mib=%d HOME=/root\n"+
		"StandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS0\nOOMScoreAdjust=-900\n[Install]\nWantedBy=default.target\n", newUserDataMiB), 0o644)
	d.write("etc/systemd/system/new-user.target", "[Unit]\nRequires=basic.target\nWants=readme.service\n", 0o644)
}

// boot makes the disk, runs the machine to its end, and returns what it printed.
func (d *debian) boot() []byte {
	d.Helper()
	dir := d.TempDir()
	image := filepath.Join(dir, "disk")
	d.tool("", "mke2fs", "-q", "-t", "ext4", "-d", d.tree, image, "2G")
	busybox, err := findTool("busybox")
	if err != nil {
		d.Fatal(err)
	}
	contents := archive{"init": {content: debianScript, executable: true}}
	if err := contents.add("bin/busybox", busybox); err != nil {
		d.Fatal(err)
	}
	for _, module := range d.kernel.Modules {
		if err := contents.add(path.Join("modules", filepath.Base(module)), module); err != nil {
			d.Fatal(err)
		}
	}
	initramfs, err := os.Create(filepath.Join(dir, "initramfs"))
	if err != nil {
		d.Fatal(err)
	}
	if err := contents.write(initramfs); err != nil {
		d.Fatal(err)
	}
	if err := initramfs.Close(); err != nil {
		d.Fatal(err)
	}
	qemu, err := findTool("qemu-system-x86_64")
	if err != nil {
		d.Fatal(err)
	}
	parameters := []string{
		"console=ttyS0", "quiet", "panic=-1", "mitigations=off", "nokaslr", "no_timer_check", "tsc=unstable",
		"clocksource=hpet", "random.trust_cpu=on", "systemd.unit=new-user.target", "systemd.show_status=0", "systemd.log_target=null",
	}
	command := exec.CommandContext(d.ctx, qemu,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "tcg,thread=multi,tb-size=256", "-smp", "2",
		"-m", fmt.Sprint(newUserGuestMiB), "-kernel", d.kernel.Image, "-initrd", initramfs.Name(), "-append", strings.Join(parameters, " "), "-serial", "stdio",
		"-drive", "format=raw,if=virtio,cache=unsafe,file="+image)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := command.CombinedOutput()
	if err != nil {
		d.Fatalf("qemu: %v:\n%s", err, output)
	}
	return output
}
