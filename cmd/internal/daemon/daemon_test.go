package daemon

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/nbdtest"
	"github.com/tmemd/tmemd/tier"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	ram     = 1 << 30
	patient = 20 * time.Second // nothing takes this long; only a failure waits for it
)

// logBuffer is a log that a test can wait on.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// instance is a daemon under test.
type instance struct {
	t       testing.TB
	dir     string
	signals chan os.Signal
	ended   chan error
	log     *logBuffer
	client  *admin.Client
}

// options are those of a daemon in dir with the flags.
func options(t testing.TB, dir string, log *logBuffer, args ...string) Options {
	t.Helper()
	host := config.Host{RAM: ram, Env: os.Getenv, Kinds: Kinds()}
	flags := []string{"--state-dir", dir, "--metrics", "127.0.0.1:0"}
	if len(args) > 0 && args[0] == "donor" {
		flags, args = append([]string{"donor"}, flags...), args[1:]
	}
	args = append(flags, args...)
	c, _, err := config.Parse(args, host)
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Config: c, Version: "v0.1.0", RAM: ram, BootID: "11111111-aaaa",
		Log: slog.New(slog.NewTextHandler(log, nil)),
	}
}

// run runs a daemon of the options until the test stops it.
func run(t testing.TB, o Options, log *logBuffer) *instance {
	t.Helper()
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{
		t: t, dir: o.Config.StateDir, signals: make(chan os.Signal, 4), ended: make(chan error, 1), log: log,
		client: admin.NewClient(filepath.Join(o.Config.StateDir, "admin.sock")),
	}
	t.Cleanup(i.client.Close)
	ready := make(chan struct{})
	go func() { i.ended <- d.Run(i.signals, func() { close(ready) }) }()
	<-ready
	return i
}

func start(t testing.TB, dir string, args ...string) *instance {
	t.Helper()
	log := &logBuffer{}
	return run(t, options(t, dir, log, append([]string{"--size", "4MiB"}, args...)...), log)
}

func (i *instance) signal() { i.signals <- unix.SIGTERM }

// awaitEnd waits for Run to return.
func (i *instance) awaitEnd() error {
	i.t.Helper()
	select {
	case err := <-i.ended:
		return err
	case <-time.After(patient):
		i.t.Fatalf("the daemon did not end:\n%s", i.log)
		return nil
	}
}

func (i *instance) stop() {
	i.t.Helper()
	i.signal()
	if err := i.awaitEnd(); err != nil {
		i.t.Fatal(err)
	}
}

// await waits until the condition holds.
func (i *instance) await(what string, holds func() bool) {
	i.t.Helper()
	for deadline := time.Now().Add(patient); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			i.t.Fatalf("still waiting for: %s\n%s", what, i.log)
		}
	}
}

func (i *instance) awaitLog(text string) {
	i.t.Helper()
	i.await("log line "+text, func() bool { return strings.Contains(i.log.String(), text) })
}

func (i *instance) status() admin.Status {
	i.t.Helper()
	s, err := i.client.Status(context.Background())
	if err != nil {
		i.t.Fatal(err)
	}
	return s
}

func (i *instance) dial() (*nbdtest.Client, error) {
	return nbdtest.Dial("unix", filepath.Join(i.dir, "nbd.sock"), "swap")
}

func (i *instance) attach() *nbdtest.Client {
	i.t.Helper()
	return i.attachTo("swap")
}

func (i *instance) attachTo(export string) *nbdtest.Client {
	i.t.Helper()
	c, err := nbdtest.Dial("unix", filepath.Join(i.dir, "nbd.sock"), export)
	if err != nil {
		i.t.Fatal(err)
	}
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRestart: what was written through a backend is there after a stop, from
// storage, and a hole is a hole.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	i := start(t, dir)
	c := i.attach()
	must(t, c.WritePages(1, 0, 300))
	must(t, c.Trim(100*nbdtest.PageSize, 10*nbdtest.PageSize))
	must(t, c.CheckPages(1, 0, 100))
	if s := i.status(); s.Phase != admin.PhaseServing || s.Backends[0].Pages == 0 || s.Exports[0].SuccStores == 0 || len(s.Clients) != 1 {
		t.Errorf("status %+v", s)
	}
	must(t, c.Close())
	i.stop()

	i = start(t, dir, "--backend", "none")
	c = i.attach()
	must(t, c.CheckPages(1, 0, 100))
	must(t, c.CheckZeroes(100, 10))
	must(t, c.CheckPages(1, 110, 190))
	must(t, c.CheckZeroes(300, 50))
	if s := i.status(); len(s.Backends) != 0 || s.Exports[0].SizeBytes != 4<<20 {
		t.Errorf("status %+v", s)
	}
	must(t, c.Close())
	i.stop()
}

