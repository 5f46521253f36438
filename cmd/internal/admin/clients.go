package admin

import (
	"context"
	"net/http"
	"net/url"
)

// PoolClient is who exports belong to: a virtual machine, a tenant. (A [Client] asks
// this API, and an [Attachment] is an NBD client.)
type PoolClient struct {
	Name             string `json:"name"`
	Weight           uint32 `json:"weight"`
	CapBytes         uint64 `json:"cap_bytes"`         // 0: none
	ReservationBytes uint64 `json:"reservation_bytes"` // as it was set
	KeptBytes        uint64 `json:"kept_bytes"`        // of the reservation, what backends can keep now
	Dedup            bool   `json:"dedup"`             // identical pages of its exports are kept once
	Frozen           bool   `json:"frozen"`

	Exports   []string          `json:"exports"`
	Pages     uint64            `json:"pages"`       // of its exports, that backends have
	UsedBytes uint64            `json:"used_bytes"`  // memory of this host that they take
	Share     uint64            `json:"share_bytes"` // what it is due if all clients want theirs; 0: no limit, or nobody else
	Refused   map[string]uint64 `json:"refused"`     // pages not offered to a backend, by reason
	Evicted   uint64            `json:"evicted"`     // pages moved on to make room, or for the cap

	PromisedBytes uint64 `json:"promised_bytes"` // of all its exports together
	WorstBytes    uint64 `json:"worst_bytes"`    // that storage may still have to take: all of it written, and nothing kept in memory
}

// ClientRequest asks for a client to be made.
type ClientRequest struct {
	Name        string `json:"name"`
	Weight      int64  `json:"weight,omitempty"`      // default: 1
	Cap         string `json:"cap,omitempty"`         // "1GiB", "10%"; default: none
	Reservation string `json:"reservation,omitempty"` // default: none
	Dedup       bool   `json:"dedup,omitempty"`       // default: off
}

// ClientSettings are what can be changed of a client; what is not given stays.
type ClientSettings struct {
	Weight      *int64  `json:"weight,omitempty"`
	Cap         *string `json:"cap,omitempty"`         // "0": none
	Reservation *string `json:"reservation,omitempty"` // "0": none
	Dedup       *bool   `json:"dedup,omitempty"`       // for exports that are opened from then on
}

// DestroyRequest asks for a client to be destroyed, with its exports.
type DestroyRequest struct {
	RemoveStorage bool `json:"remove_storage,omitempty"` // the files that were made for them
	Disconnect    bool `json:"disconnect,omitempty"`     // NBD clients that use them; else that is refused
}

// Destroyed is what a destroyed client has left.
type Destroyed struct {
	Name       string   `json:"name"`
	Exports    []string `json:"exports"`       // that were deleted with it
	FreedPages uint64   `json:"freed_pages"`   // that backends had
	FreedBytes uint64   `json:"freed_bytes"`   // memory that they took; it was overwritten or given back
	Storage    []string `json:"storage_files"` // that are left
}

// Pool is the pages of one export or disk: what tmem called a pool.
type Pool struct {
	Name        string `json:"name"`           // of the export, disk or base
	Client      string `json:"client"`         // empty for disks
	Sort        string `json:"sort"`           // persistent, ephemeral or shared
	UUID        string `json:"uuid,omitempty"` // of a shared one
	Pages       uint64 `json:"pages"`
	UsedBytes   uint64 `json:"used_bytes"` // of a persistent one
	SuccPuts    uint64 `json:"succ_puts"`
	FailedPuts  uint64 `json:"failed_puts"`
	SuccGets    uint64 `json:"succ_gets"`
	FailedGets  uint64 `json:"failed_gets"`
	Invalidates uint64 `json:"invalidates"`
}

// Freeable is what clients could still get, without a page of swap moved.
type Freeable struct {
	Bytes          uint64 `json:"bytes"`           // free, or taken by ephemeral pages
	EphemeralPages uint64 `json:"ephemeral_pages"` // of disks: they give way
}

// SharedAuth is one UUID that disks may share pages under.
type SharedAuth struct {
	UUID       string `json:"uuid"`
	Base       string `json:"base,omitempty"` // that authorises it in the configuration
	Users      int    `json:"users"`          // disks and bases that use it
	Authorised bool   `json:"authorised"`
}

// Commitment is what exports promise that have their storage on one file system.
type Commitment struct {
	Folder        string `json:"folder"` // of one of them
	Exports       int    `json:"exports"`
	PromisedBytes uint64 `json:"promised_bytes"` // their sizes
	StoredBytes   uint64 `json:"stored_bytes"`   // that storage has taken
	MemoryBytes   uint64 `json:"memory_bytes"`   // that their pages take in backends
	WorstBytes    uint64 `json:"worst_bytes"`    // that storage would still have to take, with all of it written and nothing kept in memory
	FreeBytes     uint64 `json:"free_bytes"`     // of the file system
}

