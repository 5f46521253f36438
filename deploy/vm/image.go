package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Image is what an initramfs holds besides busybox and the kernel's modules: for measurements
// that run programs of this machine in a guest.
type Image struct {
	Kernel   *Kernel
	Script   []byte            // process 1
	Tools    []string          // stock programs, at /sbin
	Programs []string          // programs by their paths, which they keep
	Folders  []string          // folders of this machine, at the same place
	Without  map[string]bool   // names of folders below those that are left out
	Files    map[string][]byte // others, by their path without a leading slash
}

// Build writes the initramfs to a file. Programs and shared objects have the libraries with them that ldd names.
func (i Image) Build(ctx context.Context, file string) error {
	contents := archive{"init": {content: i.Script, executable: true}}
	busybox, err := findTool("busybox")
	if err != nil {
		return err
	}
	if err := contents.add("bin/busybox", busybox); err != nil {
		return err
	}
	for _, module := range i.Kernel.Modules {
		if err := contents.add(path.Join("modules", filepath.Base(module)), module); err != nil {
			return err
		}
	}
	for _, tool := range i.Tools {
		if err := contents.addTool(ctx, tool); err != nil {
			return err
		}
	}
	for _, program := range i.Programs {
		if err := contents.addLinked(ctx, program); err != nil {
			return err
		}
	}
	for _, folder := range i.Folders {
		if err := contents.addFolder(ctx, folder, i.Without); err != nil {
			return err
		}
	}
	for name, content := range i.Files {
		contents[name] = archiveFile{content: content}
	}
	output, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return errors.Join(contents.write(output), output.Close())
}

// addLinked puts a program or a shared object into the archive, at its own path, and its libraries at theirs.
func (a archive) addLinked(ctx context.Context, from string) error {
	if err := a.add(strings.TrimPrefix(from, "/"), from); err != nil {
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

// addFolder puts the regular files below a folder into the archive, and what shared objects among them need.
func (a archive) addFolder(ctx context.Context, folder string, without map[string]bool) error {
	return filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && without[entry.Name()]:
			return fs.SkipDir
		case !entry.Type().IsRegular():
			return nil
		case filepath.Ext(name) == ".so":
			return a.addLinked(ctx, name)
		}
		return a.add(strings.TrimPrefix(name, "/"), name)
	})
}
