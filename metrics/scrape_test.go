package metrics

import (
	"fmt"
	"log/slog"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// BenchmarkScrape is what a scrape costs, snapshot and network apart.
func BenchmarkScrape(b *testing.B) {
	for _, exports := range []int{1, 1000} {
		b.Run(fmt.Sprint(exports, " exports"), func(b *testing.B) {
			s := someSnapshot()
			x, n := s.Exports[0], s.NBD.Exports[0]
			s.Exports, s.NBD.Exports = nil, nil
			for i := range exports {
				x.Name = fmt.Sprint("export", i)
				n.Name = x.Name
				s.Exports, s.NBD.Exports = append(s.Exports, x), append(s.NBD.Exports, n)
			}
			registry := prometheus.NewRegistry()
			registry.MustRegister(NewCollector(func() Snapshot { return s }, exports))
			handler := newHandler(registry, probes{}, ServerConfig{Log: slog.New(slog.DiscardHandler)})
			for b.Loop() {
				recorder := httptest.NewRecorder()
				handler.ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
				b.ReportMetric(float64(recorder.Body.Len()), "bytes")
			}
		})
	}
}
