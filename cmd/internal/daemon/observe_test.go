package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/protect"
	"github.com/tmemd/tmemd/nbd/tlstest"
)

// get asks the daemon's metrics address.
func (i *instance) get(path string) (status int, text string) {
	i.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patient}
	answer, err := client.Get(strings.TrimSuffix(i.status().Metrics, "/metrics") + path)
	must(i.t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	must(i.t, err)
	return answer.StatusCode, string(body)
}

// startEverything starts a daemon with every part that there is, and has each do something. It
// lends memory itself, and has pages at another.
func startEverything(t *testing.T) (i, donor *instance) {
	t.Helper()
	dir, files, east := donorFolder(t), t.TempDir(), donorFolder(t)
	donor = startDonor(t, east, donorText)
	authority := tlstest.NewAuthority(t, "tmemd test")
	tlstest.WriteFiles(t, files, "server", authority.Server(t))
	must(t, os.WriteFile(filepath.Join(files, "data.img"), make([]byte, 64*pageSize), 0o600))
	log := &logBuffer{}
	o := options(t, dir, log, "--config", writeConfig(t, dir, strings.NewReplacer("FILES", files, "EAST", east, "UID", fmt.Sprint(os.Geteuid())).Replace(`
listen = ["unix://DIR/nbd.sock", "tcp://127.0.0.1:0"]
[nbd.tls]
certificate = "FILES/server.crt"
key = "FILES/server.key"
[[export]]
name = "swap"
size = "8MiB"
[[disk]]
name = "data"
path = "FILES/data.img"
[[backend]]
kind = "zcache"
size = "16MiB"
[[backend]]
kind = "ramster"
size = "1GiB"
donors = ["east=unix://EAST/donor.sock"]
copies = 1
`+donorText)))
	o.Protection = protect.Report{Measures: []protect.Measure{{Name: protect.MemoryLocked, State: protect.Refused}}}
	i = run(t, o, log)
	i.awaitDonors("east")
	c, data := i.attach(), i.disk("data")
	must(t, c.WritePages(1, 0, 200))
	must(t, c.CheckPages(1, 0, 200))
	_, err := data.ReadAt(make([]byte, pageSize), 0)
	must(t, err)
	must(t, i.client.Shrink(context.Background(), "zcache", admin.MoveRequest{Pages: 10}, func(admin.MoveEvent) {}))
	must(t, c.Close())
	must(t, data.Close())
	return i, donor
}

var (
	// quoted strings are taken out of an expression before names are looked for.
	quotedPattern   = regexp.MustCompile(`"[^"]*"`)
	namePattern     = regexp.MustCompile(`\b(?:tmemd|go|process)_[a-z0-9_]+\b`)
	selectorPattern = regexp.MustCompile(`\b(tmemd_[a-z0-9_]+)\{([^}]*)\}`)
	matcherPattern  = regexp.MustCompile(`([a-z_]+)(=~|!~|!=|=)"([^"]*)"`)
)

// expressions are those of the dashboard and of the rules.
func expressions(t *testing.T) (all []string) {
	t.Helper()
	text, err := os.ReadFile("../../../deploy/grafana/tmemd.json")
	must(t, err)
	var dashboard any
	must(t, json.Unmarshal(text, &dashboard))
	var walk func(node any)
	walk = func(node any) {
		switch n := node.(type) {
		case map[string]any:
			for key, value := range n {
				if text, ok := value.(string); ok && (key == "expr" || key == "definition") {
					all = append(all, text)
				}
				walk(value)
			}
		case []any:
			for _, value := range n {
				walk(value)
			}
		}
	}
	walk(dashboard)
	fromDashboard := len(all)
	rules, err := os.ReadFile("../../../deploy/prometheus/alerts.yml")
	must(t, err)
	// "expr:" and what follows with more indentation than it.
	for _, m := range regexp.MustCompile(`(?m)^        expr: (.*(?:\n          .*)*)`).FindAllStringSubmatch(string(rules), -1) {
		all = append(all, m[1])
	}
	if fromDashboard < 40 || len(all)-fromDashboard != strings.Count(string(rules), "expr:") {
		t.Fatalf("%d expressions of the dashboard, %d of the rules", fromDashboard, len(all)-fromDashboard)
	}
	return all
}