// ClientService is the part of [Service] that is about clients and pools.
type ClientService interface {
	Clients() ([]PoolClient, error)
	CreateClient(ClientRequest) (PoolClient, error)
	SetClient(name string, settings ClientSettings) (PoolClient, error)
	FreezeClient(name string, frozen bool) (PoolClient, error)
	DestroyClient(name string, r DestroyRequest) (Destroyed, error)

	Pools() ([]Pool, error)
	Commitments() ([]Commitment, error) // by file system
	Freeable() (Freeable, error)
	SharedAuths() ([]SharedAuth, error)
	SetSharedAuth(SharedAuth) (SharedAuth, error) // by its UUID and Authorised
}

func (s *Server) handleClients(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/clients", list(s, s.service.Clients))
	mux.HandleFunc("POST /v1/clients", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusCreated, s.service.CreateClient)
	})
	mux.HandleFunc("PATCH /v1/clients/{name}", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, func(c ClientSettings) (PoolClient, error) { return s.service.SetClient(r.PathValue("name"), c) })
	})
	for verb, frozen := range map[string]bool{"freeze": true, "thaw": false} {
		mux.HandleFunc("POST /v1/clients/{name}/"+verb, func(w http.ResponseWriter, r *http.Request) {
			list(s, func() (PoolClient, error) { return s.service.FreezeClient(r.PathValue("name"), frozen) })(w, r)
		})
	}
	mux.HandleFunc("POST /v1/clients/{name}/destroy", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, func(d DestroyRequest) (Destroyed, error) { return s.service.DestroyClient(r.PathValue("name"), d) })
	})
	mux.HandleFunc("GET /v1/pools", list(s, s.service.Pools))
	mux.HandleFunc("GET /v1/commitments", list(s, s.service.Commitments))
	mux.HandleFunc("GET /v1/pools/freeable", list(s, s.service.Freeable))
	mux.HandleFunc("GET /v1/pools/shared", list(s, s.service.SharedAuths))
	mux.HandleFunc("PUT /v1/pools/shared", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, s.service.SetSharedAuth)
	})
}

// list handles what needs no request.
func list[Answer any](s *Server, do func() (Answer, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		answer, err := do()
		if err != nil {
			s.refuse(w, err)
			return
		}
		s.answer(w, http.StatusOK, answer)
	}
}

// Clients asks for the clients.
func (c *Client) Clients(ctx context.Context) (list []PoolClient, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/clients", nil, &list)
	return list, err
}

// CreateClient makes a client.
func (c *Client) CreateClient(ctx context.Context, r ClientRequest) (p PoolClient, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/clients", r, &p)
	return p, err
}

// SetClient changes a client.
func (c *Client) SetClient(ctx context.Context, name string, settings ClientSettings) (p PoolClient, err error) {
	err = c.ask(ctx, http.MethodPatch, "/v1/clients/"+url.PathEscape(name), settings, &p)
	return p, err
}

// FreezeClient has no more pages of a client stored, or again.
func (c *Client) FreezeClient(ctx context.Context, name string, frozen bool) (p PoolClient, err error) {
	verb := "/thaw"
	if frozen {
		verb = "/freeze"
	}
	err = c.ask(ctx, http.MethodPost, "/v1/clients/"+url.PathEscape(name)+verb, nil, &p)
	return p, err
}

// DestroyClient destroys a client, with its exports.
func (c *Client) DestroyClient(ctx context.Context, name string, r DestroyRequest) (d Destroyed, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/clients/"+url.PathEscape(name)+"/destroy", r, &d)
	return d, err
}

// Pools asks for the pages of exports and disks.
func (c *Client) Pools(ctx context.Context) (list []Pool, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/pools", nil, &list)
	return list, err
}

// Commitments asks what exports promise.
func (c *Client) Commitments(ctx context.Context) (list []Commitment, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/commitments", nil, &list)
	return list, err
}

// Freeable asks what clients could still get.
func (c *Client) Freeable(ctx context.Context) (f Freeable, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/pools/freeable", nil, &f)
	return f, err
}

// SharedAuths asks who may share pages.
func (c *Client) SharedAuths(ctx context.Context) (list []SharedAuth, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/pools/shared", nil, &list)
	return list, err
}

// SetSharedAuth lets disks share pages under a UUID, or not any more.
func (c *Client) SetSharedAuth(ctx context.Context, a SharedAuth) (now SharedAuth, err error) {
	err = c.ask(ctx, http.MethodPut, "/v1/pools/shared", a, &now)
	return now, err
}
