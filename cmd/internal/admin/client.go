package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// Limits of the client.
const (
	maxResponse   = 16 << 20 // bytes of an answer that is not a stream
	clientTimeout = 30 * time.Second
)

// Client asks a daemon. Its errors are for humans, with hints. Close ends it.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient returns a client of the daemon that listens on the socket.
// It connects when it is asked something.
func NewClient(socket string) *Client {
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status asks for everything at a glance.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/status", nil, &s)
	return s, err
}

// Reload has certificates and lists of donors read anew.
func (c *Client) Reload(ctx context.Context) (told Reloaded, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/reload", nil, &told)
	return told, err
}

// Exports asks for the exports.
func (c *Client) Exports(ctx context.Context) (e []Export, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/exports", nil, &e)
	return e, err
}

// SetExport changes an export.
func (c *Client) SetExport(ctx context.Context, name string, settings ExportSettings) (e Export, err error) {
	err = c.ask(ctx, http.MethodPatch, "/v1/exports/"+url.PathEscape(name), settings, &e)
	return e, err
}

// CreateExport makes an export.
func (c *Client) CreateExport(ctx context.Context, request CreateRequest) (e Export, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/exports", request, &e)
	return e, err
}

// ResizeExport gives an export another size.
func (c *Client) ResizeExport(ctx context.Context, name string, request ResizeRequest) (e Export, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/exports/"+url.PathEscape(name)+"/resize", request, &e)
	return e, err
}

// DeleteExport deletes an export.
func (c *Client) DeleteExport(ctx context.Context, name string, request DeleteRequest) error {
	var done DeleteRequest
	return c.ask(ctx, http.MethodPost, "/v1/exports/"+url.PathEscape(name)+"/delete", request, &done)
}

// Faults lists what can be made to fail, and how it is.
func (c *Client) Faults(ctx context.Context) (f []Fault, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/faults", nil, &f)
	return f, err
}

// SetFaults replaces the rules of a target.
func (c *Client) SetFaults(ctx context.Context, target string, rules []string) (f Fault, err error) {
	err = c.ask(ctx, http.MethodPut, "/v1/faults/"+url.PathEscape(target), FaultRequest{Rules: rules}, &f)
	return f, err
}

// Backends asks for the loaded backends.
func (c *Client) Backends(ctx context.Context) (b []Backend, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/backends", nil, &b)
	return b, err
}

// Load loads a backend.
func (c *Client) Load(ctx context.Context, request LoadRequest) (b Backend, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/backends", request, &b)
	return b, err
}

// SetBackend changes settings of a backend, all or none.
func (c *Client) SetBackend(ctx context.Context, name string, settings []Setting) (b Backend, err error) {
	err = c.ask(ctx, http.MethodPatch, "/v1/backends/"+url.PathEscape(name), BackendSettings{Settings: settings}, &b)
	return b, err
}

// Freeze stops a backend's stores.
func (c *Client) Freeze(ctx context.Context, name, reason string) (b Backend, err error) {
	err = c.ask(ctx, http.MethodPost, backendPath(name, "freeze"), FreezeRequest{Reason: reason}, &b)
	return b, err
}

// Thaw lets a frozen backend take stores again.
func (c *Client) Thaw(ctx context.Context, name string) (b Backend, err error) {
	err = c.ask(ctx, http.MethodPost, backendPath(name, "thaw"), nil, &b)
	return b, err
}

// Cancel ends the move of a backend's pages that is under way.
func (c *Client) Cancel(ctx context.Context, name string) (b Backend, err error) {
	err = c.ask(ctx, http.MethodPost, backendPath(name, "cancel"), nil, &b)
	return b, err
}

// Order changes the order in which pages are offered to backends.
func (c *Client) Order(ctx context.Context, names []string) (b []Backend, err error) {
	err = c.ask(ctx, http.MethodPut, "/v1/backends/order", OrderRequest{Names: names}, &b)
	return b, err
}

// Unload unloads a backend and returns when it is gone, or why it is not.
// report is called for every line of progress and for the last one.
func (c *Client) Unload(ctx context.Context, name string, report func(MoveEvent)) error {
	return c.follow(ctx, name, OperationUnload, nil, report)
}

// Replace is like Unload, with another backend taking the place and the pages.
func (c *Client) Replace(ctx context.Context, name string, with LoadRequest, report func(MoveEvent)) error {
	return c.follow(ctx, name, OperationReplace, with, report)
}

// Shrink moves some of a backend's coldest pages to storage.
func (c *Client) Shrink(ctx context.Context, name string, by MoveRequest, report func(MoveEvent)) error {
	return c.follow(ctx, name, OperationShrink, by, report)
}

