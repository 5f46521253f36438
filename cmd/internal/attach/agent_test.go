package attach

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
)

const (
	patience = 20 * time.Second
	identity = "swap through tmemd, content 1"
)

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came true: %s", what)
		}
	}
}

// rig is an attachment under test with all that is around it.
type rig struct {
	t      *testing.T
	kernel *fakeKernel
	host   *fakeHost
	server *testServer
	dir    string
	log    *strings.Builder // read after the agent has ended

	signals chan os.Signal
	dead    chan struct{}
	ended   chan error // of Run; nil while it does not run
}

func newRig(t *testing.T) *rig {
	return &rig{
		t: t, kernel: newFakeKernel(t), host: &fakeHost{}, server: startServer(t, identity), dir: t.TempDir(), log: &strings.Builder{},
		signals: make(chan os.Signal, 1), dead: make(chan struct{}, 1),
	}
}

func (r *rig) options() Options {
	return Options{
		Device: "/dev/nbd3", Address: r.server.address(), Export: "swap", Connections: 2, Priority: 7, Discard: true,
		Timeout: 30 * time.Second, DeadConnTimeout: 10 * time.Minute, RunDir: r.dir,
		Log: slog.New(slog.NewTextHandler(r.log, nil)),
	}
}

func (r *rig) attach() *Attachment {
	r.t.Helper()
	a, err := attach(r.t.Context(), r.options(), r.kernel, r.host)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// run starts the agent. It is told to detach at the end of the test, if it was
// not before.
func (r *rig) run(a *Attachment) {
	r.ended = make(chan error, 1)
	go func() { r.ended <- a.Run(r.dead, r.signals) }()
	r.t.Cleanup(func() {
		if r.ended == nil {
			return
		}
		r.signals <- unix.SIGTERM
		if err := r.wait(); err != nil {
			r.t.Error(err)
		}
	})
}

func (r *rig) wait() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		r.ended = nil
		return err
	case <-time.After(patience):
		r.t.Fatal("the agent does not end")
		return nil
	}
}

func (r *rig) record() Record {
	r.t.Helper()
	record, _, err := readRecord(r.dir, fakeIndex)
	if err != nil {
		r.t.Fatal(err)
	}
	return record
}

func (r *rig) linkDead() {
	select {
	case r.dead <- struct{}{}:
	default:
	}
}

func TestAttachAndDetach(t *testing.T) {
	r := newRig(t)
	a := r.attach()
	if got := r.kernel.alive(); got != 2 {
		t.Errorf("%d connections work", got)
	}
	d := r.kernel.asked
	if d.size != testSize || d.blockSize != 4096 || d.timeout != 30*time.Second || d.deadConnTimeout != 10*time.Minute || d.flags&flagTrim == 0 || !strings.HasPrefix(d.backend, "tmemctl ") {
		t.Errorf("the kernel was asked for %+v", d)
	}
	if h := r.host; h.prepared != testSize || !h.on || h.priority != 7 || !h.discard {
		t.Errorf("the machine was told %+v", h)
	}
	record := r.record()
	if record.Device != "/dev/nbd3" || record.PID != os.Getpid() || !record.Fenced || record.Server.Identity != identity || record.Phase != PhaseAttached {
		t.Errorf("the record is %+v", record)
	}
	if _, err := attach(t.Context(), r.options(), r.kernel, r.host); err == nil || !strings.Contains(err.Error(), "looks after /dev/nbd3") {
		t.Errorf("a second agent: %v", err)
	}
	r.run(a)
	r.signals <- unix.SIGTERM
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if connected, _ := r.kernel.connected(fakeIndex); connected || r.host.swapping() {
		t.Error("it is attached still")
	}
	if records, err := Records(r.dir); err != nil || len(records) != 0 {
		t.Errorf("records %v, %v", records, err)
	}
}