// TestShownMetricsExist: each metric, label and value that the dashboard and the alerts name is one
// that a daemon with all its parts has.
func TestShownMetricsExist(t *testing.T) {
	i, donor := startEverything(t)
	status, exposed := i.get("/metrics")
	if status != http.StatusOK {
		t.Fatalf("%d: %s", status, exposed)
	}
	if !strings.Contains(exposed, `tmemd_ramster_donor_state{backend="ramster",donor="east",state="up"} 1`) {
		t.Error("no donor is up")
	}
	i.stop()
	donor.stop()
	names, values := map[string]bool{}, map[string][]string{} // values by "metric label"
	for _, line := range strings.Split(exposed, "\n") {
		name := regexp.MustCompile(`^[a-z0-9_]+`).FindString(line)
		names[name] = true
		for _, m := range matcherPattern.FindAllStringSubmatch(line, -1) {
			values[name+" "+m[1]] = append(values[name+" "+m[1]], m[3])
		}
	}
	if len(names) < 120 {
		t.Fatalf("only %d metrics", len(names))
	}
	rules, err := os.ReadFile("../../../deploy/prometheus/alerts.yml")
	must(t, err)
	for _, m := range regexp.MustCompile(`record: (\S+)`).FindAllStringSubmatch(string(rules), -1) {
		names[m[1]] = true
	}
	checked := 0
	for _, expression := range expressions(t) {
		for _, name := range namePattern.FindAllString(regexp.MustCompile(`instance\w*:[a-z0-9_:]+`).ReplaceAllStringFunc(quotedPattern.ReplaceAllString(expression, `""`), func(recorded string) string {
			if !names[recorded] {
				t.Errorf("no rule records %s, which %s asks for", recorded, expression)
			}
			return ""
		}), -1) {
			checked++
			if !names[name] {
				t.Errorf("no daemon has %s, which %s asks for", name, expression)
			}
		}
		for _, selector := range selectorPattern.FindAllStringSubmatch(expression, -1) {
			for _, m := range matcherPattern.FindAllStringSubmatch(selector[2], -1) {
				label, operator, wanted := m[1], m[2], m[3]
				if label == "job" || label == "instance" {
					continue // Prometheus' own
				}
				known := values[selector[1]+" "+label]
				if len(known) == 0 {
					t.Errorf("%s has no label %s, which %s asks for", selector[1], label, expression)
				}
				for _, value := range strings.Split(wanted, "|") {
					if operator[0] == '=' && !strings.HasPrefix(value, "$") && !slices.Contains(known, value) {
						t.Errorf("%s is never %s=%q, which %s asks for", selector[1], label, value, expression)
					}
				}
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d names were found", checked)
	}
}

// TestProbes: a daemon is ready while it serves, and not while it stops.
func TestProbes(t *testing.T) {
	i := start(t, t.TempDir())
	c := i.attach()
	expect := func(path string, status int, text string) {
		t.Helper()
		i.await(path+" says "+text, func() bool {
			code, got := i.get(path)
			return code == status && got == text+"\n"
		})
	}
	expect("/readyz", 200, "ready")
	expect("/healthz", 200, "alive")
	if code, got := i.get("/status.json"); code != 200 || !strings.Contains(got, `"phase":"serving"`) {
		t.Errorf("%d, %s", code, got)
	}
	i.signal()
	expect("/readyz", 503, "not ready: stopping, waiting: no clients are accepted")
	expect("/healthz", 200, "alive")
	if _, got := i.get("/metrics"); !strings.Contains(got, "\ntmemd_ready 0\n") || !strings.Contains(got, "\ntmemd_phase{phase=\"waiting\"} 1\n") {
		t.Error("metrics say something else than probes")
	}
	must(t, c.Close())
	must(t, i.awaitEnd())
}

// TestNotServed: a daemon with a socket that broke is not ready.
func TestNotServed(t *testing.T) {
	log := &logBuffer{}
	d, err := Open(options(t, t.TempDir(), log, "--size", "4MiB"))
	must(t, err)
	if h := d.health(); h.Unready != "clients are not served yet" || h.Phase != admin.PhaseServing {
		t.Errorf("before it serves: %+v", h)
	}
	d.noteSocket(nbdSocket(0), d.listeners.nbd[0])
	if h := d.health(); h.Unready != "" {
		t.Errorf("while it serves: %+v", h)
	}
	d.notServed(errors.New("accept: too many open files"))
	if h := d.health(); h.Unready != "a socket is not served any more, the log says which" {
		t.Errorf("after a socket broke: %+v", h)
	}
	must(t, d.close())
}

// TestStatusPageOff: one setting takes the page away, and leaves the rest.
func TestStatusPageOff(t *testing.T) {
	dir := t.TempDir()
	i := configured(t, dir, "status_page = false\n", "--size", "4MiB")
	for path, want := range map[string]int{"/": 404, "/status.json": 404, "/metrics": 200, "/readyz": 200} {
		if code, _ := i.get(path); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
	i.stop()
	i = configured(t, dir, "status_page = false\n", "--size", "4MiB", "--status-page")
	if code, _ := i.get("/"); code != 200 {
		t.Errorf("the flag does not overrule the file: %d", code)
	}
	i.stop()
}
