package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// Exports are saved and restored as streams, which the daemon makes and takes, and
// tmemctl keeps in files with its user's rights.
const (
	// transferTimeout is how long one piece of a stream may take.
	transferTimeout = 2 * time.Minute
	// errorTrailer has the error, in JSON, of a stream that ended with one.
	errorTrailer = "Tmemd-Error"
	streamType   = "application/octet-stream"
)

func (s *Server) handleTransfers(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/exports/{name}/save", s.save)
	mux.HandleFunc("PUT /v1/exports/{name}/restore", s.restore)
	mux.HandleFunc("POST /v1/exports/{name}/move", s.move)
}

// limited bounds the bodies of all requests but those that are streams.
func limited(next http.Handler) http.Handler {
	bounded := http.MaxBytesHandler(next, maxRequest)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.HasPrefix(r.URL.Path, "/v1/exports/") && strings.HasSuffix(r.URL.Path, "/restore") {
			next.ServeHTTP(w, r)
			return
		}
		bounded.ServeHTTP(w, r)
	})
}

// download is a stream to a client.
type download struct {
	to      http.ResponseWriter
	control *http.ResponseController
	began   bool
}

// Write implements io.Writer.
func (d *download) Write(p []byte) (int, error) {
	if !d.began {
		d.to.Header().Set("Content-Type", streamType)
	}
	if err := d.control.SetWriteDeadline(time.Now().Add(transferTimeout)); err != nil {
		return 0, err
	}
	n, err := d.to.Write(p)
	if err == nil && !d.began {
		d.began = true
		err = d.control.Flush() // or a short answer has no trailer
	}
	return n, err
}

func (s *Server) save(w http.ResponseWriter, r *http.Request) {
	stream := &download{to: w, control: http.NewResponseController(w)}
	err := s.service.SaveExport(r.Context(), r.PathValue("name"), stream)
	switch {
	case err == nil:
	case !stream.began:
		s.refuse(w, err)
	default:
		text, encoding := json.Marshal(asError(err))
		if encoding != nil {
			text = []byte(`{"error":"the answer could not be encoded"}`)
		}
		w.Header().Set(http.TrailerPrefix+errorTrailer, string(text))
	}
}

// upload is a stream from a client.
type upload struct {
	from    io.Reader
	control *http.ResponseController
}

// Read implements io.Reader.
func (u *upload) Read(p []byte) (int, error) {
	if err := u.control.SetReadDeadline(time.Now().Add(transferTimeout)); err != nil {
		return 0, err
	}
	return u.from.Read(p)
}

func (s *Server) restore(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	stream := &upload{from: r.Body, control: http.NewResponseController(w)}
	e, err := s.service.RestoreExport(r.Context(), CreateRequest{
		Name: r.PathValue("name"), Storage: query.Get("storage"), Writethrough: query.Get("writethrough"), Allow: query["allow"],
		Client: query.Get("client"), Template: query.Get("template"),
	}, stream)
	if err != nil {
		// A client reads the answer when it has sent everything.
		_, _ = io.Copy(io.Discard, stream)
		s.refuse(w, err)
		return
	}
	s.answer(w, http.StatusCreated, e)
}

// move streams how far a move is. If the client goes, the move ends.
func (s *Server) move(w http.ResponseWriter, r *http.Request) {
	var request MoveExportRequest
	if err := decode(r, &request); err != nil {
		s.refuse(w, err)
		return
	}
	began := false
	tell := func(event ExportMove) {
		if !began {
			w.Header().Set("Content-Type", "application/x-ndjson")
			began = true
		}
		_ = s.line(w, event) // the request's context tells of a client that is gone
	}
	done, err := s.service.MoveExport(r.Context(), r.PathValue("name"), request, tell)
	switch {
	case err == nil:
		done.Done = true
		tell(done)
	case began:
		told := asError(err)
		tell(ExportMove{Export: r.PathValue("name"), Error: told.Message, Hint: told.Hint})
	default:
		s.refuse(w, err)
	}
}

// MoveExport moves an export and returns the last line of progress.
func (c *Client) MoveExport(ctx context.Context, name string, request MoveExportRequest, report func(ExportMove)) (ExportMove, error) {
	response, err := c.send(ctx, http.MethodPost, exportPath(name, "move"), request)
	if err != nil {
		return ExportMove{}, err
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(response.Body)
	for {
		var event ExportMove
		if err := decoder.Decode(&event); err != nil {
			return ExportMove{}, cli.Failure("tmemctl export list shows whether it has moved",
				"lost the daemon during the move of export %s: %v", name, plain(err))
		}
		if event.Error != "" {
			return ExportMove{}, cli.Failure(event.Hint, "%s", event.Error)
		}
		report(event)
		if event.Done {
			return event, nil
		}
	}
}

// SaveExport writes an export to to. What was written counts only if there is no error.
func (c *Client) SaveExport(ctx context.Context, name string, to io.Writer) error {
	response, err := c.send(ctx, http.MethodGet, exportPath(name, "save"), nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(to, response.Body); err != nil {
		return fmt.Errorf("save export %s: %w", name, plain(err))
	}
	text := response.Trailer.Get(errorTrailer)
	if text == "" {
		return nil
	}
	var told Error
	if err := json.Unmarshal([]byte(text), &told); err != nil {
		return fmt.Errorf("save export %s: the daemon failed: %s", name, text)
	}
	return cli.Failure(told.Hint, "%s", told.Message)
}

// RestoreExport makes an export of what SaveExport wrote. The request's size is left out.
func (c *Client) RestoreExport(ctx context.Context, into CreateRequest, from io.Reader) (e Export, err error) {
	query := url.Values{"allow": into.Allow}
	for key, value := range map[string]string{"storage": into.Storage, "writethrough": into.Writethrough, "client": into.Client, "template": into.Template} {
		if value != "" {
			query.Set(key, value)
		}
	}
	body := &remembered{from: from}
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://tmemd"+exportPath(into.Name, "restore")+"?"+query.Encode(), body)
	if err != nil {
		return e, fmt.Errorf("make the request: %w", err)
	}
	r.Header.Set("Content-Type", streamType)
	response, err := c.answered(r)
	if body.err != nil { // what was to be sent could not be read: the cause of all else
		return e, body.err
	}
	if err != nil {
		return e, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(io.LimitReader(response.Body, maxResponse)).Decode(&e); err != nil {
		return e, fmt.Errorf("read the daemon's answer: %w", err)
	}
	return e, nil
}

// remembered keeps the error of a reader, which a transport only mentions.
type remembered struct {
	from io.Reader
	err  error
}

// Read implements io.Reader.
func (r *remembered) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

func exportPath(name, operation string) string {
	return "/v1/exports/" + url.PathEscape(name) + "/" + operation
}
