package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// LogLine is one line of the daemon's log.
type LogLine struct {
	Number     uint64    `json:"number"` // from 1 on, in each run of the daemon
	Time       time.Time `json:"time"`
	Level      string    `json:"level"`
	Message    string    `json:"message"`
	Attributes []Setting `json:"attributes,omitempty"`
}

// Log is what is kept of the log.
type Log struct {
	Level     string    `json:"level"`     // below it nothing is logged
	Forgotten uint64    `json:"forgotten"` // lines of this run that are kept no more
	Lines     []LogLine `json:"lines"`
}

// LogSettings are what can be changed of it.
type LogSettings struct {
	Level string `json:"level"`
}

// LogQuery says which lines are wanted.
type LogQuery struct {
	Lines int        // at most so many, the latest
	Least slog.Level // and above
}

// Journal is where lines are kept.
type Journal interface {
	Level() slog.Level
	SetLevel(slog.Level)
	Forgotten() uint64

	// Since returns the latest lines after a number, and the number to go on with.
	// Changed is closed when there are any.
	Since(after uint64, least slog.Level, most int) (lines []LogLine, next uint64)
	Changed(after uint64) <-chan struct{}
}

// LevelHint is the cure for what is no level.
const LevelHint = "write debug, info, warn or error"

// ParseLevel reads a level.
func ParseLevel(text string) (level slog.Level, err error) {
	switch strings.ToLower(text) {
	case "debug", "info", "warn", "error":
		err = level.UnmarshalText([]byte(text))
		return level, err
	}
	return level, &Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("%q is not a level", text), Hint: LevelHint}
}

// LevelName spells a level as settings do.
func LevelName(l slog.Level) string { return strings.ToLower(l.String()) }

// handleLog adds what is about the log.
//
//	GET   /v1/log?lines=N&level=LEVEL           → Log
//	GET   /v1/log?lines=N&level=LEVEL&follow=1  → one LogLine a line, until somebody goes
//	PATCH /v1/log  LogSettings                  → Log, without lines
func (s *Server) handleLog(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/log", s.showLog)
	mux.HandleFunc("PATCH /v1/log", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, func(set LogSettings) (Log, error) {
			level, err := ParseLevel(set.Level)
			if err != nil {
				return Log{}, err
			}
			j := s.service.Journal()
			j.SetLevel(level)
			return Log{Level: LevelName(j.Level()), Forgotten: j.Forgotten(), Lines: []LogLine{}}, nil
		})
	})
}

func (s *Server) showLog(w http.ResponseWriter, r *http.Request) {
	query, follow, err := parseLogQuery(r.URL.Query())
	if err != nil {
		s.refuse(w, err)
		return
	}
	j := s.service.Journal()
	lines, next := j.Since(0, query.Least, query.Lines)
	if !follow {
		if lines == nil {
			lines = []LogLine{}
		}
		s.answer(w, http.StatusOK, Log{Level: LevelName(j.Level()), Forgotten: j.Forgotten(), Lines: lines})
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	control := http.NewResponseController(w)
	// The client says nothing more; that is not a request that takes too long (A1).
	if control.SetReadDeadline(time.Time{}) != nil || control.Flush() != nil {
		return
	}
	for {
		for _, line := range lines {
			if s.line(w, line) != nil {
				return
			}
		}
		select {
		case <-j.Changed(next):
			lines, next = j.Since(next, query.Least, MostLogLines)
		case <-r.Context().Done():
			return
		case <-s.ending:
			return
		}
	}
}

// MostLogLines is how many lines there are at most in an answer, and at once for a
// follower: one that is slower than the daemon logs misses the oldest.
const MostLogLines = 1000

func parseLogQuery(values url.Values) (q LogQuery, follow bool, err error) {
	q = LogQuery{Lines: MostLogLines, Least: slog.LevelDebug}
	if text := values.Get("lines"); text != "" {
		if q.Lines, err = strconv.Atoi(text); err != nil || q.Lines < 0 {
			return q, false, &Error{Status: http.StatusBadRequest, Message: fmt.Sprintf("%q is not a number of lines", text)}
		}
	}
	if text := values.Get("level"); text != "" {
		if q.Least, err = ParseLevel(text); err != nil {
			return q, false, err
		}
	}
	return q, values.Get("follow") != "", nil
}

func (q LogQuery) path() string {
	return "/v1/log?lines=" + strconv.Itoa(q.Lines) + "&level=" + LevelName(q.Least)
}

// Log asks for lines of the log.
func (c *Client) Log(ctx context.Context, q LogQuery) (l Log, err error) {
	err = c.ask(ctx, http.MethodGet, q.path(), nil, &l)
	return l, err
}

// SetLogLevel changes what is logged from now on.
func (c *Client) SetLogLevel(ctx context.Context, level string) (l Log, err error) {
	err = c.ask(ctx, http.MethodPatch, "/v1/log", LogSettings{Level: level}, &l)
	return l, err
}

// FollowLog reports lines as they come, until the daemon or the context ends. It
// returns nil when the daemon went away in order.
func (c *Client) FollowLog(ctx context.Context, q LogQuery, report func(LogLine)) error {
	response, err := c.send(ctx, http.MethodGet, q.path()+"&follow=1", nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	for decoder := json.NewDecoder(response.Body); ; {
		var line LogLine
		switch err := decoder.Decode(&line); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the daemon's log: %w", plain(err))
		}
		report(line)
	}
}
