package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tmemd/tmemd/backends/pagemap"
)

// python is Debian's, which has Debian's Django and gunicorn.
const python = "/usr/bin/python3"

// patience bounds the start of a program, and its stop.
const patience = 2 * time.Minute

// workload is some processes whose memory is counted together.
type workload struct {
	name string
	run  func(ctx context.Context, folder string, g *group) error // returns when they are to be counted
}

// workloads are what the host runs, one after the other.
func workloads(visits int) []workload {
	return []workload{
		{"Django, 4 workers forked after the site was loaded (gunicorn --preload)", forkedSite(visits, "--preload")},
		{"the same, with gc.freeze() before the fork", forkedSite(visits, "--preload", "-e", "FREEZE=1")},
		{"the same, each worker loads the site", forkedSite(visits)},
		{"4 × python3, syntax trees of other source files each", readers(python, "reader.py", 150,
			"/usr/lib/python3.11/asyncio", "/usr/lib/python3.11/email", "/usr/lib/python3/dist-packages/django/db", "/usr/lib/python3/dist-packages/django/contrib")},
		{"4 × node, lines and words of other text files each", readers("node", "reader.js", 60,
			"/usr/lib/python3.11", "/usr/include", "/usr/share/doc", "/usr/lib/python3/dist-packages/django")},
	}
}

// forkedSite is a site that is served by forked workers, after visits.
func forkedSite(visits int, options ...string) func(context.Context, string, *group) error {
	return func(ctx context.Context, folder string, g *group) error {
		port, err := freePort()
		if err != nil {
			return err
		}
		site := append([]string{"-m", "gunicorn", "-w", "4", "-b", fmt.Sprint("127.0.0.1:", port)}, options...)
		if err := g.start(folder, python, append(site, "shop:application")...); err != nil {
			return err
		}
		return runTool(ctx, folder, python, "visitors.py", strconv.Itoa(port), strconv.Itoa(visits), strconv.FormatInt(time.Now().UnixNano(), 10))
	}
}

// readers is one process for each folder, that reads up to so many files of it.
func readers(program, script string, files int, folders ...string) func(context.Context, string, *group) error {
	return func(ctx context.Context, folder string, g *group) error {
		for _, of := range folders {
			if err := g.start(folder, program, script, of, strconv.Itoa(files)); err != nil {
				return err
			}
		}
		return g.awaitReady(ctx)
	}
}

// measureWorkload runs one, stops it, and counts its memory.
func measureWorkload(ctx context.Context, w workload, folder string) (g gain, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// Pdeathsig ends a process when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	group := new(group)
	defer group.end()
	if err := w.run(ctx, folder, group); err != nil {
		return gain{}, err
	}
	counted, err := group.count(ctx)
	if err != nil {
		return gain{}, err
	}
	return counted.gain(), nil
}

// group is programs that were started, each with what it forks in a process group of its own.
type group struct {
	commands []*exec.Cmd
	outputs  []io.Reader
}

func (g *group) start(folder, program string, arguments ...string) error {
	command := exec.Command(program, arguments...)
	command.Dir = folder
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	output, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", program, err)
	}
	g.commands, g.outputs = append(g.commands, command), append(g.outputs, output)
	return nil
}

// awaitReady waits for the first line of each program.
func (g *group) awaitReady(ctx context.Context) error {
	stop := context.AfterFunc(ctx, g.kill) // the pipes end then
	defer stop()
	for i, output := range g.outputs {
		if line, err := bufio.NewReader(output).ReadString('\n'); err != nil || !strings.HasPrefix(line, "ready") {
			return fmt.Errorf("%s said %q: %w", g.commands[i], line, errors.Join(err, ctx.Err()))
		}
	}
	return nil
}

func (g *group) kill() {
	for _, command := range g.commands {
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) // it has ended, then
	}
}

// end kills all processes and waits for those that were started here.
func (g *group) end() {
	g.kill()
	for _, command := range g.commands {
		_ = command.Wait() // killed
	}
}

// count stops all processes and counts each frame of their memory that the kernel could swap once.
func (g *group) count(ctx context.Context) (*census, error) {
	c, err := newCensus()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, command := range g.commands {
		members, err := stopGroup(ctx, command.Process.Pid)
		if err != nil {
			return nil, fmt.Errorf("stop %s: %w", command, err)
		}
		pids = append(pids, members...)
	}
	frames := make(map[uint64]bool)
	for _, pid := range pids {
		if err := countProcess(c, pid, frames); err != nil {
			return nil, fmt.Errorf("read process %d: %w", pid, err)
		}
	}
	return c, nil
}

// countProcess counts the pages of a stopped process whose frames were not counted yet.
func countProcess(c *census, pid int, frames map[uint64]bool) error {
	process, err := pagemap.Open(pid)
	if err != nil {
		return err
	}
	defer process.Close()
	runs, err := process.Runs(1)
	if err != nil {
		return err
	}
	if process.Restricted() {
		return pagemap.ErrNoFrame
	}
	page := make([]byte, pageSize)
	for _, run := range runs {
		frame, err := process.Frame(run.Address)
		if err != nil {
			return err
		}
		if frames[frame] {
			continue
		}
		frames[frame] = true
		if err := process.Read(run.Address, page); err != nil {
			return err
		}
		c.add(page)
	}
	return nil
}

// stopGroup stops the processes of a process group and returns them.
//
// A process that was stopped between vfork and exec has a parent that waits for it and cannot be stopped: then all
// go on for an instant.
func stopGroup(ctx context.Context, leader int) ([]int, error) {
	for attempt := 0; ; attempt++ {
		if attempt%20 == 0 {
			for _, signal := range []syscall.Signal{syscall.SIGCONT, syscall.SIGSTOP} {
				if err := syscall.Kill(-leader, signal); err != nil {
					return nil, err
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		states, err := groupStates(leader)
		if err != nil {
			return nil, err
		}
		var stopped []int
		for pid, state := range states {
			if state == "T" {
				stopped = append(stopped, pid)
			}
		}
		if len(states) > 0 && len(stopped) == len(states) {
			return stopped, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("states %v: %w", states, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// groupStates are the processes of a process group and the letters of their states. Those that have ended are left out.
func groupStates(leader int) (map[int]string, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	states := make(map[int]string)
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		// PID (NAME) STATE PARENT GROUP …, and a name may hold anything.
		begin, rest := string(stat), string(stat)
		if i := strings.LastIndex(rest, ") "); i >= 0 {
			rest = rest[i+2:]
		}
		fields := strings.Fields(rest)
		if len(fields) < 3 || fields[2] != strconv.Itoa(leader) || fields[0] == "Z" {
			continue
		}
		pid, err := strconv.Atoi(strings.Fields(begin)[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		states[pid] = fields[0]
	}
	return states, nil
}

func runTool(ctx context.Context, folder, name string, arguments ...string) error {
	command := exec.CommandContext(ctx, name, arguments...)
	command.Dir = folder
	if printed, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, printed)
	}
	return nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
