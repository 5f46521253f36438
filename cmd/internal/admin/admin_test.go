package admin

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeService has one backend, zcache, whose unload the test drives.
type fakeService struct {
	ClientService
	mu      sync.Mutex
	loaded  []LoadRequest
	unload  *fakeUnload
	journal *fakeJournal
}

type fakeUnload struct {
	done  chan struct{}
	err   error
	moved func() uint64
}

func (u *fakeUnload) Progress() Progress {
	return Progress{Running: true, Total: 1000, Moved: u.moved(), Left: 1000 - u.moved()}
}
func (u *fakeUnload) Done() <-chan struct{} { return u.done }
func (u *fakeUnload) Err() error            { return u.err }

func newFakeUnload(err error) *fakeUnload {
	return &fakeUnload{done: make(chan struct{}), err: err, moved: func() uint64 { return 250 }}
}

func (s *fakeService) Status() Status {
	return Status{Version: "v0.1.0", PID: 4711, Phase: PhaseServing, Listen: []string{"unix:///run/nbd.sock"}, Exports: s.Exports()}
}

func (s *fakeService) Reload() (Reloaded, error) {
	return Reloaded{TLS: &TLS{Required: true, Certificate: "server", Expires: time.Unix(1800000000, 0).UTC()}}, nil
}

func (s *fakeService) Donors() []Donor {
	return []Donor{{Backend: "ramster", Name: "east", Address: "tcp://10.0.0.2:10810", State: "up", Pages: 12}}
}

func (s *fakeService) AddDonor(r DonorRequest) (Donor, error) {
	if r.Name == "east" {
		return Donor{}, &Error{Status: http.StatusConflict, Message: "there is such a donor", Hint: "choose another name"}
	}
	return Donor{Backend: r.Backend, Name: r.Name, Address: r.Address}, nil
}

func (s *fakeService) RemoveDonor(r DonorRemoval) (Donor, error) {
	return Donor{Backend: r.Backend, Name: r.Name, Leaving: !r.Now}, nil
}

func (s *fakeService) Lent() (Lent, error) {
	return Lent{}, &Error{Status: http.StatusConflict, Message: "this tmemd lends no memory", Hint: "write [donor]"}
}

func (s *fakeService) SetLent(settings LentSettings) (Lent, error) {
	return Lent{Frozen: *settings.Frozen, Clients: []LentClient{{Name: "cert:a", QuotaBytes: 5}}}, nil
}

func (s *fakeService) Exports() []Export {
	return []Export{{Name: "swap", SizeBytes: 8 << 30, Pages: PagesByOwner{Storage: 12, Backends: map[string]int64{"zcache": 30}}}}
}

func (s *fakeService) Backends() []Backend {
	return []Backend{{Name: "zcache", Kind: "zcache", State: "active", Pages: 30, Refused: map[string]uint64{"full": 2}}}
}

func (s *fakeService) Load(r LoadRequest) (Backend, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.Kind {
	case "tape":
		return Backend{}, &Error{Status: http.StatusBadRequest, Message: "there is no tape", Hint: "use zcache"}
	case "broken":
		return Backend{}, errors.New("it fell over")
	}
	s.loaded = append(s.loaded, r)
	return Backend{Name: r.Name, Kind: r.Kind, State: "active"}, nil
}

func (s *fakeService) Upgrade() error {
	return &Error{Status: http.StatusConflict, Message: "no new program", Hint: "install one"}
}

func (s *fakeService) Unload(name string) (Move, error) {
	if name != "zcache" && name != "a/b c" {
		return nil, &Error{Status: http.StatusNotFound, Message: "no backend " + name, Hint: "see tmemctl backend list"}
	}
	return s.unload, nil
}

// start runs a server of the service and returns its socket.
func start(t *testing.T, service *fakeService, change func(*Server)) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(service, slog.New(slog.DiscardHandler))
	if change != nil {
		change(s)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return socket
}

func startClient(t *testing.T, service *fakeService) *Client {
	t.Helper()
	c := NewClient(start(t, service, nil))
	t.Cleanup(c.Close)
	return c
}

func TestSnapshots(t *testing.T) {
	service := &fakeService{}
	c := startClient(t, service)
	ctx := context.Background()
	if got, err := c.Status(ctx); err != nil || !reflect.DeepEqual(got, service.Status()) {
		t.Errorf("Status = %+v, %v", got, err)
	}
	if got, err := c.Exports(ctx); err != nil || !reflect.DeepEqual(got, service.Exports()) {
		t.Errorf("Exports = %+v, %v", got, err)
	}
	if got, err := c.Backends(ctx); err != nil || !reflect.DeepEqual(got, service.Backends()) {
		t.Errorf("Backends = %+v, %v", got, err)
	}
}

func TestLoad(t *testing.T) {
	service := &fakeService{}
	c := startClient(t, service)
	request := LoadRequest{Kind: "zcache", Name: "second", Size: "1GiB"}
	got, err := c.Load(context.Background(), request)
	if err != nil || got.Name != "second" || got.State != "active" {
		t.Errorf("Load = %+v, %v", got, err)
	}
	if len(service.loaded) != 1 || !reflect.DeepEqual(service.loaded[0], request) {
		t.Errorf("the service was asked for %+v", service.loaded)
	}

	tests := []struct {
		kind string
		text string
		code int
	}{
		{"tape", "error: there is no tape\nhint: use zcache\n", cli.ExitUsage},
		{"broken", "error: it fell over\n", cli.ExitFailed},
		{strings.Repeat("x", maxRequest), "error: the request is longer than 65536 bytes\n", cli.ExitFailed},
	}
	for _, test := range tests {
		_, err := c.Load(context.Background(), LoadRequest{Kind: test.kind})
		var out strings.Builder
		if code := cli.Report(&out, err); out.String() != test.text || code != test.code {
			t.Errorf("Load(%.10s): code %d, %q, want %d, %q", test.kind, code, out.String(), test.code, test.text)
		}
	}
}

