package metrics

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tmemd/tmemd/tier"
)

func probe(t *testing.T, s *Sampler, path string) (int, string) {
	t.Helper()
	handler := newHandler(prometheus.NewRegistry(), probes{s}, ServerConfig{Log: slog.New(slog.DiscardHandler)})
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequest("GET", path, nil))
	return recorder.Code, strings.TrimSpace(recorder.Body.String())
}

// TestReady: storage that erred makes the daemon unready for a while, as does what it says of
// itself; errors of punches do not.
func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage, unready := tier.StorageStats{}, ""
		s := NewSampler(func() Snapshot {
			return Snapshot{Health: Health{Unready: unready}, Exports: []Export{{Name: "swap", Stats: tier.Stats{Storage: storage}}}}
		})
		expect := func(status int, line string) {
			t.Helper()
			time.Sleep(probeAge + 1)
			if code, got := probe(t, s, "/readyz"); code != status || got != line {
				t.Errorf("%d, %q, want %d, %q", code, got, status, line)
			}
			if code, got := probe(t, s, "/healthz"); code != 200 || got != "alive" {
				t.Errorf("healthz: %d, %q", code, got)
			}
		}
		expect(200, "ready")
		storage.PunchErrors = 3
		expect(200, "ready")
		storage.WriteErrors = 2
		expect(503, "not ready: storage of swap failed within the last 1m0s, 2 errors so far")
		time.Sleep(failingFor)
		expect(200, "ready")
		storage.ReadErrors = 1
		expect(503, "not ready: storage of swap failed within the last 1m0s, 3 errors so far")
		unready = "stopping"
		expect(503, "not ready: stopping")
	})
}

// TestWedged: parts that do not answer are said to be wedged, in time, and asked by one
// goroutine only; once they answer all is well.
func TestWedged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		stuck := make(chan struct{})
		s := NewSampler(func() Snapshot {
			asked.Add(1)
			<-stuck
			return Snapshot{}
		})
		start := time.Now()
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if code, line := probe(t, s, "/healthz"); code != 503 || line != "wedged: the daemon's parts do not answer" {
					t.Errorf("%d, %q", code, line)
				}
			})
		}
		all.Wait()
		if took := time.Since(start); took != probePatience {
			t.Errorf("it took %v", took)
		}
		if code, line := probe(t, s, "/readyz"); code != 503 || line != "not ready: the daemon's parts do not answer" {
			t.Errorf("%d, %q", code, line)
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		s.close(ctx) // does not wait for ever
		cancel()
		close(stuck)
		synctest.Wait()
		if _, err := s.Sample(t.Context(), time.Hour); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("a closed sampler answers: %v", err)
		}
	})
}

// TestSampler: a sample is shared while it is fresh.
func TestSampler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		s := NewSampler(func() Snapshot { asked++; return Snapshot{} })
		for range 10 {
			for range 5 {
				if _, err := s.Sample(t.Context(), time.Second); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(300 * time.Millisecond)
		}
		if asked != 3 { // at 0, 1.2 and 2.4 seconds
			t.Errorf("asked %d times", asked)
		}
	})
}
