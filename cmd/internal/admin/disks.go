package admin

import (
	"context"
	"net/http"
	"net/url"
)

// DiskRequest asks for a disk to be served: as [[disk]] in the configuration.
type DiskRequest struct {
	Name     string   `json:"name"`
	Path     string   `json:"path"`
	Size     string   `json:"size,omitempty"` // of a file that is to be made; else it is there
	ReadOnly bool     `json:"read_only,omitempty"`
	Base     string   `json:"base,omitempty"`   // the base that path is an overlay over, made if it is not there
	Shared   string   `json:"shared,omitempty"` // the UUID that it shares its cached pages under
	Mode     string   `json:"mode,omitempty"`   // default: inclusive
	Allow    []string `json:"allow,omitempty"`  // who may open it; default: no rules
}

// DiskResizeRequest asks for a disk to get another size.
type DiskResizeRequest struct {
	Size    string `json:"size,omitempty"`    // default: what its file or device has by now
	Discard bool   `json:"discard,omitempty"` // give up what is beyond a new end
}

// DiskService is what the daemon does with disks.
type DiskService interface {
	// Disks lists the disks. SetDisk changes one and returns it.
	Disks() []Disk
	SetDisk(name string, settings DiskSettings) (Disk, error)

	// CreateDisk serves a disk. ResizeDisk gives one that no client uses another size,
	// DeleteDisk takes one away that no client uses.
	CreateDisk(DiskRequest) (Disk, error)
	ResizeDisk(name string, to DiskResizeRequest) (Disk, error)
	DeleteDisk(name string, removeStorage bool) error
}

func (s *Server) handleDisks(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/disks", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, http.StatusOK, s.service.Disks()) })
	mux.HandleFunc("PATCH /v1/disks/{name}", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, func(d DiskSettings) (Disk, error) { return s.service.SetDisk(r.PathValue("name"), d) })
	})
	mux.HandleFunc("POST /v1/disks", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusCreated, s.service.CreateDisk)
	})
	mux.HandleFunc("POST /v1/disks/{name}/resize", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, func(to DiskResizeRequest) (Disk, error) { return s.service.ResizeDisk(r.PathValue("name"), to) })
	})
	mux.HandleFunc("POST /v1/disks/{name}/delete", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, func(d DeleteRequest) (DeleteRequest, error) {
			return d, s.service.DeleteDisk(r.PathValue("name"), d.RemoveStorage)
		})
	})
}

// Disks asks for the disks.
func (c *Client) Disks(ctx context.Context) (d []Disk, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/disks", nil, &d)
	return d, err
}

// SetDisk changes a disk.
func (c *Client) SetDisk(ctx context.Context, name string, settings DiskSettings) (d Disk, err error) {
	err = c.ask(ctx, http.MethodPatch, "/v1/disks/"+url.PathEscape(name), settings, &d)
	return d, err
}

// CreateDisk has a disk served.
func (c *Client) CreateDisk(ctx context.Context, request DiskRequest) (d Disk, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/disks", request, &d)
	return d, err
}

// ResizeDisk gives a disk another size.
func (c *Client) ResizeDisk(ctx context.Context, name string, request DiskResizeRequest) (d Disk, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/disks/"+url.PathEscape(name)+"/resize", request, &d)
	return d, err
}

// DeleteDisk takes a disk away.
func (c *Client) DeleteDisk(ctx context.Context, name string, request DeleteRequest) error {
	var done DeleteRequest
	return c.ask(ctx, http.MethodPost, "/v1/disks/"+url.PathEscape(name)+"/delete", request, &done)
}
