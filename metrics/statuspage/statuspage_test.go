package statuspage

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/frontswap"
	"github.com/tmemd/tmemd/metrics"
	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/tier"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// manyExports is a daemon with more of everything than the page shows.
func manyExports() metrics.Snapshot {
	s := metrics.Snapshot{Version: "v1", Health: metrics.Health{Phase: "serving", Unready: "reason"}, Lent: &metrics.Lent{}}
	for i := range 1000 {
		name := fmt.Sprint("export", i)
		s.Exports = append(s.Exports, metrics.Export{Name: name, Size: 1 << 20, Stats: tier.Stats{
			Area:    frontswap.AreaStats{Storage: 1, None: 5, Hole: 2, Lost: 1, Backends: map[string]int64{"zcache": int64(i)}},
			Storage: tier.StorageStats{Path: "/secret/path", PagesRead: 1, ReadErrors: 1, AllocatedSize: 4096}, LiveSize: 4095, StaleSize: 1,
		}})
		x := nbd.ExportStats{Name: name, Clients: 1}
		x.Commands[nbd.CommandRead] = nbd.RequestStats{Bytes: 7, Errors: 2}
		s.NBD.Exports = append(s.NBD.Exports, x)
		s.Lent.Clients = append(s.Lent.Clients, metrics.LentClient{Name: name, Used: int64(i)})
	}
	b := frontswap.BackendStatus{Name: "zcache", Kind: "zcache", Reason: "open /secret/path", Pages: 5, Drain: frontswap.Drain{Running: true, Moved: 1, Left: 2}}
	b.Stats.Refused[backends.Accepted], b.Stats.Refused[backends.RefusedFull] = 9, 8
	s.Backends = []frontswap.BackendStatus{b}
	return s
}

// get asks the handler as if on the address.
func get(h http.Handler, method, path, host, address string) *http.Response {
	r := httptest.NewRequest(method, path, nil)
	r.Host = host
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP(address)}))
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, r)
	return recorder.Result()
}

// TestView: totals are of all, lists are bounded with the largest first, and nothing is in it
// that metrics do not have.
func TestView(t *testing.T) {
	h := NewHandler(metrics.NewSampler(manyExports))
	answer := get(h, "GET", "/status.json", "localhost", "127.0.0.1")
	var v View
	if err := json.NewDecoder(answer.Body).Decode(&v); err != nil {
		t.Fatal(err)
	}
	if len(v.Exports) != maxRows || v.LeftOut != 2*(1000-maxRows) || len(v.Lent.Borrowers) != maxRows || v.Lent.Borrowers[0].Used != 999 {
		t.Errorf("%d exports, %d left out, borrowers %+v", len(v.Exports), v.LeftOut, v.Lent.Borrowers)
	}
	if x := v.Exports[0]; x.Name != "export999" || x.Clients != 1 || x.Reads != 7 || x.Errors != 2 || x.Pages.Total != 256 || x.Stale != 1 {
		t.Errorf("%+v", x)
	}
	if p := v.Pages; p.Storage != 1000 || p.None != 5000 || p.Hole != 2000 || p.Lost != 1000 || p.Backends["zcache"] != 999*500 || p.Total != 256000 {
		t.Errorf("%+v", p)
	}
	if s := v.Storage; s.Read != 1000 || s.Errors != 1000 || s.Live != 4095000 || s.Stale != 1000 || v.Clients != 1000 {
		t.Errorf("%+v, %d clients", s, v.Clients)
	}
	if b := v.Backends[0]; b.Refused["full"] != 8 || len(b.Refused) != 1 || b.Accepted != 9 || b.Move == nil || b.Move.Left != 2 {
		t.Errorf("%+v", b)
	}
	if v.Unready != "reason" || len(v.Bounds) != nbd.LatencyBuckets-1 || len(v.Requests) != int(nbd.CommandCount) {
		t.Errorf("unready %q, %d bounds, %d requests", v.Unready, len(v.Bounds), len(v.Requests))
	}
	text, err := json.Marshal(v)
	if err != nil || strings.Contains(string(text), "secret") || len(text) > 32<<10 {
		t.Errorf("%d bytes, %v: %s", len(text), err, text)
	}
}

// TestAnswers: what is there, for whom, and under which rules.
func TestAnswers(t *testing.T) {
	h := NewHandler(metrics.NewSampler(manyExports))
	for _, c := range []struct {
		method, path, host, address string
		status                      int
	}{
		{"GET", "/", "127.0.0.1:9757", "127.0.0.1", 200},
		{"HEAD", "/", "localhost:9757", "127.0.0.1", 200},
		{"GET", "/page.js", "[::1]:9757", "::1", 200},
		{"GET", "/page.css", "tmemd.localhost", "127.0.0.1", 200},
		{"GET", "/icon.svg", "127.0.0.1", "127.0.0.1", 200},
		{"GET", "/status.json", "evil.example", "127.0.0.1", 403},
		{"GET", "/", "127.0.0.1.evil.example:9757", "127.0.0.1", 403},
		{"GET", "/", "10.0.0.1", "127.0.0.1", 403},
		{"GET", "/status.json", "node7.example:9757", "10.0.0.1", 200},
		{"POST", "/status.json", "localhost", "127.0.0.1", 405},
		{"DELETE", "/", "localhost", "127.0.0.1", 405},
		{"GET", "/../page.js", "localhost", "127.0.0.1", 404},
		{"GET", "/page/index.html", "localhost", "127.0.0.1", 404},
	} {
		answer := get(h, c.method, c.path, c.host, c.address)
		if answer.StatusCode != c.status {
			t.Errorf("%s %s at %s on %s: %d, want %d", c.method, c.path, c.host, c.address, answer.StatusCode, c.status)
		}
		for header, want := range map[string]string{
			"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin",
			"Access-Control-Allow-Origin": "", "Cache-Control": "no-store",
		} {
			if got := answer.Header.Get(header); got != want {
				t.Errorf("%s: %s is %q, want %q", c.path, header, got, want)
			}
		}
	}
}

// TestViewsAreBounded: there are so many at a time, and the others are told at once.
func TestViewsAreBounded(t *testing.T) {
	stuck := make(chan struct{})
	h := NewHandler(metrics.NewSampler(func() metrics.Snapshot { <-stuck; return metrics.Snapshot{} }))
	codes := make(chan int, 2*maxViews)
	for range 2 * maxViews {
		go func() { codes <- get(h, "GET", "/status.json", "localhost", "127.0.0.1").StatusCode }()
	}
	for range maxViews {
		if code := <-codes; code != 503 {
			t.Errorf("%d", code)
		}
	}
	close(stuck)
	for range maxViews {
		if code := <-codes; code != 200 {
			t.Errorf("%d", code)
		}
	}
}

// TestSelfContained: the files name no other host, and have no script or style in place, which
// the policy forbids.
func TestSelfContained(t *testing.T) {
	bad := regexp.MustCompile(`(?i)https?://[^w]|//cdn|innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function| on[a-z]+="| style="|<script>|@import`)
	n := 0
	err := fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		n++
		text, err := files.ReadFile(path)
		if found := bad.Find(text); found != nil {
			t.Errorf("%s has %q", path, found)
		}
		return err
	})
	if err != nil || n != len(contents) {
		t.Errorf("%d files, %v", n, err)
	}
}

func BenchmarkView(b *testing.B) {
	s := metrics.Sample{Snapshot: manyExports(), Time: time.Now()}
	for b.Loop() {
		if _, err := json.Marshal(newView(s)); err != nil {
			b.Fatal(err)
		}
	}
}
