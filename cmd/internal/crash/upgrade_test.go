package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
)

// upgradeStory is one daemon that is upgraded under load, again and again.
type upgradeStory struct {
	*story
	process  *process
	operator *operator
}

func newUpgradeStory(t *testing.T) *upgradeStory {
	t.Helper()
	seed := number(t, "CRASH_SEED", uint64(time.Now().UnixNano()))
	t.Logf("CRASH_SEED=%d", seed)
	s := &story{t: t, place: newPlace(t), random: rand.New(rand.NewPCG(seed, 0))}
	s.args = []string{"--fresh"} // which is not to be followed twice
	for n := range workers {
		s.workers = append(s.workers, newWorker(n, seed))
	}
	p, err := s.start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of tmemd:\n%s", &p.log)
		}
		p.Process.Kill()
		<-p.exited
	})
	o := newOperator(s.place, seed)
	t.Cleanup(o.client.Close)
	return &upgradeStory{story: s, process: p, operator: o}
}

// under lets the workers work while something is done, which closes their
// connections, and verifies every page afterwards.
func (u *upgradeStory) under(do func() error) {
	u.t.Helper()
	u.while(nil, func() {}, do)
}

// beside is the same for what does not disturb clients.
func (u *upgradeStory) beside(do func() error) {
	u.t.Helper()
	u.while(errServed, func() {
		for _, w := range u.workers {
			w.ends.Store(true)
		}
	}, do)
}

// while lets the workers work until something is done and they are told to end, or
// their connections are, whichever is expected.
func (u *upgradeStory) while(expected error, end func(), do func() error) {
	u.t.Helper()
	worked := make(chan error, 1)
	before := u.count()
	go func() {
		worked <- u.each(func(w *worker, c *nbdtest.Client) error {
			if err := w.work(c); err != expected {
				return fmt.Errorf("worked until %v, expected %v", err, expected)
			}
			return nil
		})
	}()
	time.Sleep(time.Duration(20+u.random.IntN(100)) * time.Millisecond)
	if err := do(); err != nil {
		u.t.Fatal(err)
	}
	end()
	if err := <-worked; err != nil {
		u.t.Fatalf("a client was told an error, or something wrong: %v", err)
	}
	u.requests += u.count() - before
	if err := u.each(func(w *worker, c *nbdtest.Client) error { return w.verify(c) }); err != nil {
		u.t.Fatal(err)
	}
}

func (u *upgradeStory) upgrade() (pid int, started time.Time, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	status, err := u.operator.client.Upgrade(ctx)
	return status.PID, status.Started, err
}

