package scripts

import (
	"bufio"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestFollowLog: whoever follows the log sees what comes, beyond the end of the daemon,
// and does not hold it up.
func TestFollowLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	daemon := startDaemon(t, dir)
	c := program(t, "tmemctl", "--state-dir", dir, "log", "--follow")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	await := func(text string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), text) {
				return
			}
		}
		t.Fatalf("the log ended before %q: %v", text, lines.Err())
	}
	await("backend loaded") // what was there
	if err := program(t, "tmemctl", "--state-dir", dir, "backend", "freeze", "zcache").Run(); err != nil {
		t.Fatal(err)
	}
	await("backend frozen") // what comes
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await("stopping")
	if err := daemon.Wait(); err != nil {
		t.Fatal(err)
	}
	startDaemon(t, dir)
	await("backend loaded") // of the next one
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		_ = lines.Text() // the pipe has to be read to its end before Wait
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
}
