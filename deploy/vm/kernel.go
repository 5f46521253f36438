package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Kernel is a stock Debian kernel, unpacked into the cache. Nothing of it is installed.
type Kernel struct {
	Package string   // the Debian package it came from, such as linux-image-6.1.0-56-cloud-amd64
	Image   string   // path of the bzImage
	Modules []string // paths of the modules that the guest loads, each after those it depends on
}

// guestModules are the modules that the guest needs besides those they depend on: a PCI network card, a disk, and NBD.
var guestModules = []string{"virtio_pci", "virtio_net", "virtio_blk", "nbd"}

// cacheFormat is part of a kernel's folder in the cache. It changes with guestModules: what was kept before lacks some.
const cacheFormat = "2"

// The files of one kernel in the cache.
const (
	packageFile = "package"
	imageFile   = "vmlinuz"
	modulesDir  = "modules"
)

var seriesPattern = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)

// FetchKernel returns the newest cloud kernel of a series, such as "6.1", that Debian's package lists on this machine know.
// It is downloaded once: a kernel that is in the cache folder is used as it is, without asking for a newer one.
//
// A kernel appears in the cache by one rename, so a run that was cut short leaves nothing that looks like a kernel.
func FetchKernel(ctx context.Context, cache, series string) (*Kernel, error) {
	if !seriesPattern.MatchString(series) {
		return nil, fmt.Errorf("kernel series %q: expected two numbers, such as 6.1", series)
	}
	cache, err := filepath.Abs(cache) // the tools run in other folders
	if err != nil {
		return nil, fmt.Errorf("find the kernel cache: %w", err)
	}
	final := kernelFolder(cache, series)
	kernel, err := readKernel(final)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return kernel, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("make the kernel cache: %w", err)
	}
	if err := removeAbandoned(cache, time.Now().Add(-time.Hour)); err != nil {
		return nil, err
	}
	temporary, err := os.MkdirTemp(cache, temporaryPrefix)
	if err != nil {
		return nil, fmt.Errorf("make the kernel cache: %w", err)
	}
	defer os.RemoveAll(temporary) // of no use any more, whatever happened
	unpacked := filepath.Join(temporary, "kernel")
	if err := download(ctx, temporary, unpacked, series); err != nil {
		return nil, fmt.Errorf("fetch kernel %s: %w", series, err)
	}
	if err := os.Rename(unpacked, final); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("keep kernel %s: %w", series, err) // that it exists now means that another run was faster
	}
	return readKernel(final)
}

func kernelFolder(cache, series string) string {
	return filepath.Join(cache, "linux-"+series+"-"+cacheFormat)
}

// readKernel returns the kernel in a folder of the cache. The error is fs.ErrNotExist if there is none.
func readKernel(dir string) (*Kernel, error) {
	name, err := os.ReadFile(filepath.Join(dir, packageFile))
	if err != nil {
		return nil, fmt.Errorf("read cached kernel: %w", err)
	}
	modules, err := filepath.Glob(filepath.Join(dir, modulesDir, "*.ko")) // in the order of their names, which is the load order
	if err != nil || len(modules) == 0 {
		return nil, fmt.Errorf("read cached kernel: %s holds no modules: remove the folder to fetch it again (%v)", dir, err)
	}
	return &Kernel{
		Package: strings.TrimSpace(string(name)), Image: filepath.Join(dir, imageFile), Modules: modules,
	}, nil
}

const temporaryPrefix = ".fetching-"

// removeAbandoned removes what runs that were killed before a moment left in the cache.
func removeAbandoned(cache string, before time.Time) error {
	left, err := filepath.Glob(filepath.Join(cache, temporaryPrefix+"*"))
	if err != nil {
		return fmt.Errorf("look for abandoned downloads: %w", err)
	}
	for _, dir := range left {
		info, err := os.Stat(dir)
		if err != nil || info.ModTime().After(before) {
			continue // gone meanwhile, or another run is at it
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove abandoned download: %w", err)
		}
	}
	return nil
}