// Migrate moves some of a backend's coldest pages to the backends after it.
func (c *Client) Migrate(ctx context.Context, name string, by MoveRequest, report func(MoveEvent)) error {
	return c.follow(ctx, name, OperationMigrate, by, report)
}

// upgradePoll is how often Upgrade asks whether the new program serves.
const upgradePoll = 20 * time.Millisecond

// Upgrade has the daemon become the program that is at its path now, and returns
// its status when the new one serves. An error of the daemon says that the old one
// serves on.
func (c *Client) Upgrade(ctx context.Context) (Status, error) {
	before, err := c.Status(ctx)
	if err != nil {
		return Status{}, err
	}
	response, err := c.send(ctx, http.MethodPost, "/v1/upgrade", nil)
	if err == nil {
		response.Body.Close()
	}
	var told *cli.Error
	if errors.As(err, &told) { // anything else is that it is gone, as it should be
		return Status{}, err
	}
	for {
		now, err := c.Status(ctx)
		if err == nil && !now.Started.Equal(before.Started) {
			return now, nil
		}
		select {
		case <-ctx.Done():
			return Status{}, cli.Failure("see its log; nothing is lost: tmemd takes over what is in memory when it is started again",
				"the new program does not answer: %v", context.Cause(ctx))
		case <-time.After(upgradePoll):
		}
	}
}

func backendPath(name, operation string) string {
	return "/v1/backends/" + url.PathEscape(name) + "/" + operation
}

func (c *Client) follow(ctx context.Context, name, operation string, request any, report func(MoveEvent)) error {
	response, err := c.send(ctx, http.MethodPost, backendPath(name, operation), request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(response.Body)
	for {
		var event MoveEvent
		if err := decoder.Decode(&event); err != nil {
			return cli.Failure("the "+operation+" goes on if the daemon runs; tmemctl status tells",
				"lost the daemon during the %s of %s: %v", operation, name, plain(err))
		}
		report(event)
		if event.Error != "" {
			return cli.Failure(event.Hint, "%s", event.Error)
		}
		if event.Done {
			return nil
		}
	}
}

// plain says what the end of a stream means.
func plain(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it closed the connection")
	}
	return err
}

func (c *Client) ask(ctx context.Context, method, path string, request, response any) error {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	r, err := c.send(ctx, method, path, request)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if err := json.NewDecoder(io.LimitReader(r.Body, maxResponse)).Decode(response); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	return nil
}

// send returns an answer that is not an error; the caller closes its body.
func (c *Client) send(ctx context.Context, method, path string, request any) (*http.Response, error) {
	var body io.Reader
	if request != nil {
		text, err := json.Marshal(request)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(text)
	}
	// The host is not used: there is only the socket.
	r, err := http.NewRequestWithContext(ctx, method, "http://tmemd"+path, body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	return c.answered(r)
}

// answered is send of a request that is made.
func (c *Client) answered(r *http.Request) (*http.Response, error) {
	response, err := c.http.Do(r)
	if err != nil {
		return nil, c.explain(err)
	}
	if response.StatusCode < 300 {
		return response, nil
	}
	defer response.Body.Close()
	var told Error
	if err := json.NewDecoder(io.LimitReader(response.Body, maxRequest)).Decode(&told); err != nil || told.Message == "" {
		return nil, fmt.Errorf("the daemon answered %s", response.Status)
	}
	return nil, told.report(response.StatusCode == http.StatusBadRequest)
}

// report makes an error for a human of what the daemon said.
func (e *Error) report(misuse bool) error {
	var first error = &cli.Error{Problem: e.Message, Excerpt: e.Excerpt, Hint: e.Hint, Usage: misuse}
	if len(e.More) == 0 {
		return first
	}
	all := []error{first}
	for _, more := range e.More {
		all = append(all, more.report(misuse))
	}
	return errors.Join(all...)
}

// explain tells apart the ways in which a daemon is not there.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return cli.Failure("start tmemd, or say where it runs with --state-dir DIR or --socket PATH",
			"tmemd is not running: nobody answers on %s", c.socket)
	case errors.Is(err, fs.ErrPermission):
		return cli.Failure("run tmemctl as root or as the user who runs tmemd", "may not open %s", c.socket)
	case errors.Is(err, context.DeadlineExceeded):
		return cli.Failure("see the daemon's log", "the daemon did not answer on %s in time", c.socket)
	}
	return fmt.Errorf("ask the daemon: %w", err)
}
