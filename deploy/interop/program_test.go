//go:build interop

package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// No program that the tests run takes longer unless it hangs.
const programTimeout = 2 * time.Minute

// result is how a program ended.
type result struct {
	line           string // the command line, for messages
	stdout, stderr string
	err            error // nil if it exited with 0
}

func (r result) String() string {
	return fmt.Sprintf("%s\n%v\n%s%s", r.line, r.err, r.stdout, r.stderr)
}

// command is a program that dies with the tests.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.WaitDelay = 5 * time.Second
	return c
}

// try runs a program and says how it ended.
func try(ctx context.Context, name string, args ...string) result {
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	c := command(ctx, name, args...)
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	return result{
		line: name + " " + strings.Join(args, " "), stdout: stdout.String(), stderr: stderr.String(),
		err: errors.Join(err, ctx.Err()),
	}
}

// run runs a program that has to succeed and returns what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	r := try(t.Context(), name, args...)
	if r.err != nil {
		t.Fatal(r)
	}
	return r.stdout
}

// runLater runs a program in a cleanup: the test's context is done by then, and
// one that fails must not keep the next cleanup from running.
func runLater(t *testing.T, name string, args ...string) {
	t.Helper()
	if r := try(context.Background(), name, args...); r.err != nil {
		t.Error(r)
	}
}

// eventually waits for a condition that has to come true by itself.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for this after a minute: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