// TestStopServesAttachedClients: with a client attached the first signal drains
// and then waits for it.
func TestStopServesAttachedClients(t *testing.T) {
	dir := t.TempDir()
	i := start(t, dir)
	c := i.attach()
	must(t, c.WritePages(2, 0, 200))
	i.signal()
	i.await("the waiting phase", func() bool { return i.status().Phase == admin.PhaseWaiting })
	if s := i.status(); len(s.Backends) != 0 || s.Exports[0].Pages.Storage == 0 || s.Exports[0].Pages.Backends["zcache"] != 0 {
		t.Errorf("while waiting: %+v", s)
	}
	i.awaitLog("waiting for clients to leave")
	must(t, c.CheckPages(2, 0, 200))
	must(t, c.WritePages(3, 50, 50))
	if _, err := i.dial(); err == nil {
		t.Error("a new client was accepted")
	}
	if _, err := i.client.Load(context.Background(), admin.LoadRequest{Kind: "zcache"}); err == nil ||
		err.Error() != "tmemd is being stopped, and loads no backend any more" {
		t.Errorf("Load during a stop: %v", err)
	}
	must(t, c.CheckPages(3, 50, 50))
	must(t, c.Close())
	must(t, i.awaitEnd())

	i = start(t, dir)
	c = i.attach()
	must(t, c.CheckPages(2, 0, 50))
	must(t, c.CheckPages(3, 50, 50))
	must(t, c.CheckPages(2, 100, 100))
	must(t, c.Close())
	i.stop()
}

// TestSecondSignal: it ends the wait for clients, not the drain.
func TestSecondSignal(t *testing.T) {
	dir := t.TempDir()
	storage, log := &faultyStorage{}, &logBuffer{}
	o := options(t, dir, log, "--size", "4MiB")
	o.OpenStorage = storage.open
	i := run(t, o, log)
	c := i.attach()
	must(t, c.WritePages(4, 0, 200))
	gate := make(chan struct{})
	storage.gate.Store(&gate)
	i.signal()
	i.awaitLog("backend draining")
	if _, err := i.dial(); err == nil {
		t.Error("a new client was accepted during the drain")
	}
	i.signal()
	i.awaitLog("will not wait for clients, but for pages")
	if s := i.status(); s.Phase != admin.PhaseDraining || s.Backends[0].Pages == 0 {
		t.Errorf("after the second signal: %+v", s)
	}
	storage.gate.Store(nil)
	close(gate)
	must(t, i.awaitEnd())
	if err := c.CheckPages(4, 0, 1); err == nil {
		t.Error("the client was served after the end")
	}
	c.Close()

	i = start(t, dir)
	c = i.attach()
	must(t, c.CheckPages(4, 0, 200))
	must(t, c.Close())
	i.stop()
}

