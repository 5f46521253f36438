//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPromtoolMetrics: what a daemon at work exposes is as Prometheus' own linter wants it.
func TestPromtoolMetrics(t *testing.T) {
	d := start(t, t.TempDir(), "--size", "16MiB")
	c := d.dial("unix")
	load := startChurn(c, 0, 1000)
	answer, err := http.Get(d.status().Metrics)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if err != nil {
		t.Fatal(err)
	}
	promtool := command(t.Context(), "promtool", "check", "metrics")
	promtool.Stdin = strings.NewReader(string(text))
	if output, err := promtool.CombinedOutput(); err != nil || len(output) > 0 {
		t.Errorf("promtool: %v\n%s", err, output)
	}
	load.stop(t)
	if err := c.leave(); err != nil {
		t.Error(err)
	}
	d.stop()
}

// TestPromtoolRules: the rules are rules, and their own tests pass.
func TestPromtoolRules(t *testing.T) {
	run(t, "promtool", "check", "rules", "../prometheus/alerts.yml")
	if output := run(t, "promtool", "test", "rules", "../prometheus/alerts_test.yml"); !strings.Contains(output, "SUCCESS") {
		t.Error(output)
	}
}

// TestPromtoolDashboard: each query of the dashboard is one that Prometheus can parse, of a panel with
// a unit, and no two panels lie on each other.
func TestPromtoolDashboard(t *testing.T) {
	text, err := os.ReadFile("../grafana/tmemd.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		UID    string
		Panels []struct {
			ID          int
			Type, Title string
			GridPos     struct{ X, Y, W, H int }
			Datasource  struct{ UID string }
			Targets     []struct{ Expr string }
			FieldConfig struct{ Defaults struct{ Unit string } }
		}
		Templating struct{ List []struct{ Name string } }
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	// As rules: promtool parses no single query.
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	queries, ids, taken := 0, map[int]bool{}, map[[2]int]string{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the number %d", p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x > 23 {
					t.Errorf("%q lies on %q, or beyond the edge", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Datasource.UID != "${datasource}" || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
			t.Errorf("%q has no data source of the variable, no unit or no query", p.Title)
		}
		for _, target := range p.Targets {
			queries++
			expression := strings.NewReplacer("$__rate_interval", "1m", "$job", ".*", "$instance", ".*", "$export", ".*").Replace(target.Expr)
			fmt.Fprintf(&rules, "  - record: dashboard:query:q%d\n    expr: %q\n", queries, expression)
		}
	}
	if queries < 50 || dashboard.UID == "" || len(dashboard.Templating.List) != 4 {
		t.Errorf("%d queries, variables %v", queries, dashboard.Templating.List)
	}
	path := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(path, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if output := run(t, "promtool", "check", "rules", path); !strings.Contains(output, fmt.Sprintf("%d rules found", queries)) {
		t.Error(output)
	}
}