// TestServerRestarts: connections die with the server, and nobody says so.
func TestServerRestarts(t *testing.T) {
	for _, told := range []bool{false, true} {
		t.Run(map[bool]string{false: "unsaid", true: "said"}[told], func(t *testing.T) {
			r := newRig(t)
			r.run(r.attach())
			for round := range 3 {
				r.server.stop()
				if told {
					r.linkDead()
				}
				eventually(t, "the agent knows", func() bool { return r.record().Phase == PhaseReconnecting })
				r.server.start()
				eventually(t, "the agent has reconnected", func() bool { return r.record().Reconnects == round+1 })
				if record := r.record(); record.Phase != PhaseAttached || record.Problem != "" {
					t.Errorf("the record is %+v", record)
				}
				if got := r.kernel.alive(); got != 2 {
					t.Errorf("%d connections work", got)
				}
			}
		})
	}
}

// TestOneConnectionDies: all are made anew, so that the server ends what is left
// of the old ones before anything is sent again.
func TestOneConnectionDies(t *testing.T) {
	r := newRig(t)
	r.run(r.attach())
	r.kernel.mu.Lock()
	first := r.kernel.links[0].socket
	shutdown(first)
	r.kernel.mu.Unlock()
	r.linkDead()
	eventually(t, "the agent has reconnected", func() bool { return r.record().Reconnects == 1 })
	if got := r.kernel.alive(); got != 2 {
		t.Errorf("%d connections work", got)
	}
	eventually(t, "the server has ended the others", func() bool { return r.server.server.Stats().Connections.Now == 2 })
	if total := r.server.server.Stats().Connections.Total; total != 4 {
		t.Errorf("the server had %d connections, want 4", total)
	}
}

// TestKernelIsLate: sockets that are offered before the kernel has noticed that
// the old ones are dead are dropped; they are offered again.
func TestKernelIsLate(t *testing.T) {
	r := newRig(t)
	r.kernel.late = 300 * time.Millisecond
	r.run(r.attach())
	r.server.stop()
	r.server.start()
	r.linkDead()
	eventually(t, "the agent has reconnected", func() bool { return r.record().Reconnects == 1 })
	if got := r.kernel.alive(); got != 2 {
		t.Errorf("%d connections work", got)
	}
	r.kernel.mu.Lock()
	defer r.kernel.mu.Unlock()
	if r.kernel.offered <= 2 {
		t.Errorf("only %d sockets were offered: the kernel was not late", r.kernel.offered)
	}
}

func TestAnotherServerIsRefused(t *testing.T) {
	changes := map[string]func(*testServer){
		"identity": func(s *testServer) { s.export.Description = "swap through tmemd, content 2" },
		"size":     func(s *testServer) { s.export.Device = blank(testSize / 2) },
		"flags":    func(s *testServer) { s.export.ReadOnly = true },
		"name":     func(s *testServer) { s.export.Name = "other" },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.run(r.attach())
			right := r.server.export
			r.server.stop()
			change(r.server)
			r.server.start()
			r.linkDead()
			eventually(t, "the agent says what is wrong", func() bool {
				return strings.Contains(r.record().Problem, "not the one that the device was attached to") ||
					strings.Contains(r.record().Problem, `no export "swap"`)
			})
			r.kernel.mu.Lock()
			if r.kernel.offered > 0 {
				t.Error("the kernel was given connections to another server")
			}
			r.kernel.mu.Unlock()
			r.server.stop()
			r.server.export = right
			r.server.start()
			eventually(t, "the agent has reconnected", func() bool { return r.record().Reconnects == 1 })
		})
	}
}

// TestExportGrew: a resize under an attachment is no reason to fail its requests
// when the server restarts, nor when the agent does. The device stays as it is.
func TestExportGrew(t *testing.T) {
	for name, agentDies := range map[string]bool{"agent lives": false, "agent dies": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			a := r.attach()
			if agentDies {
				r.kill(a)
			}
			r.server.stop()
			r.server.export.Device = blank(2 * testSize)
			r.server.start()
			if agentDies {
				a = r.attach()
			}
			r.run(a)
			r.linkDead()
			eventually(t, "the agent has reconnected", func() bool { return r.record().Reconnects == 1 })
			if got, size := r.kernel.alive(), r.record().Server.Size; got != 2 || size != testSize {
				t.Errorf("%d connections work, the record has %d bytes", got, size)
			}
		})
	}
}