// TestStopWithFullStorage: the drain fails, nothing is lost, everything is
// served, and a later signal succeeds.
func TestStopWithFullStorage(t *testing.T) {
	dir := t.TempDir()
	storage, log := &faultyStorage{}, &logBuffer{}
	o := options(t, dir, log, "--size", "4MiB")
	o.OpenStorage = storage.open
	i := run(t, o, log)
	c := i.attach()
	must(t, c.WritePages(5, 0, 200))
	storage.full.Store(true)
	i.signal()
	i.awaitLog("the stop failed; nothing is lost")
	i.await("serving again", func() bool { return i.status().Phase == admin.PhaseServing })
	s := i.status()
	if b := s.Backends[0]; b.State != "frozen" || !strings.Contains(b.Reason, "no space left") || b.Pages == 0 {
		t.Errorf("the backend after the failed drain: %+v", b)
	}
	must(t, c.CheckPages(5, 0, 200))
	second := i.attach()
	must(t, second.CheckPages(5, 0, 10))
	must(t, second.Close())

	// An operator gets the same answer, with the cure.
	var out strings.Builder
	cli.Report(&out, i.client.Unload(context.Background(), "zcache", func(admin.MoveEvent) {}))
	if !strings.Contains(out.String(), "no space left on device") ||
		!strings.HasSuffix(out.String(), "hint: nothing is lost: make room where the storage is, then unload again\n") {
		t.Errorf("Unload said %q", out.String())
	}

	storage.full.Store(false)
	must(t, c.Close())
	i.stop()
	i = start(t, dir)
	c = i.attach()
	must(t, c.CheckPages(5, 0, 200))
	must(t, c.Close())
	i.stop()
}

// TestSettleFails: the daemon serves again, and is not clean.
func TestSettleFails(t *testing.T) {
	dir := t.TempDir()
	storage, log := &faultyStorage{}, &logBuffer{}
	o := options(t, dir, log, "--size", "4MiB")
	o.OpenStorage = storage.open
	i := run(t, o, log)
	c := i.attach()
	must(t, c.WritePages(6, 0, 100))
	must(t, c.Trim(0, 10*nbdtest.PageSize))
	must(t, c.Close())
	storage.noSync.Store(true)
	i.signal()
	i.awaitLog("the stop failed; nothing is lost")
	i.await("serving again", func() bool { return i.status().Phase == admin.PhaseServing })
	c = i.attach()
	must(t, c.CheckZeroes(0, 10))
	must(t, c.CheckPages(6, 10, 90))
	must(t, c.Close())
	if text, err := os.ReadFile(filepath.Join(dir, "state.json")); err != nil || !bytes.Contains(text, []byte(`"clean": false`)) {
		t.Errorf("state.json: %s, %v", text, err)
	}
	storage.noSync.Store(false)
	storage.noPunch.Store(true) // zeroes have to be written instead
	i.stop()
	i = start(t, dir)
	c = i.attach()
	must(t, c.CheckZeroes(0, 10))
	must(t, c.CheckPages(6, 10, 90))
	must(t, c.Close())
	i.stop()
}

// TestStateCannotBeSaved: a daemon that cannot note that it is clean is not, and
// one that cannot note that it is not clean serves nobody.
func TestStateCannotBeSaved(t *testing.T) {
	dir := t.TempDir()
	i := start(t, dir)
	c := i.attach()
	must(t, c.WritePages(15, 0, 50))
	must(t, c.Close())
	obstacle := filepath.Join(dir, "state.json.new")
	must(t, os.Mkdir(obstacle, 0o700))
	i.signal()
	i.awaitLog("cannot serve again")
	if s := i.status(); s.Phase != admin.PhaseSettling || s.Exports[0].Pages.Storage != 50 {
		t.Errorf("status %+v", s)
	}
	if _, err := i.dial(); err == nil {
		t.Error("a client was accepted")
	}
	must(t, os.Remove(obstacle))
	i.stop()
	i = start(t, dir)
	c = i.attach()
	must(t, c.CheckPages(15, 0, 50))
	must(t, c.Close())
	i.stop()
}

