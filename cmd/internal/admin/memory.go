package admin

import (
	"context"
	"net/http"
)

// Donor is another host that lends memory to a backend of this daemon.
type Donor struct {
	Backend string `json:"backend"`
	Name    string `json:"name"`
	Address string `json:"address"`
	State   string `json:"state"`            // connecting, up, open (out of reach) or refused; gone in the answer to its removal
	Reason  string `json:"reason,omitempty"` // why it is refused, or could not be connected to
	Leaving bool   `json:"leaving,omitempty"`
	Frozen  bool   `json:"frozen,omitempty"` // it takes nothing just now

	Pages           int64   `json:"pages"`
	FreeBytes       uint64  `json:"free_bytes"`       // that it still takes
	WantedBytes     uint64  `json:"wanted_bytes"`     // that it wants back
	RejectedReplies uint64  `json:"rejected_replies"` // that were not the page that was sent
	MissingPages    uint64  `json:"missing_pages"`    // that it should have had
	MissedDeadlines uint64  `json:"missed_deadlines"`
	Sessions        uint64  `json:"sessions"` // made so far
	LatencySeconds  float64 `json:"latency_seconds"`
	SentBytes       uint64  `json:"sent_bytes"`
	ReceivedBytes   uint64  `json:"received_bytes"`
}

// DonorRequest asks for a donor to be used.
type DonorRequest struct {
	Backend string `json:"backend,omitempty"` // default: the only one of the kind ramster
	Name    string `json:"name,omitempty"`    // default: made of the address
	Address string `json:"address"`
}

// DonorRemoval asks for a donor to be used no more.
type DonorRemoval struct {
	Backend string `json:"backend,omitempty"`
	Name    string `json:"name"`
	Now     bool   `json:"now,omitempty"` // give up what it has
}

// Lent is the memory that the daemon lends to other hosts.
type Lent struct {
	Listen     []string     `json:"listen"`
	Frozen     bool         `json:"frozen"`
	HeldBytes  int64        `json:"held_bytes"`
	LimitBytes int64        `json:"limit_bytes"` // of held_bytes, now
	MaxBytes   int64        `json:"max_bytes"`   // the limit while the host is not short of memory
	Stall      float64      `json:"stall"`       // share of the time that tasks of the host waited for memory, 0 to 1
	Sessions   int          `json:"sessions"`
	Denied     uint64       `json:"denied"` // greetings of those who may not, and connections of nobody knows whom
	Clients    []LentClient `json:"clients"`
}

// LentClient is somebody who may borrow, or could once and left pages.
type LentClient struct {
	Name           string `json:"name"`
	Granted        bool   `json:"granted"`
	QuotaBytes     int64  `json:"quota_bytes"`
	Weight         int64  `json:"weight"`
	UsedBytes      int64  `json:"used_bytes"`
	WantedBytes    int64  `json:"wanted_bytes"` // that it is to take back
	Pages          int64  `json:"pages"`
	EphemeralPages int64  `json:"ephemeral_pages"` // that may be dropped
	Sessions       int    `json:"sessions"`
}

// LentSettings are what can be changed of it; what is left out stays.
type LentSettings struct {
	Frozen *bool  `json:"frozen,omitempty"`
	Size   string `json:"size,omitempty"` // "20%", "4GiB"
}

// handleMemory adds what is about memory that hosts lend each other.
func (s *Server) handleMemory(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/donors", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, http.StatusOK, s.service.Donors()) })
	mux.HandleFunc("POST /v1/donors", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusCreated, s.service.AddDonor)
	})
	mux.HandleFunc("POST /v1/donors/remove", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, s.service.RemoveDonor)
	})
	mux.HandleFunc("GET /v1/lent", func(w http.ResponseWriter, _ *http.Request) {
		lent, err := s.service.Lent()
		if err != nil {
			s.refuse(w, err)
			return
		}
		s.answer(w, http.StatusOK, lent)
	})
	mux.HandleFunc("PATCH /v1/lent", func(w http.ResponseWriter, r *http.Request) {
		serve(s, w, r, http.StatusOK, s.service.SetLent)
	})
}

// Donors asks who lends memory to the daemon.
func (c *Client) Donors(ctx context.Context) (d []Donor, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/donors", nil, &d)
	return d, err
}

// AddDonor has a donor used.
func (c *Client) AddDonor(ctx context.Context, request DonorRequest) (d Donor, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/donors", request, &d)
	return d, err
}

// RemoveDonor has a donor used no more.
func (c *Client) RemoveDonor(ctx context.Context, request DonorRemoval) (d Donor, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/donors/remove", request, &d)
	return d, err
}

// Lent asks for the memory that the daemon lends.
func (c *Client) Lent(ctx context.Context) (l Lent, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/lent", nil, &l)
	return l, err
}

// SetLent changes it.
func (c *Client) SetLent(ctx context.Context, settings LentSettings) (l Lent, err error) {
	err = c.ask(ctx, http.MethodPatch, "/v1/lent", settings, &l)
	return l, err
}
