package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Service is what the API is about. Its methods are called from many
// goroutines. Errors that are an [Error] reach the client as they are, others
// with status 500.
type Service interface {
	ClientService

	Status() Status
	Exports() []Export
	Backends() []Backend

	// Reload reads certificates and lists of donors anew, and says what they are now.
	Reload() (Reloaded, error)

	// Donors lists who lends memory to backends of this daemon. AddDonor and RemoveDonor
	// change that, and return the donor as it is then.
	Donors() []Donor
	AddDonor(DonorRequest) (Donor, error)
	RemoveDonor(DonorRemoval) (Donor, error)

	// Lent is the memory that is lent; SetLent changes it.
	Lent() (Lent, error)
	SetLent(LentSettings) (Lent, error)

	// Journal is what is kept of the log.
	Journal() Journal

	DiskService

	// SetExport changes an export and returns it.
	SetExport(name string, settings ExportSettings) (Export, error)

	// CreateExport makes an export and returns it.
	CreateExport(CreateRequest) (Export, error)

	// ResizeExport gives an export another size and returns it.
	ResizeExport(name string, to ResizeRequest) (Export, error)

	// DeleteExport deletes an export that no client uses, with its pages.
	DeleteExport(name string, removeStorage bool) error

	// SaveExport writes an export to the file that a client keeps. RestoreExport makes an
	// export of one, or fills an empty one, and returns it: whole, or not at all.
	SaveExport(ctx context.Context, name string, to io.Writer) error
	RestoreExport(ctx context.Context, into CreateRequest, from io.Reader) (Export, error)

	// MoveExport moves an export to another daemon while it is used, and tells how far it
	// is. The end of ctx ends it, and the export is as it was.
	MoveExport(ctx context.Context, name string, r MoveExportRequest, report func(ExportMove)) (ExportMove, error)

	// Load loads a backend and returns it.
	Load(LoadRequest) (Backend, error)

	// SetBackend changes settings of a backend, all or none, and returns it.
	SetBackend(name string, settings []Setting) (Backend, error)

	// Upgrade replaces the program of the process. It returns, with an error, if that
	// was not possible.
	Upgrade() error

	// Faults lists what can be made to fail. SetFaults replaces the rules of one.
	Faults() ([]Fault, error)
	SetFaults(target string, rules []string) (Fault, error)

	// Freeze, Thaw and Cancel change a backend's state and return it.
	Freeze(name, reason string) (Backend, error)
	Thaw(name string) (Backend, error)
	Cancel(name string) (Backend, error)

	// Order changes the order of backends and returns them in it.
	Order(names []string) ([]Backend, error)

	// These begin to move pages, or join the same move if it is under way.
	Unload(name string) (Move, error)
	Replace(name string, with LoadRequest) (Move, error)
	Shrink(name string, by MoveRequest) (Move, error)
	Migrate(name string, by MoveRequest) (Move, error)
}

// Move is one move of a backend's pages.
type Move interface {
	Operation() string
	Into() string // see MoveEvent
	Progress() Progress
	Done() <-chan struct{} // closed when it ended, well or not
	Err() error            // how it ended; nil before
}

// Limits of the server.
const (
	maxRequest      = 64 << 10 // bytes
	requestTimeout  = 10 * time.Second
	responseTimeout = 10 * time.Second // for each answer, or line of one
	closeTimeout    = 2 * time.Second
	progressEvery   = 200 * time.Millisecond
)

// Server answers the API's requests.
type Server struct {
	service Service
	log     *slog.Logger
	http    *http.Server
	ending  chan struct{} // closed when Close begins: who follows the log is not waited for
}