// TestStopJoinsUnload: an unload that an operator began is waited for, and the
// operator sees its end.
func TestStopJoinsUnload(t *testing.T) {
	storage, log := &faultyStorage{}, &logBuffer{}
	o := options(t, t.TempDir(), log, "--size", "4MiB")
	o.OpenStorage = storage.open
	i := run(t, o, log)
	c := i.attach()
	must(t, c.WritePages(7, 0, 200))
	must(t, c.Close())
	gate := make(chan struct{})
	storage.gate.Store(&gate)
	unloaded := make(chan error, 2)
	var last admin.MoveEvent
	go func() {
		unloaded <- i.client.Unload(context.Background(), "zcache", func(e admin.MoveEvent) { last = e })
	}()
	i.awaitLog("backend draining")
	if _, err := i.client.Load(context.Background(), admin.LoadRequest{Kind: "zcache"}); err == nil || err.Error() != "backend zcache is being unloaded" {
		t.Errorf("Load of what is being unloaded: %v", err)
	}
	i.signal()
	i.await("the draining phase", func() bool { return i.status().Phase == admin.PhaseDraining })
	storage.gate.Store(nil)
	close(gate)
	must(t, <-unloaded)
	if !last.Done || last.Total == 0 || last.Left != 0 || last.Running {
		t.Errorf("the last event was %+v", last)
	}
	must(t, i.awaitEnd())
	if n := strings.Count(i.log.String(), "backend draining"); n != 1 {
		t.Errorf("%d drains", n)
	}
}

func TestLoadAndUnload(t *testing.T) {
	i := start(t, t.TempDir(), "--backend", "none")
	c := i.attach()
	must(t, c.WritePages(8, 0, 30))
	if e := i.status().Exports[0]; e.Pages.Storage != 30 || e.FailedStores != 0 || e.SuccStores != 0 {
		t.Errorf("without a backend: %+v", e)
	}
	ctx := context.Background()
	b, err := i.client.Load(ctx, admin.LoadRequest{Kind: "zcache", Name: "second", Size: "32MiB"})
	if err != nil || b.Name != "second" || b.State != "active" || b.LimitBytes != 32<<20 {
		t.Fatalf("Load = %+v, %v", b, err)
	}
	must(t, c.WritePages(9, 0, 30))
	if e := i.status().Exports[0]; e.Pages.Backends["second"] != 20 || e.Pages.Storage != 10 || e.SuccStores != 20 || e.FailedStores != 10 {
		t.Errorf("with a backend: %+v", e)
	}
	must(t, i.client.Unload(ctx, "second", func(admin.MoveEvent) {}))
	must(t, c.CheckPages(9, 0, 30))
	if s := i.status(); s.Exports[0].Pages.Storage != 30 || len(s.Backends) != 0 {
		t.Errorf("after the unload: %+v", s)
	}
	for _, m := range i.status().Memory {
		if m.Purpose == "zcache arena" {
			t.Errorf("memory is left: %+v", m)
		}
	}
	must(t, c.Close())

	tests := []struct {
		request admin.LoadRequest
		text    string
	}{
		{admin.LoadRequest{Kind: "tape"}, `there is no backend of the kind "tape"`},
		{admin.LoadRequest{Kind: "zcache", Name: "a b"}, `"a b" is not a name`},
		{admin.LoadRequest{Kind: "zcache", Name: "storage"}, "the name storage is taken: it means something else beside backends"},
		{admin.LoadRequest{Kind: "zcache", Size: "2GiB"}, `size: "2GiB" is more than the RAM of this machine, 1 GiB`},
	}
	for _, test := range tests {
		if _, err := i.client.Load(ctx, test.request); err == nil || err.Error() != test.text {
			t.Errorf("Load(%+v) = %v, want %s", test.request, err, test.text)
		}
	}
	if err := i.client.Unload(ctx, "second", func(admin.MoveEvent) {}); err == nil || err.Error() != "no backend second is loaded" {
		t.Errorf("Unload of what is gone: %v", err)
	}
	i.stop()
}

// TestMetrics: a scrape of the whole shows what clients did.
func TestMetrics(t *testing.T) {
	i := start(t, t.TempDir())
	c := i.attach()
	must(t, c.WritePages(10, 0, 30))
	must(t, c.CheckPages(10, 0, 30))
	must(t, c.Close())
	// Requests are counted after their replies: wait for the last one.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	scrape := func() string {
		response, err := client.Get(i.status().Metrics)
		must(t, err)
		defer response.Body.Close()
		var b bytes.Buffer
		_, err = b.ReadFrom(response.Body)
		must(t, err)
		return b.String()
	}
	for _, line := range []string{
		`tmemd_frontswap_succ_stores_total{export="swap"} 20`, `tmemd_frontswap_failed_stores_total{export="swap"} 10`,
		`tmemd_frontswap_loads_total{export="swap"} 20`, `tmemd_pages{export="swap",owner="zcache"} 20`,
		`tmemd_pages{export="swap",owner="storage"} 10`, `tmemd_backend_refused_total{backend="zcache",reason="full"} 0`,
		`tmemd_nbd_requests_total{command="write",export="swap"} 30`, `tmemd_nbd_bytes_total{command="read",export="swap"} 122880`,
		`tmemd_memory_mapped_bytes{purpose="page map"} 8192`, `tmemd_build_info{`,
	} {
		i.await(line, func() bool { return strings.Contains(scrape(), "\n"+line) })
	}
	i.stop()
}

