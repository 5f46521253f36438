package crash

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
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
	worked := make(chan error, 1)
	before := u.count()
	go func() { worked <- u.each(func(w *worker, c *nbdtest.Client) error { return w.work(c) }) }()
	time.Sleep(time.Duration(20+u.random.IntN(100)) * time.Millisecond)
	if err := do(); err != nil {
		u.t.Fatal(err)
	}
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
	last := time.Time{}
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

func (u *upgradeStory) await(holds func() bool) error {
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("it does not happen")
		}
	}
	return nil
}

// TestUpgradeFails: whatever is wrong with the new program, the old one serves on,
// loses nothing, and can be upgraded once that is put right.
func TestUpgradeFails(t *testing.T) {
	u := newUpgradeStory(t)
	refused := func(want string) {
		t.Helper()
		u.under(func() error {
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
			refused(test.want)
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
	refused("colour: unknown key")
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