func TestWhichServerMayTakeOver(t *testing.T) {
	const base, fastZero, cache = uint16(0x16d), uint16(1 << 11), uint16(1 << 10) // tmemd's flags, and two more
	was := Server{Name: "swap", Size: testSize, Flags: base, Identity: identity}
	tests := []struct {
		name   string
		change func(*Server)
		why    string // what the refusal says; empty if it may
	}{
		{"the same", func(*Server) {}, ""},
		{"larger", func(s *Server) { s.Size += pageSize }, ""},
		{"smaller", func(s *Server) { s.Size -= pageSize }, "it has 1044480 bytes, the device has 1048576"},
		{"more flags", func(s *Server) { s.Flags |= fastZero | cache }, ""},
		{"one flag less", func(s *Server) { s.Flags &^= flagTrim }, "without 0x20"},
		{"another flag instead", func(s *Server) { s.Flags = s.Flags&^flagMultiConn | cache }, "without 0x100"},
		{"read-only", func(s *Server) { s.Flags |= flagReadOnly }, "read-only"},
		{"another identity", func(s *Server) { s.Identity = "" }, "calls itself"},
	}
	for _, test := range tests {
		other := was
		test.change(&other)
		if why := was.differs(other); (why == "") != (test.why == "") || !strings.Contains(why, test.why) {
			t.Errorf("%s: %q, want %q", test.name, why, test.why)
		}
	}
	readOnly := was
	readOnly.Flags |= flagReadOnly
	if why := readOnly.differs(readOnly); why != "" {
		t.Errorf("read-only as before: %q", why)
	}
}

func TestDeviceIsTakenAway(t *testing.T) {
	r := newRig(t)
	r.run(r.attach())
	r.server.stop()
	if err := r.kernel.disconnect(fakeIndex); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(); !errors.Is(err, errDisconnected) {
		t.Errorf("the agent ends with %v", err)
	}
}

// TestServerRestartsDuringDetach: swapoff reads from the server until its end.
func TestServerRestartsDuringDetach(t *testing.T) {
	r := newRig(t)
	open := r.host.closeGate()
	r.run(r.attach())
	r.signals <- unix.SIGTERM
	eventually(t, "the detach has begun", func() bool { return r.record().Phase == PhaseDetaching })
	r.server.stop()
	r.server.start()
	eventually(t, "the agent has reconnected", func() bool { return r.record().Reconnects == 1 })
	if phase := r.record().Phase; phase != PhaseDetaching {
		t.Errorf("the phase is %s", phase)
	}
	open()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
}

// TestDetachWithoutServer: nothing may be on the device, and its server gone for
// good. A detach is not held up by attempts to reconnect.
func TestDetachWithoutServer(t *testing.T) {
	r := newRig(t)
	r.run(r.attach())
	r.server.stop()
	r.linkDead()
	eventually(t, "the agent knows", func() bool { return r.record().Phase == PhaseReconnecting })
	r.signals <- unix.SIGTERM
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	if connected, _ := r.kernel.connected(fakeIndex); connected || r.host.swapping() {
		t.Error("it is attached still")
	}
}

// TestSwapoffFails: pages are still on the device, so it stays.
func TestSwapoffFails(t *testing.T) {
	r := newRig(t)
	r.host.setFailOff(cli.Failure("end programs", "not enough memory"))
	r.run(r.attach())
	r.signals <- unix.SIGTERM
	eventually(t, "the failure is noted", func() bool { return r.record().Problem == "not enough memory" })
	if got := r.kernel.alive(); got != 2 || r.record().Phase != PhaseAttached {
		t.Errorf("%d connections work, the record is %+v", got, r.record())
	}
	r.host.setFailOff(nil)
}