// TestStateDecidesTheStart goes the ways of plan.go with real storage.
func TestStateDecidesTheStart(t *testing.T) {
	dir := t.TempDir()
	i := start(t, dir)
	c := i.attach()
	must(t, c.WritePages(11, 0, 10))
	must(t, c.Close())
	i.stop()
	// As if it had died: the state file of a run.
	crash := func() {
		path := filepath.Join(dir, "state.json")
		text, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, bytes.Replace(text, []byte(`"clean": true`), []byte(`"clean": false`), 1), 0o600))
	}
	crash()
	log := &logBuffer{}
	_, err := Open(options(t, dir, log))
	if err == nil || !strings.Contains(err.Error(), "did not end properly") {
		t.Fatalf("Open after a crash: %v", err)
	}

	o := options(t, dir, log)
	o.BootID = "22222222-bbbb"
	i = run(t, o, log)
	i.awaitLog("swap does not outlive a boot")
	c = i.attach()
	if c.Size() != 4<<20 {
		t.Errorf("the export has %d bytes", c.Size())
	}
	must(t, c.CheckZeroes(0, 10))
	must(t, c.WritePages(12, 0, 10))
	must(t, c.Close())
	i.stop()

	crash()
	i = start(t, dir, "--fresh", "--size", "2MiB")
	c = i.attach()
	if c.Size() != 2<<20 {
		t.Errorf("the export has %d bytes", c.Size())
	}
	must(t, c.CheckZeroes(0, 10))
	must(t, c.Close())
	i.stop()

	must(t, os.WriteFile(filepath.Join(dir, "state.json"), []byte("{}"), 0o600))
	if _, err = Open(options(t, dir, log)); err == nil || !strings.Contains(err.Error(), "it cannot be used") {
		t.Errorf("Open with a damaged state: %v", err)
	}
	start(t, dir, "--fresh").stop()
}

// TestOpenFails: the error names the setting, and nothing is left open or changed.
func TestOpenFails(t *testing.T) {
	dir := t.TempDir()
	taken, err := net.Listen("unix", filepath.Join(dir, "taken.sock"))
	must(t, err)
	defer taken.Close()
	port, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer port.Close()
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("precious"), 0o600))
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"taken socket", []string{"--listen", "unix://" + dir + "/taken.sock"},
			"error: --listen: listen on unix://DIR/taken.sock: somebody else serves on it\nhint: stop the other program, or choose another path\n"},
		{"not a socket", []string{"--listen", "unix://" + dir + "/file"},
			"error: --listen: listen on unix://DIR/file: there is a file of that name that is not a socket\nhint: choose another address\n"},
		{"taken port", []string{"--listen", "tcp://" + port.Addr().String()},
			"error: --listen: listen on tcp://" + port.Addr().String() + ": somebody else serves on it\n" +
				"hint: stop the other program (ss -ltnp names it), or choose another port; port 0 picks a free one\n"},
		{"taken metrics", []string{"--metrics", port.Addr().String()},
			"error: --metrics: listen on tcp://" + port.Addr().String() + ": somebody else serves on it\n" +
				"hint: stop the other program (ss -ltnp names it), or choose another port; port 0 picks a free one\n"},
		{"not our address", []string{"--listen", "tcp://192.0.2.1:10809"},
			"error: --listen: listen tcp 192.0.2.1:10809: bind: cannot assign requested address\nhint: use an address of this machine, such as 127.0.0.1\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Open(options(t, filepath.Join(dir, "state"), &logBuffer{}, append([]string{"--size", "4MiB"}, test.args...)...))
			var out strings.Builder
			code := cli.Report(&out, err)
			if got := strings.ReplaceAll(out.String(), dir, "DIR"); got != test.want || code != cli.ExitFailed {
				t.Errorf("code %d and\n%swant\n%s", code, got, test.want)
			}
		})
	}
	left, err := filepath.Glob(filepath.Join(dir, "state", "*"))
	if err != nil || len(left) != 1 { // the lock file stays
		t.Errorf("left behind: %v, %v", left, err)
	}
	start(t, filepath.Join(dir, "state")).stop()
}