// NewServer returns a server for the service. Serve runs it.
func NewServer(service Service, log *slog.Logger) *Server {
	s := &Server{service: service, log: log, ending: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, http.StatusOK, service.Status()) })
	mux.HandleFunc("GET /v1/exports", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, http.StatusOK, service.Exports()) })
	s.handleDisks(mux)
	mux.HandleFunc("GET /v1/backends", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, http.StatusOK, service.Backends()) })
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, _ *http.Request) {
		told, err := service.Reload()
		if err != nil {
			s.refuse(w, err)
			return
		}
		s.answer(w, http.StatusOK, told)
	})
	mux.HandleFunc("POST /v1/backends", s.load)
	mux.HandleFunc("POST /v1/upgrade", func(w http.ResponseWriter, _ *http.Request) { s.refuse(w, service.Upgrade()) })
	s.handleLifecycle(mux)
	s.handleMemory(mux)
	s.handleLog(mux)
	s.handleTransfers(mux)
	s.handleClients(mux)
	mux.HandleFunc("POST /v1/exports", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusCreated, s.service.CreateExport)
	})
	mux.HandleFunc("POST /v1/exports/{name}/resize", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, func(to ResizeRequest) (Export, error) { return s.service.ResizeExport(r.PathValue("name"), to) })
	})
	mux.HandleFunc("POST /v1/exports/{name}/delete", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, func(d DeleteRequest) (DeleteRequest, error) {
			return d, s.service.DeleteExport(r.PathValue("name"), d.RemoveStorage)
		})
	})
	mux.HandleFunc("GET /v1/faults", func(w http.ResponseWriter, _ *http.Request) {
		faults, err := service.Faults()
		if err != nil {
			s.refuse(w, err)
			return
		}
		s.answer(w, http.StatusOK, faults)
	})
	mux.HandleFunc("PUT /v1/faults/{target}", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, func(f FaultRequest) (Fault, error) { return s.service.SetFaults(r.PathValue("target"), f.Rules) })
	})
	mux.HandleFunc("PATCH /v1/exports/{name}", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, func(e ExportSettings) (Export, error) { return s.service.SetExport(r.PathValue("name"), e) })
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, &Error{
			Status: http.StatusNotFound, Message: fmt.Sprintf("no such request: %s %s", r.Method, r.URL.Path),
			Hint: "are tmemctl and tmemd of the same version?",
		})
	})
	s.http = &http.Server{
		Handler:           limited(mux),
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxRequest,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	s.http.RegisterOnShutdown(sync.OnceFunc(func() { close(s.ending) }))
	return s
}

// Serve answers requests from l until Close, and returns nil then.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the admin API: %w", err)
	}
	return nil
}

// Close stops the server. Requests under way get a moment to end.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if s.http.Shutdown(ctx) == nil {
		return nil
	}
	return s.http.Close()
}

func (s *Server) load(w http.ResponseWriter, r *http.Request) {
	serve(s, w, r, http.StatusCreated, s.service.Load)
}

// serve decodes a request and answers what do makes of it.
func serve[Request, Answer any](s *Server, w http.ResponseWriter, r *http.Request, status int, do func(Request) (Answer, error)) {
	var request Request
	if err := decode(r, &request); err != nil {
		s.refuse(w, err)
		return
	}
	answer, err := do(request)
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.answer(w, status, answer)
}

func decode(r *http.Request, request any) error {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(request); err != nil {
		return badRequest(err)
	}
	return nil
}

func badRequest(err error) *Error {
	var long *http.MaxBytesError
	if errors.As(err, &long) {
		return &Error{Status: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("the request is longer than %d bytes", long.Limit)}
	}
	return &Error{
		Status: http.StatusBadRequest, Message: "the request is not what it should be: " + err.Error(),
		Hint: "are tmemctl and tmemd of the same version?",
	}
}

// line writes one line of a stream and sees that it goes out.
func (s *Server) line(w http.ResponseWriter, value any) error {
	control := http.NewResponseController(w)
	if err := control.SetWriteDeadline(time.Now().Add(responseTimeout)); err != nil {
		return err
	}
	if err := json.NewEncoder(w).Encode(value); err != nil {
		return err
	}
	return control.Flush()
}

// asError finds what to tell the client.
func asError(err error) *Error {
	var told *Error
	if errors.As(err, &told) {
		return told
	}
	return &Error{Status: http.StatusInternalServerError, Message: err.Error()}
}

func (s *Server) refuse(w http.ResponseWriter, err error) {
	told := asError(err)
	s.answer(w, told.Status, told)
}

func (s *Server) answer(w http.ResponseWriter, status int, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		s.log.Error("cannot encode an answer of the admin API", "error", err)
		status, text = http.StatusInternalServerError, []byte(`{"error":"the answer could not be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	// An error here or in Write is a client that is gone.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(responseTimeout))
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n'))
}