// TestUpgrade: pages, backends, their states and settings, and the process stay.
func TestUpgrade(t *testing.T) {
	u, ctx := newUpgradeStory(t), context.Background()
	if _, err := u.operator.client.Freeze(ctx, "zcache", "for a reason"); err != nil {
		t.Fatal(err)
	}
	last, files := time.Time{}, 0
	for round := range 6 {
		u.under(func() error {
			if round == 5 { // by a signal, for service managers
				before := strings.Count(u.process.log.String(), "upgraded: took over")
				u.process.Process.Signal(syscall.SIGUSR2)
				return u.await(func() bool { return strings.Count(u.process.log.String(), "upgraded: took over") > before })
			}
			u.place.install(t, nil)
			pid, started, err := u.upgrade()
			if err == nil && (pid != u.process.Process.Pid || !started.After(last)) {
				t.Errorf("process %d, started %v, after process %d, started %v", pid, started, u.process.Process.Pid, last)
			}
			last = started
			return err
		})
		files = u.settled(files)
		status, err := u.operator.client.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if b := status.Backends[0]; len(status.Backends) != 1 || round < 3 && (b.State != "frozen" || b.Reason != "for a reason") || b.LimitBytes != 3<<20 {
			t.Fatalf("round %d: %+v", round, status.Backends)
		}
		if round == 2 {
			if _, err := u.operator.client.Thaw(ctx, "zcache"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := u.process.stop(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nbd.sock", "admin.sock"} {
		if _, err := os.Stat(u.place.dir + "/" + name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s after the end: %v", name, err)
		}
	}
	if u.requests < 100 {
		t.Errorf("%d requests are not much of a load", u.requests)
	}
}

// settled waits until the daemon has no child, not even one that has ended, and no more
// files open than before, if that is known; it returns how many.
func (u *upgradeStory) settled(before int) (files int) {
	u.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", u.process.Process.Pid)
	u.operator.client.Close() // idle connections
	var children string
	err := u.await(func() bool {
		threads, err := filepath.Glob(proc + "task/*/children")
		if err != nil || len(threads) == 0 {
			u.t.Fatalf("the daemon's threads: %v, %v", threads, err)
		}
		children = ""
		for _, path := range threads {
			text, _ := os.ReadFile(path) // its error is that the thread has ended
			children += string(text)
		}
		list, err := os.ReadDir(proc + "fd")
		if err != nil {
			u.t.Fatal(err)
		}
		files = len(list)
		return children == "" && (before == 0 || files <= before)
	})
	if err != nil {
		u.t.Fatalf("after an upgrade: children %q; %d files are open, %d before", children, files, before)
	}
	return files
}

// TestUpgradeKilled: a daemon that is killed while it is upgraded, at whatever step,
// leaves every page, and nobody who holds anything.
func TestUpgradeKilled(t *testing.T) {
	u := newUpgradeStory(t)
	u.args = nil // not to begin afresh each time
	for round := range 12 {
		worked, asked := make(chan error, 1), make(chan struct{})
		go func() { worked <- u.each(func(w *worker, c *nbdtest.Client) error { return w.work(c) }) }()
		go func() {
			defer close(asked)
			time.Sleep(10 * time.Millisecond)
			_, _, _ = u.upgrade() // it may come off or not
		}()
		time.Sleep(time.Duration(u.random.IntN(400)) * time.Millisecond)
		if err := u.process.kill(); err != nil {
			t.Fatal(err)
		}
		var absent notAttached
		if err := <-worked; err != nil && !errors.As(err, &absent) {
			t.Fatalf("a client was told an error, or something wrong: %v", err)
		}
		p, err := u.start()
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		u.process = p
		u.settled(0)
		<-asked
	}
	if err := u.process.stop(); err != nil {
		t.Fatal(err)
	}
}

func (u *upgradeStory) await(holds func() bool) error {
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("it does not happen")
		}
	}
	return nil
}

// rehearsalReady is what a program says that is about to rehearse.
const rehearsalReady = "tmemd: this program is ready to rehearse"

// TestUpgradeFails: whatever is wrong with the new program, the old one serves on,
// loses nothing, and can be upgraded once that is put right. Clients notice only what
// goes wrong when they are not served.
func TestUpgradeFails(t *testing.T) {
	u := newUpgradeStory(t)
	refused := func(clients func(func() error), want string) {
		t.Helper()
		clients(func() error {
			_, _, err := u.upgrade()
			var told strings.Builder
			cli.Report(&told, err)
			if !strings.Contains(told.String(), want) || !strings.Contains(told.String(), "\nhint: ") {
				t.Errorf("want a refusal with %q, got %q", want, told.String())
			}
			return nil
		})
	}
	for _, test := range []struct{ name, text, want string }{
		{"no program", "this is no program", "exec format error"},
		{"ends at once", "#!/bin/sh\necho cannot; exit 3\n", "the new program cannot take over (exit status 3): cannot"},
		{"knows no rehearsal", "#!/bin/sh\nexit 0\n", "the new program cannot take over (exit status 0)"},
		{"is killed", "#!/bin/sh\nkill -9 $$\n", "the new program cannot take over (signal: killed)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			u.place.install(t, []byte(test.text))
			refused(u.beside, test.want)
		})
	}
	for _, test := range []struct{ name, text, want string }{
		{"fails its rehearsal", "echo cannot; exit 3\n", "the new program cannot take over (exit status 3): " + rehearsalReady + "\ncannot"},
		{"is killed at its rehearsal", "kill -9 $$\n", "the new program cannot take over (signal: killed)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			u.place.install(t, []byte("#!/bin/sh\necho "+rehearsalReady+"\nhead -c 1 <&5 >/dev/null\n"+test.text))
			refused(u.under, test.want)
		})
	}
	u.place.install(t, nil)
	// A configuration that the new program does not take.
	config, err := os.ReadFile(u.config())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(u.place.dir+"/tmemd.toml", []byte("colour = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(u.beside, "colour: unknown key")
	if err := os.WriteFile(u.place.dir+"/tmemd.toml", config, 0o600); err != nil {
		t.Fatal(err)
	}
	u.under(func() error {
		_, _, err := u.upgrade()
		return err
	})
	if err := u.process.stop(); err != nil {
		t.Fatal(err)
	}
}
