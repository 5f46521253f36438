package vm

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

//go:embed init.sh
var initScript []byte

// guestTools are the stock programs in the initramfs, at /sbin. Their shared libraries come along.
// swapon and mkswap are util-linux's: busybox's know no --discard=.
var guestTools = []string{"nbd-client", "mkswap", "swapon", "swapoff"}

// guestPackage is the program that swaps and verifies.
const guestPackage = "github.com/tmemd/tmemd/deploy/vm/guest"

// programs are the packages of programs that are built for the initramfs, at /bin. It is in the guest's memory, so
// only what is needed is there.
func (a Attach) programs() []string {
	const commands = "github.com/tmemd/tmemd/cmd/"
	switch a {
	case AttachAgent:
		return []string{guestPackage, commands + "tmemctl"}
	case AttachOwnHost, AttachUnprotected:
		return []string{guestPackage, commands + "tmemctl", commands + "tmemd"}
	}
	return []string{guestPackage}
}

// BuildInitramfs writes an initramfs for the kernel to a file: busybox, the stock tools of this machine with their
// libraries, the kernel's modules, the init script, the guest program and what it attaches with, built here. The same inputs give
// the same file. Scratch files go to dir.
func BuildInitramfs(ctx context.Context, kernel *Kernel, attach Attach, dir string) (file string, err error) {
	busybox, err := findTool("busybox")
	if err != nil {
		return "", err
	}
	contents := archive{"init": {content: initScript, executable: true}}
	if err := contents.add("bin/busybox", busybox); err != nil {
		return "", err
	}
	for _, program := range attach.programs() {
		built := filepath.Join(dir, path.Base(program))
		if err := BuildProgram(ctx, program, built); err != nil {
			return "", err
		}
		if err := contents.add(path.Join("bin", path.Base(program)), built); err != nil {
			return "", err
		}
	}
	for _, module := range kernel.Modules {
		if err := contents.add(path.Join("modules", filepath.Base(module)), module); err != nil {
			return "", err
		}
	}
	for _, tool := range guestTools {
		if err := contents.addTool(ctx, tool); err != nil {
			return "", err
		}
	}
	file = filepath.Join(dir, "initramfs")
	output, err := os.Create(file)
	if err != nil {
		return "", fmt.Errorf("write initramfs: %w", err)
	}
	return file, errors.Join(contents.write(output), output.Close())
}

// BuildProgram compiles a program of this module, statically, for this machine and the guest alike.
func BuildProgram(ctx context.Context, pkg, output string) error {
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", output, pkg)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if printed, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", pkg, err, printed)
	}
	return nil
}

// add puts a file of this machine into the archive.
func (a archive) add(name, from string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("add %s to the initramfs: %w", name, err)
	}
	a[name] = archiveFile{content: content, executable: true}
	return nil
}

// addTool puts a program and its shared libraries into the archive, the libraries where the program looks for them.
func (a archive) addTool(ctx context.Context, tool string) error {
	from, err := findTool(tool)
	if err != nil {
		return err
	}
	if err := a.add(path.Join("sbin", tool), from); err != nil {
		return err
	}
	printed, err := runTool(ctx, "", "ldd", from)
	if err != nil {
		return err
	}
	for _, library := range sharedLibraries(string(printed)) {
		if err := a.add(strings.TrimPrefix(library, "/"), library); err != nil {
			return err
		}
	}
	return nil
}

// libraryPattern is a line of ldd: "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)", or the loader's
// "/lib64/ld-linux-x86-64.so.2 (0x…)". The vdso has no path.
var libraryPattern = regexp.MustCompile(`(?m)^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$`)

func sharedLibraries(ldd string) []string {
	var paths []string
	for _, match := range libraryPattern.FindAllStringSubmatch(ldd, -1) {
		paths = append(paths, match[1])
	}
	return paths
}
