//go:build interop

package interop

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// bin is the folder with the built tmemd and tmemctl. TestMain sets it before
// the first test.
var bin string

// binVariable tells the process that runs the tests where they were built.
const binVariable = "TMEMD_INTEROP_BIN"

func TestMain(m *testing.M) {
	run := runPrivately
	if bin = os.Getenv(binVariable); bin != "" {
		run = func() (int, error) { return runTests(m) }
	}
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		code = 1
	}
	os.Exit(code)
}

// runPrivately builds the commands and runs the tests in another process: as
// root, since they mount file systems, and with mounts of its own, so that none
// is left whatever happens to it.
func runPrivately() (code int, err error) {
	dir, err := os.MkdirTemp("", "tmemd-interop-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := buildCommands(dir); err != nil {
		return 1, err
	}
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	words := append([]string{"env", binVariable + "=" + dir, "unshare", "--mount", self}, os.Args[1:]...)
	if os.Geteuid() != 0 {
		words = append([]string{"sudo", "-n"}, words...)
	}
	c := exec.Command(words[0], words[1:]...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var exit *exec.ExitError
	if err := c.Run(); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	} else if err != nil {
		return 1, fmt.Errorf("these tests run as root, or as a user whose sudo asks for no password: %w", err)
	}
	return 0, nil
}

func buildCommands(dir string) error {
	build := exec.Command("go", "build", "-trimpath", "-o", dir, "./cmd/tmemd", "./cmd/tmemctl")
	build.Dir = filepath.Join("..", "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the commands: %w\n%s", err, output)
	}
	return nil
}

func runTests(m *testing.M) (code int, err error) {
	// Debian's python3 has libnbd's module, others may not.
	if err := os.Setenv("PATH", "/usr/bin:/usr/sbin:/bin:/sbin:"+os.Getenv("PATH")); err != nil {
		return 1, err
	}
	if code := m.Run(); code != 0 {
		return code, nil
	}
	return 0, goleak.Find()
}
