//go:build interop

package interop

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// bin is the folder with the built tmemd and tmemctl. TestMain sets it before
// the first test.
var bin string

// binVariable tells the tests that run as root where they were built.
const binVariable = "TMEMD_INTEROP_BIN"

func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		code = 1
	}
	os.Exit(code)
}

// runTests builds the commands and runs the tests. Some of them mount file
// systems, so a user who is not root goes on by way of sudo.
func runTests(m *testing.M) (code int, err error) {
	if bin = os.Getenv(binVariable); bin == "" {
		dir, err := os.MkdirTemp("", "tmemd-interop-")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(dir)
		if bin, err = buildCommands(dir); err != nil {
			return 1, err
		}
	}
	if os.Geteuid() != 0 {
		return runAsRoot()
	}
	// Debian's python3 has libnbd's module, others may not.
	if err := os.Setenv("PATH", "/usr/bin:/usr/sbin:/bin:/sbin:"+os.Getenv("PATH")); err != nil {
		return 1, err
	}
	if code := m.Run(); code != 0 {
		return code, nil
	}
	return 0, goleak.Find()
}

func buildCommands(dir string) (string, error) {
	build := exec.Command("go", "build", "-trimpath", "-o", dir, "./cmd/tmemd", "./cmd/tmemctl")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the commands: %w\n%s", err, output)
	}
	return dir, nil
}

func runAsRoot() (code int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	c := exec.Command("sudo", append([]string{"-n", binVariable + "=" + bin, self}, os.Args[1:]...)...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	var exit *exec.ExitError
	if err := c.Run(); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	} else if err != nil {
		return 1, fmt.Errorf("these tests mount file systems; run them as root, or with a sudo that asks for no password: %w", err)
	}
	return 0, nil
}