// TestRequests speaks HTTP itself, as curl would.
func TestRequests(t *testing.T) {
	socket := start(t, &fakeService{}, nil)
	tests := []struct {
		method, path, body string
		status             int
		answer             string
	}{
		{"GET", "/", "", 404, `{"error":"no such request: GET /","hint":"are tmemctl and tmemd of the same version?"}`},
		{"DELETE", "/v1/status", "", 404, `{"error":"no such request: DELETE /v1/status","hint":"are tmemctl and tmemd of the same version?"}`},
		{"POST", "/v1/backends", `{"kind":"zcache","colour":"red"}`, 400,
			`{"error":"the request is not what it should be: json: unknown field \"colour\"","hint":"are tmemctl and tmemd of the same version?"}`},
		{"POST", "/v1/backends", ``, 400,
			`{"error":"the request is not what it should be: EOF","hint":"are tmemctl and tmemd of the same version?"}`},
		{"POST", "/v1/backends/tape/unload", ``, 404, `{"error":"no backend tape","hint":"see tmemctl backend list"}`},
	}
	c := NewClient(socket)
	defer c.Close()
	for _, test := range tests {
		r, err := http.NewRequest(test.method, "http://tmemd"+test.path, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := c.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != test.status || strings.TrimSpace(string(answer)) != test.answer {
			t.Errorf("%s %s: %d %s (%v), want %d %s", test.method, test.path, response.StatusCode, answer, err, test.status, test.answer)
		}
		if got := response.Header.Get("Content-Type"); got != "application/json" {
			t.Errorf("%s %s: type %q", test.method, test.path, got)
		}
	}
}

func TestUnload(t *testing.T) {
	service := &fakeService{unload: newFakeUnload(nil)}
	c := startClient(t, service)
	var events []MoveEvent
	err := c.Unload(context.Background(), "a/b c", func(e MoveEvent) {
		if events = append(events, e); len(events) == 2 {
			close(service.unload.done)
		}
	})
	if err != nil || len(events) != 3 {
		t.Fatalf("Unload = %v after %d events", err, len(events))
	}
	for i, e := range events {
		want := MoveEvent{Backend: "a/b c", Operation: OperationUnload, Progress: service.unload.Progress(), Done: i == 2}
		if !reflect.DeepEqual(e, want) {
			t.Errorf("event %d is %+v, want %+v", i, e, want)
		}
	}
}

func TestUnloadFails(t *testing.T) {
	service := &fakeService{unload: newFakeUnload(&Error{Message: "storage is full", Hint: "make room and unload again"})}
	close(service.unload.done)
	c := startClient(t, service)
	var out strings.Builder
	code := cli.Report(&out, c.Unload(context.Background(), "zcache", func(MoveEvent) {}))
	if want := "error: storage is full\nhint: make room and unload again\n"; out.String() != want || code != cli.ExitFailed {
		t.Errorf("code %d and %q, want %q", code, out.String(), want)
	}
	err := c.Unload(context.Background(), "tape", func(e MoveEvent) { t.Errorf("event %+v", e) })
	if err == nil || err.Error() != "no backend tape" {
		t.Errorf("Unload of what is not there: %v", err)
	}
}

// TestUnloadOutlivesDeadline: the deadline for a request does not end the
// stream of its answer.
func TestUnloadOutlivesDeadline(t *testing.T) {
	const timeout = 50 * time.Millisecond
	service := &fakeService{unload: newFakeUnload(nil)}
	c := NewClient(start(t, service, func(s *Server) { s.http.ReadTimeout, s.http.ReadHeaderTimeout = timeout, timeout }))
	defer c.Close()
	events := 0
	err := c.Unload(context.Background(), "zcache", func(MoveEvent) {
		if events++; events == 2 { // sent after the deadline
			close(service.unload.done)
		}
	})
	if err != nil {
		t.Errorf("Unload: %v", err)
	}
}

// TestUnloadClientLeaves: the drain is not the request's (A2).
func TestUnloadClientLeaves(t *testing.T) {
	service := &fakeService{unload: newFakeUnload(nil)}
	c := startClient(t, service)
	ctx, cancel := context.WithCancel(context.Background())
	err := c.Unload(ctx, "zcache", func(MoveEvent) { cancel() })
	if err == nil {
		t.Fatal("a cancelled Unload reported success")
	}
	select {
	case <-service.unload.done:
		t.Error("the drain ended with its client")
	default:
	}
	close(service.unload.done)
	if err := c.Unload(context.Background(), "zcache", func(MoveEvent) {}); err != nil {
		t.Errorf("joining it afterwards: %v", err)
	}
}

func TestDaemonVanishes(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "admin.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n{\"backend\":\"zcache\",\"moved\":5}\n")
	}()
	c := NewClient(socket)
	defer c.Close()
	moved := uint64(0)
	err = c.Unload(context.Background(), "zcache", func(e MoveEvent) { moved = e.Moved })
	if err == nil || err.Error() != "lost the daemon during the unload of zcache: it closed the connection" || moved != 5 {
		t.Errorf("Unload = %v, moved %d", err, moved)
	}
	l.Close()
	<-done

	var out strings.Builder
	_, err = c.Status(context.Background())
	cli.Report(&out, err)
	want := "error: tmemd is not running: nobody answers on " + socket +
		"\nhint: start tmemd, or say where it runs with --state-dir DIR or --socket PATH\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}
