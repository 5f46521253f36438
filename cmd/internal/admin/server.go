package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Service is what the API is about. Its methods are called from many
// goroutines. Errors that are an [Error] reach the client as they are, others
// with status 500.
type Service interface {
	Status() Status
	Exports() []Export
	Backends() []Backend

	// Load loads a backend and returns it.
	Load(LoadRequest) (Backend, error)

	// Unload begins to unload a backend, or joins the unload that is under way.
	Unload(name string) (Unload, error)
}

// Unload is one unload of a backend.
type Unload interface {
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
}

// NewServer returns a server for the service. Serve runs it.
func NewServer(service Service, log *slog.Logger) *Server {
	s := &Server{service: service, log: log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, http.StatusOK, service.Status()) })
	mux.HandleFunc("GET /v1/exports", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, http.StatusOK, service.Exports()) })
	mux.HandleFunc("GET /v1/backends", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, http.StatusOK, service.Backends()) })
	mux.HandleFunc("POST /v1/backends", s.load)
	mux.HandleFunc("POST /v1/backends/{name}/unload", s.unload)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, &Error{
			Status: http.StatusNotFound, Message: fmt.Sprintf("no such request: %s %s", r.Method, r.URL.Path),
			Hint: "are tmemctl and tmemd of the same version?",
		})
	})
	s.http = &http.Server{
		Handler:           http.MaxBytesHandler(mux, maxRequest),
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxRequest,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
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
	var request LoadRequest
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		s.refuse(w, badRequest(err))
		return
	}
	backend, err := s.service.Load(request)
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.answer(w, http.StatusCreated, backend)
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

// unload streams progress until the drain has ended or the client is gone.
func (s *Server) unload(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	unload, err := s.service.Unload(name)
	if err != nil {
		s.refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		event := UnloadEvent{Backend: name, Progress: unload.Progress()}
		if s.line(w, event) != nil {
			return // the drain goes on (A2)
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		case <-unload.Done():
			event := UnloadEvent{Backend: name, Progress: unload.Progress(), Done: true}
			if err := unload.Err(); err != nil {
				told := asError(err)
				event.Done, event.Error, event.Hint = false, told.Message, told.Hint
			}
			_ = s.line(w, event) // nobody left to tell if it fails
			return
		}
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
