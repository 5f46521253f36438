package scripts

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/ctl"
	"github.com/tmemd/tmemd/cmd/internal/daemon"
	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
)

// version is what the linker would set.
const version = "v0.1.0-test"

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"tmemd":   func() { os.Exit(daemon.Command(os.Args[1:], version, os.Stdout, os.Stderr)) },
		"tmemctl": func() { os.Exit(ctl.Command(os.Args[1:], version, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs the stories. Beside testscript's own commands they have
//
//	await DIR                                wait until the daemon of the folder answers
//	awaitup DIR DONOR                        wait until it has a donor that answers
//	term DIR                                 send SIGTERM to it
//	code N PROGRAM ARGS                      run a program that must exit with status N
//	pages write|check SOCKET EXPORT SEED N   write pages 0 to N-1 by NBD, or compare them
//	pages zero SOCKET EXPORT N               check that they are zero
//	pages fail SOCKET EXPORT PAGE            check that a page is an I/O error
//	occupy SOCKET                            serve on a socket, to be in the way
//	expand FILE                              replace $VARIABLES in a file
//	memory ORDER ARGS                        do something to memory files, see memory_test.go
//
// and the variables SHM, a folder on memory, DISK, one that is not, and UID, the user.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await": await, "awaitup": awaitUp, "term": term, "code": code, "pages": pages, "occupy": occupy, "memory": memory, "expand": expand,
		},
		// Not the user's own folders.
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("UID", strconv.Itoa(os.Geteuid()))
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each program ends a second late
			e.Setenv("XDG_STATE_HOME", filepath.Join(e.WorkDir, "xdg"))
			return setMemory(e)
		},
	})
}

const patience = 20 * time.Second

func await(ts *testscript.TestScript, _ bool, args []string) {
	// tmemctl is asked, not the socket: it is bound before it is served.
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := ts.Exec("tmemctl", "--state-dir", args[0], "backend", "list")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the daemon of %s does not answer: %v", args[0], err)
		}
	}
}

func awaitUp(ts *testscript.TestScript, _ bool, args []string) {
	client := admin.NewClient(ts.MkAbs(filepath.Join(args[0], "admin.sock")))
	defer client.Close()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		list, err := client.Donors(context.Background())
		if slices.ContainsFunc(list, func(d admin.Donor) bool { return d.Name == args[1] && d.State == "up" }) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("donor %s does not answer: %+v, %v", args[1], list, err)
		}
	}
}

func term(ts *testscript.TestScript, _ bool, args []string) {
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(filepath.Join(args[0], "lock"))))
	ts.Check(err)
	ts.Check(syscall.Kill(pid, syscall.SIGTERM))
}

func code(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit interface{ ExitCode() int }
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func pages(ts *testscript.TestScript, _ bool, args []string) {
	socket, export := ts.MkAbs(args[1]), args[2]
	c, err := nbdtest.Dial("unix", socket, export)
	ts.Check(err)
	defer c.Close()
	numbers := make([]uint64, 0, 2)
	for _, text := range args[3:] {
		n, err := strconv.ParseUint(text, 10, 64)
		ts.Check(err)
		numbers = append(numbers, n)
	}
	switch args[0] {
	case "write":
		ts.Check(c.WritePages(numbers[0], 0, numbers[1]))
	case "check":
		ts.Check(c.CheckPages(numbers[0], 0, numbers[1]))
	case "fail":
		_, err := c.ReadAt(make([]byte, nbdtest.PageSize), int64(numbers[0])*nbdtest.PageSize)
		if err != nbdtest.Error(syscall.EIO) {
			ts.Fatalf("page %d: %v, want an I/O error", numbers[0], err)
		}
	case "zero":
		ts.Check(c.CheckZeroes(0, numbers[0]))
	default:
		ts.Fatalf("pages %s?", args[0])
	}
}

func expand(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	ts.Check(os.WriteFile(path, []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o600))
}
