package vm

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// packages says which Debian package has a tool, for the error when it is missing.
var packages = map[string]string{
	"apt-cache":          "apt",
	"apt-get":            "apt",
	"busybox":            "busybox-static",
	"dpkg-deb":           "dpkg",
	"e2fsck":             "e2fsprogs",
	"ip":                 "iproute2",
	"ldd":                "libc-bin",
	"mke2fs":             "e2fsprogs",
	"mkswap":             "util-linux",
	"nbd-client":         "nbd-client",
	"qemu-system-x86_64": "qemu-system-x86",
	"swapoff":            "mount",
	"swapon":             "mount",
	"xz":                 "xz-utils",
}

// MissingToolError is a tool of the test machine that is not there.
type MissingToolError struct {
	Tool    string
	Package string // the Debian package that has it
}

func (e *MissingToolError) Error() string {
	return fmt.Sprintf("%s is missing: apt-get install %s", e.Tool, e.Package)
}

// findTool returns the path of a tool. Those for root are found without being in PATH.
func findTool(name string) (string, error) {
	for _, candidate := range []string{name, filepath.Join("/usr/sbin", name), filepath.Join("/sbin", name)} {
		if path, err := exec.LookPath(candidate); err == nil {
			return filepath.Abs(path)
		}
	}
	return "", &MissingToolError{Tool: name, Package: packages[name]}
}

// runTool runs a tool in a folder and returns what it printed. Its error output is part of the error.
func runTool(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	path, err := findTool(name)
	if err != nil {
		return nil, err
	}
	var errors bytes.Buffer
	command := exec.CommandContext(ctx, path, args...)
	command.Dir, command.Stderr = dir, &errors
	output, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w: %s", name, args, err, bytes.TrimSpace(errors.Bytes()))
	}
	return output, nil
}