// download makes the cache folder of a kernel, with work as scratch space. It asks the machine's package lists first. They may
// be missing, or so old that the archive has dropped what they name: then it fetches lists of its own, which needs
// no rights and changes nothing on the machine.
func download(ctx context.Context, work, into, series string) error {
	known := downloadWith(ctx, nil, work, into, series)
	if known == nil {
		return nil
	}
	lists := filepath.Join(work, "lists")
	if err := os.MkdirAll(filepath.Join(lists, "partial"), 0o755); err != nil {
		return err
	}
	options := []string{"-o", "Dir::State::Lists=" + lists, "-o", "Dir::Cache=" + work}
	if _, err := runTool(ctx, work, "apt-get", append(options, "-q", "update")...); err != nil {
		return errors.Join(known, err)
	}
	if err := downloadWith(ctx, options, work, into, series); err != nil {
		return errors.Join(known, fmt.Errorf("with new package lists: %w", err))
	}
	return nil
}

func downloadWith(ctx context.Context, options []string, work, into, series string) error {
	// Without a sandbox user apt needs no access of its own to the folder, and does not warn about it.
	options = append(options, "-q", "-o", "APT::Sandbox::User=root")
	pattern := "^linux-image-" + regexp.QuoteMeta(series) + `\.`
	listed, err := runTool(ctx, work, "apt-cache", append(options, "search", "--names-only", pattern)...)
	if err != nil {
		return err
	}
	var names []string
	for line := range strings.Lines(string(listed)) {
		name, _, _ := strings.Cut(line, " ")
		names = append(names, name)
	}
	name, ok := newestCloudKernel(names, series)
	if !ok {
		return fmt.Errorf("no linux-image-%s…-cloud-amd64 among the Debian packages known here", series)
	}
	if _, err := runTool(ctx, work, "apt-get", append(options, "download", name)...); err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(archives) != 1 {
		return fmt.Errorf("apt-get download %s left %d packages: %v", name, len(archives), err)
	}
	root := filepath.Join(work, "root")
	if _, err := runTool(ctx, work, "dpkg-deb", "-x", archives[0], root); err != nil {
		return err
	}
	return keep(ctx, root, into, name)
}

// keep copies what the guest needs of an unpacked package into its place in the cache.
//
// The image stays compressed. Handing QEMU the ELF file inside would save 0.4 s of 2 (measured, 6.1 with lz4) and
// need a tool for each compression that Debian uses.
func keep(ctx context.Context, root, into, name string) error {
	if err := os.MkdirAll(filepath.Join(into, modulesDir), 0o755); err != nil {
		return err
	}
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return fmt.Errorf("%s holds %d kernel images: %v", name, len(images), err)
	}
	if err := os.Rename(images[0], filepath.Join(into, imageFile)); err != nil {
		return err
	}
	modules, err := collectModules(ctx, filepath.Join(root, "lib", "modules"), guestModules)
	if err != nil {
		return err
	}
	for i, module := range modules {
		path := filepath.Join(into, modulesDir, fmt.Sprintf("%02d-%s.ko", i, module.name))
		if err := os.WriteFile(path, module.content, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(into, packageFile), []byte(name+"\n"), 0o644)
}

// newestCloudKernel chooses among package names. Of two with the same version the signed one wins.
func newestCloudKernel(names []string, series string) (newest string, ok bool) {
	pattern := regexp.MustCompile(`^linux-image-` + regexp.QuoteMeta(series) +
		`\.([0-9]+)(?:-([0-9]+))?(?:\+deb[0-9]+)?-cloud-amd64(-unsigned)?$`)
	var best [3]int
	for _, name := range names {
		match := pattern.FindStringSubmatch(name)
		if match == nil {
			continue
		}
		update, _ := strconv.Atoi(match[1]) // digits, by the pattern
		abi, _ := strconv.Atoi(match[2])    // 0 where the scheme has none
		signed := 1
		if match[3] != "" {
			signed = 0
		}
		version := [3]int{update, abi, signed}
		if !ok || less(best, version) {
			best, newest, ok = version, name, true
		}
	}
	return newest, ok
}

func less(a, b [3]int) bool {
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}
