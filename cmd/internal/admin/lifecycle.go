package admin

import (
	"net/http"
	"time"
)

// handleLifecycle adds what can be done to a backend that is loaded.
func (s *Server) handleLifecycle(mux *http.ServeMux) {
	mux.HandleFunc("PUT /v1/backends/order", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, func(o OrderRequest) ([]Backend, error) { return s.service.Order(o.Names) })
	})
	mux.HandleFunc("PATCH /v1/backends/{name}", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, func(b BackendSettings) (Backend, error) {
			return s.service.SetBackend(r.PathValue("name"), b.Settings)
		})
	})
	mux.HandleFunc("POST /v1/backends/{name}/freeze", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, func(f FreezeRequest) (Backend, error) { return s.service.Freeze(r.PathValue("name"), f.Reason) })
	})
	mux.HandleFunc("POST /v1/backends/{name}/thaw", s.change(s.service.Thaw))
	mux.HandleFunc("POST /v1/backends/{name}/cancel", s.change(s.service.Cancel))
	mux.HandleFunc("POST /v1/backends/{name}/unload", func(w http.ResponseWriter, r *http.Request) {
		m, err := s.service.Unload(r.PathValue("name"))
		s.follow(w, r, m, err)
	})
	mux.HandleFunc("POST /v1/backends/{name}/replace", begin(s, s.service.Replace))
	mux.HandleFunc("POST /v1/backends/{name}/shrink", begin(s, s.service.Shrink))
	mux.HandleFunc("POST /v1/backends/{name}/migrate", begin(s, s.service.Migrate))
}

// change handles what needs nothing but the backend's name.
func (s *Server) change(do func(name string) (Backend, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, err := do(r.PathValue("name"))
		if err != nil {
			s.refuse(w, err)
			return
		}
		s.answer(w, http.StatusOK, b)
	}
}

// begin handles what begins a move with a request.
func begin[Request any](s *Server, do func(string, Request) (Move, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request Request
		if err := decode(r, &request); err != nil {
			s.refuse(w, err)
			return
		}
		m, err := do(r.PathValue("name"), request)
		s.follow(w, r, m, err)
	}
}

// follow streams progress until the move has ended or the client is gone.
func (s *Server) follow(w http.ResponseWriter, r *http.Request, m Move, err error) {
	if err != nil {
		s.refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	event := MoveEvent{Backend: r.PathValue("name"), Operation: m.Operation(), Into: m.Into()}
	for {
		event.Progress = m.Progress()
		if s.line(w, event) != nil {
			return // the move goes on (A2)
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		case <-m.Done():
			event.Progress, event.Done = m.Progress(), true
			if err := m.Err(); err != nil {
				told := asError(err)
				event.Done, event.Error, event.Hint = false, told.Message, told.Hint
			}
			_ = s.line(w, event) // nobody left to tell if it fails
			return
		}
	}
}
