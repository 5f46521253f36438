package statuspage

import (
	"context"
	"embed"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/tmemd/tmemd/metrics"
)

//go:embed page
var files embed.FS

// contents are the files by path, with their types.
var contents = map[string]struct{ file, kind string }{
	"/":         {"page/index.html", "text/html; charset=utf-8"},
	"/page.css": {"page/page.css", "text/css; charset=utf-8"},
	"/page.js":  {"page/page.js", "text/javascript; charset=utf-8"},
	"/icon.svg": {"page/icon.svg", "image/svg+xml"},
}

const (
	// fresh is how old a sample may be: less than the second after which a page asks again.
	fresh    = 400 * time.Millisecond
	patience = 5 * time.Second
	// maxViews are answered at a time.
	maxViews = 8

	policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)

// handler serves the page.
type handler struct {
	sampler *metrics.Sampler // immutable
	views   chan struct{}    // one in it for each view being made
}

// NewHandler returns the page's handler.
func NewHandler(sampler *metrics.Sampler) http.Handler {
	return &handler{sampler: sampler, views: make(chan struct{}, maxViews)}
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "this page is read only", http.StatusMethodNotAllowed)
		return
	}
	if foreign(r) {
		http.Error(w, "this page is on a loopback address, and answers to no other name", http.StatusForbidden)
		return
	}
	if r.URL.Path == "/status.json" {
		h.view(w, r)
		return
	}
	c, found := contents[r.URL.Path]
	if !found {
		http.NotFound(w, r)
		return
	}
	text, err := files.ReadFile(c.file)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	header.Set("Content-Type", c.kind)
	_, _ = w.Write(text) // the client is gone: nobody to tell
}

func (h *handler) view(w http.ResponseWriter, r *http.Request) {
	select {
	case h.views <- struct{}{}:
		defer func() { <-h.views }()
	default:
		http.Error(w, "too many viewers at once", http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	sample, err := h.sampler.Sample(ctx, fresh)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	text, err := json.Marshal(newView(sample))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text)
}

// foreign says whether the request came to a loopback address by a name that is not its own
// (P3). Who listens elsewhere has names that nobody here knows.
func foreign(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if local == nil || !local.IP.IsLoopback() {
		return false
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if address, err := netip.ParseAddr(host); err == nil {
		return !address.IsLoopback()
	}
	return host != "localhost" && !strings.HasSuffix(host, ".localhost")
}
