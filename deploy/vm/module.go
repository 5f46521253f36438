package vm

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// module is a kernel module, uncompressed.
type module struct {
	name    string // with underscores, as the kernel writes it
	content []byte
}

// moduleTree finds the modules of one kernel.
type moduleTree struct {
	paths   map[string]string // path of each module, by name
	builtIn map[string]bool   // modules that are part of the kernel's image
}

// collectModules returns the named modules of the kernel under root and all that they depend on, in an order
// in which they can be loaded. Modules that are built into the kernel are left out.
func collectModules(ctx context.Context, root string, names []string) ([]module, error) {
	tree, err := readModuleTree(root)
	if err != nil {
		return nil, err
	}
	var loaded []module
	seen := make(map[string]bool)
	var visit func(name string) error
	visit = func(name string) error {
		if name = moduleName(name); seen[name] || tree.builtIn[name] {
			return nil
		}
		seen[name] = true // before its dependencies: a circle would be Debian's bug, and must not be our endless loop
		content, err := tree.read(ctx, name)
		if err != nil {
			return err
		}
		depends, err := moduleDepends(content)
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, other := range depends {
			if err := visit(other); err != nil {
				return err
			}
		}
		loaded = append(loaded, module{name: name, content: content})
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return loaded, nil
}

func readModuleTree(root string) (*moduleTree, error) {
	tree := &moduleTree{paths: make(map[string]string), builtIn: make(map[string]bool)}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		base := filepath.Base(path)
		if base == "modules.builtin" {
			return tree.readBuiltIn(path)
		}
		if name, ok := strings.CutSuffix(strings.TrimSuffix(base, ".xz"), ".ko"); ok {
			tree.paths[moduleName(name)] = path
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for modules: %w", err)
	}
	return tree, nil
}

func (t *moduleTree) readBuiltIn(path string) error {
	list, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(list)) {
		base := filepath.Base(strings.TrimSpace(line))
		t.builtIn[moduleName(strings.TrimSuffix(base, ".ko"))] = true
	}
	return nil
}

func (t *moduleTree) read(ctx context.Context, name string) ([]byte, error) {
	path, ok := t.paths[name]
	if !ok {
		return nil, fmt.Errorf("the kernel has no module %s", name)
	}
	if strings.HasSuffix(path, ".xz") { // since the 6.12 series
		return runTool(ctx, "", "xz", "--decompress", "--stdout", path)
	}
	return os.ReadFile(path)
}

// moduleName gives a module's name the spelling that the kernel uses; file names mix both.
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// moduleDepends returns the modules that a module needs, from its .modinfo section: NUL-separated key=value texts,
// of which depends=a,b is one. This is what modinfo -F depends prints.
func moduleDepends(content []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("read as ELF: %w", err)
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read .modinfo: %w", err)
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(entry, []byte("depends=")); ok {
			return strings.FieldsFunc(string(list), func(r rune) bool { return r == ',' }), nil
		}
	}
	return nil, errors.New("no depends= in .modinfo")
}