func TestDetachCommand(t *testing.T) {
	r := newRig(t)
	r.run(r.attach())
	stop := forwardSIGTERM(t, r.signals)
	defer stop()
	var told []int64
	o := DetachOptions{Device: "/dev/nbd3", RunDir: r.dir, Progress: func(left int64) { told = append(told, left) }}
	r.host.setFailOff(cli.Failure("end programs", "not enough memory"))
	err := detach(t.Context(), o, r.kernel, r.host)
	var failed *cli.Error
	if !errors.As(err, &failed) || failed.Problem != "not enough memory" || failed.Hint != "end programs" {
		t.Errorf("a swapoff that fails: %v", err)
	}
	r.host.setFailOff(nil)
	time.AfterFunc(3*detachEvery/2, r.host.closeGate())
	if err := detach(t.Context(), o, r.kernel, r.host); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	if len(told) == 0 || told[0] != 1<<20 {
		t.Errorf("progress was %v", told)
	}
	if err := detach(t.Context(), o, r.kernel, r.host); err == nil || !strings.Contains(err.Error(), "/dev/nbd3 is not attached") {
		t.Errorf("detached twice: %v", err)
	}
}

// kill leaves an attachment as an agent does that is killed.
func (r *rig) kill(a *Attachment) {
	for _, f := range a.links {
		f.Close()
	}
	if err := a.slot.close(); err != nil {
		r.t.Error(err)
	}
}

// TestDetachWhileAnAgentTakesOver: it holds the lock, and the record names the
// one that died, whose number may be somebody else's.
func TestDetachWhileAnAgentTakesOver(t *testing.T) {
	r := newRig(t)
	a := r.attach()
	signals := make(chan os.Signal, 1)
	stop := forwardSIGTERM(t, signals)
	defer stop()
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Record){
		"number used again": func(r *Record) { r.Started-- }, // the test's own
		"gone":              func(r *Record) { r.PID = ended.Process.Pid },
	} {
		record := a.record
		change(&record)
		if err := a.slot.save(record); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*detachEvery)
		err := detach(ctx, DetachOptions{Device: "nbd3", RunDir: r.dir}, r.kernel, r.host)
		cancel()
		var told *cli.Error
		if !errors.As(err, &told) || !strings.Contains(told.Problem, "has not got that far yet") || !strings.Contains(told.Hint, "again") {
			t.Errorf("%s: detach returns %v", name, err)
		}
	}
	select {
	case <-signals:
		t.Error("another process was told to end")
	default:
	}
	r.run(a) // and detaches
}

func TestDetachWithoutAgent(t *testing.T) {
	r := newRig(t)
	r.kill(r.attach())
	if err := detach(t.Context(), DetachOptions{Device: "nbd3", RunDir: r.dir}, r.kernel, r.host); err != nil {
		t.Fatal(err)
	}
	if connected, _ := r.kernel.connected(fakeIndex); connected || r.host.swapping() {
		t.Error("it is attached still")
	}
}

// TestTakeOver: the next agent makes all connections anew, and the server ends
// those of the one that died.
func TestTakeOver(t *testing.T) {
	r := newRig(t)
	r.kill(r.attach())
	if r.kernel.alive() != 2 {
		t.Fatal("the connections died with the agent")
	}
	other := r.options()
	other.Export = "other"
	if _, err := attach(t.Context(), other, r.kernel, r.host); err == nil || !strings.Contains(err.Error(), `attached to export "swap"`) {
		t.Errorf("taking over for another export: %v", err)
	}
	r.run(r.attach())
	eventually(t, "the agent has reconnected", func() bool { return r.record().Reconnects == 1 })
	if got := r.kernel.alive(); got != 2 || r.record().Phase != PhaseAttached {
		t.Errorf("%d connections work, the record is %+v", got, r.record())
	}
	eventually(t, "the server has ended the others", func() bool { return r.server.server.Stats().Connections.Now == 2 })
}

// TestClockIsSetBack: the connections of an agent that died live, and are of a
// later time than the next agent has.
func TestClockIsSetBack(t *testing.T) {
	for name, reconnect := range map[string]bool{"after attach": false, "after a reconnect that was not noted": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			if !reconnect {
				r.host.fast = time.Hour
			}
			a := r.attach()
			if reconnect {
				r.host.fast = time.Hour
				a.beginOutage()
				if err := a.replace(); err != nil {
					t.Fatal(err)
				}
			}
			r.kill(a)
			r.host.fast = 0
			r.run(r.attach())
			eventually(t, "the agent has reconnected", func() bool { return r.record().Reconnects == 1 })
			if got := r.kernel.alive(); got != 2 {
				t.Errorf("%d connections work", got)
			}
			eventually(t, "the server has ended the others", func() bool { return r.server.server.Stats().Connections.Now == 2 })
		})
	}
}

