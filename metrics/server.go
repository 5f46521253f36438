package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server answers GET /metrics, /healthz, /readyz, and for the status page. It has no access
// control: it belongs on loopback or a network of one's own. It changes nothing, whatever it
// is asked.
type Server struct {
	http    *http.Server
	sampler *Sampler
}

// ServerConfig is what a server shows.
type ServerConfig struct {
	Take    func() Snapshot // called for each scrape, from any goroutine
	Sampler *Sampler        // the server's own, from here on
	Page    http.Handler    // what everything else is asked, or nil
	Series  int             // how many exports have series of their own, see NewCollector
	Log     *slog.Logger
}

// Limits of the server.
const (
	requestTimeout  = 10 * time.Second
	responseTimeout = 30 * time.Second
	closeTimeout    = 2 * time.Second
	maxScrapes      = 4 // at a time
	maxHeader       = 16 << 10
)

// NewServer returns a server for the daemon, the Go runtime and the process.
func NewServer(c ServerConfig) (*Server, error) {
	registry := prometheus.NewRegistry()
	collector := NewCollector(c.Take, c.Series)
	collector.watch = c.Sampler.watch // probes and scrapes see the same errors
	for _, collector := range []prometheus.Collector{
		collector, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(collector); err != nil {
			return nil, fmt.Errorf("prepare metrics: %w", err)
		}
	}
	return &Server{sampler: c.Sampler, http: &http.Server{
		Handler:           newHandler(registry, probes{c.Sampler}, c),
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      responseTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
	}}, nil
}

func newHandler(g prometheus.Gatherer, p probes, c ServerConfig) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelError), MaxRequestsInFlight: maxScrapes,
	}))
	mux.HandleFunc("GET /healthz", p.healthz)
	mux.HandleFunc("GET /readyz", p.readyz)
	if c.Page != nil {
		mux.Handle("GET /", c.Page)
	}
	return mux
}

// Serve answers requests from l until Close, and returns nil then.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// Close stops the server. Scrapes under way get a moment to end.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	defer s.sampler.close(ctx)
	if s.http.Shutdown(ctx) == nil {
		return nil
	}
	return s.http.Close()
}