// TestLateFailureLeavesCleanState: a start that fails after it opened storage
// has not spoiled it.
func TestLateFailureLeavesCleanState(t *testing.T) {
	dir := t.TempDir()
	i := start(t, dir)
	c := i.attach()
	must(t, c.WritePages(13, 0, 10))
	must(t, c.Close())
	i.stop()
	o := options(t, dir, &logBuffer{})
	broken := errors.New("the controller fell out")
	o.OpenStorage = func(config.Export) (tier.Storage, error) { return nil, broken }
	if _, err := Open(o); !strings.Contains(err.Error(), broken.Error()) {
		t.Fatalf("Open: %v", err)
	}
	i = start(t, dir)
	c = i.attach()
	must(t, c.CheckPages(13, 0, 10))
	must(t, c.Close())
	i.stop()
}

// TestStaleSocket: a socket file that nobody answers on is no obstacle, and the
// new one is for this user only.
func TestStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nbd.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	dead.SetUnlinkOnClose(false)
	must(t, dead.Close())
	l, err := listen(config.Address{Network: "unix", Address: path}, config.Socket{Mode: 0o600, Owner: -1, Group: -1})
	must(t, err)
	defer l.Close()
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

// TestZeroStorage: a device that cannot punch is written.
func TestZeroStorage(t *testing.T) {
	for _, noPunch := range []bool{false, true} {
		e := config.Export{Name: "swap", Size: 600 * pageSize, Storage: filepath.Join(t.TempDir(), "disk")}
		s := &faultyStorage{}
		s.noPunch.Store(noPunch)
		_, err := s.open(e)
		must(t, err)
		for page := range uint64(600) {
			must(t, s.WritePages(page, nbdtest.Page(14, page)))
		}
		must(t, zeroStorage(s))
		text, err := os.ReadFile(e.Storage)
		if err != nil || len(text) != 600*pageSize || len(bytes.Trim(text, "\x00")) > 0 {
			t.Errorf("no punch %v: %d bytes are left of %d, %v", noPunch, len(bytes.Trim(text, "\x00")), len(text), err)
		}
		must(t, s.Close())
	}
}

func TestAnnouncement(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "my state")
	log := &logBuffer{}
	d, err := Open(options(t, dir, log, "--size", "4MiB", "--listen", "unix://"+dir+"/nbd.sock", "--listen", "tcp://127.0.0.1:0"))
	must(t, err)
	got := d.Announcement()
	_, port, err := net.SplitHostPort(d.bound[1].Address.Address)
	must(t, err)
	must(t, d.close())
	for _, line := range []string{
		"  export   swap, 4 MiB, storage " + dir + "/swap.img\n",
		"  backend  zcache, up to 204 MiB\n",
		"  nbd      unix://" + dir + "/nbd.sock\n",
		"  nbd      tcp://127.0.0.1:" + port + "\n",
		"  admin    unix://" + dir + "/admin.sock\n",
		"  metrics  http://" + d.metricsAddr + "/metrics\n",
		"  status   http://" + d.metricsAddr + "/\n",
		"  modprobe nbd\n  tmemctl attach /dev/nbd0 --server 'unix://" + dir + "/nbd.sock' --export swap --detach\n",
		"  modprobe nbd\n  tmemctl attach /dev/nbd0 --server tcp://127.0.0.1:" + port + " --export swap --detach\n",
	} {
		if !strings.Contains(got, line) {
			t.Errorf("no %q in\n%s", line, got)
		}
	}
}