func TestFailedAttachLeavesNothing(t *testing.T) {
	gone := config.Address{Network: "unix", Address: "/nonexistent/nbd.sock"}
	tests := []struct {
		name   string
		change func(*rig, *Options)
		text   string
	}{
		{"nobody there", func(_ *rig, o *Options) { o.Address = gone }, "nobody serves NBD on unix:///nonexistent/nbd.sock"},
		{"no export", func(_ *rig, o *Options) { o.Export = "tape" }, `the server has no export "tape"`},
		{"read-only", func(r *rig, _ *Options) { r.server.stop(); r.server.export.ReadOnly = true; r.server.start() }, "read-only"},
		{"swapon fails", func(r *rig, _ *Options) { r.host.failOn = unix.EPERM }, "operation not permitted"},
		{"too many connections", func(_ *rig, o *Options) { o.Connections = 9 }, "9 connections"},
		{"priority", func(_ *rig, o *Options) { o.Priority = -1 }, "-1 is not a priority"},
		{"timeout", func(_ *rig, o *Options) { o.Timeout = 0 }, "0s is not a timeout"},
		{"dead connection timeout", func(_ *rig, o *Options) { o.DeadConnTimeout = 1500 * time.Millisecond }, "1.5s is not a time"},
		{"device", func(_ *rig, o *Options) { o.Device = "/dev/sda" }, "not an NBD device"},
		{"unknown host", func(_ *rig, o *Options) { o.Address = config.Address{Network: "tcp", Address: "nowhere.invalid:1"} }, "look up nowhere.invalid:1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t)
			o := r.options()
			test.change(r, &o)
			_, err := attach(t.Context(), o, r.kernel, r.host)
			if err == nil || !strings.Contains(err.Error(), test.text) {
				t.Fatalf("attach fails with %v; want %q", err, test.text)
			}
			if connected, _ := r.kernel.connected(fakeIndex); connected {
				t.Error("the device is configured still")
			}
			if records, err := Records(r.dir); err != nil || len(records) != 0 {
				t.Errorf("records %v, %v", records, err)
			}
			if lives, err := agentLives(r.dir, fakeIndex); err != nil || lives {
				t.Errorf("somebody looks after it: %t, %v", lives, err)
			}
			eventually(t, "the server has no connection", func() bool { return r.server.server.Stats().Connections.Now == 0 })
		})
	}
}

func TestBusyDevice(t *testing.T) {
	r := newRig(t)
	r.kill(r.attach())
	// Somebody else's device: there is no record of it.
	if err := os.Remove(recordPath(r.dir, fakeIndex)); err != nil {
		t.Fatal(err)
	}
	if _, err := attach(t.Context(), r.options(), r.kernel, r.host); err == nil || !strings.Contains(err.Error(), "/dev/nbd3 is in use already") {
		t.Errorf("attach fails with %v", err)
	}
	if got := r.kernel.alive(); got != 2 {
		t.Errorf("%d of the other's connections work", got)
	}
}

func TestAttachOverTCP(t *testing.T) {
	r := newRig(t)
	address := r.server.serveTCP()
	o := r.options()
	o.Address = address
	a, err := attach(t.Context(), o, r.kernel, r.host)
	if err != nil {
		t.Fatal(err)
	}
	r.run(a)
	if got := r.kernel.alive(); got != 2 {
		t.Errorf("%d connections work", got)
	}
}

func TestDetachIsGivenUp(t *testing.T) {
	r := newRig(t)
	open := r.host.closeGate()
	r.kill(r.attach())
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(detachEvery/2, cancel)
	if err := detach(ctx, DetachOptions{Device: "nbd3", RunDir: r.dir}, r.kernel, r.host); err == nil || !strings.Contains(err.Error(), "stopped waiting") {
		t.Errorf("detach returns %v", err)
	}
	open()
	eventually(t, "swapoff has ended", func() bool { return !r.host.swapping() })
}
