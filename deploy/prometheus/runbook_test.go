package prometheus

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func submatches(text, pattern string) (all []string) {
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

// TestRunbook: each alert has a severity and a link to an entry that is there, and each entry is of
// an alert.
func TestRunbook(t *testing.T) {
	rules, runbook := read(t, "alerts.yml"), read(t, "RUNBOOK.md")
	alerts := submatches(rules, `(?m)^      - alert: (\w+)$`)
	if len(alerts) < 20 {
		t.Fatalf("only %d alerts", len(alerts))
	}
	headings := submatches(runbook, `(?m)^## (\w+)$`)
	if !slices.Equal(alerts, headings) {
		t.Errorf("alerts %v\nentries %v", alerts, headings)
	}
	for _, part := range strings.Split(rules, "      - alert: ")[1:] {
		name, _, _ := strings.Cut(part, "\n")
		// A heading's anchor is its text in lower case.
		if !strings.Contains(part, "/deploy/prometheus/RUNBOOK.md#"+strings.ToLower(name)+"\n") {
			t.Errorf("%s has no link to its entry", name)
		}
		if !regexp.MustCompile(`severity: (critical|warning|info)\n`).MatchString(part) || !strings.Contains(part, "summary: ") {
			t.Errorf("%s has no severity, or no summary", name)
		}
	}
	for _, entry := range strings.Split(runbook, "\n## ")[1:] {
		name, _, _ := strings.Cut(entry, "\n")
		if !strings.Contains(entry, "\nLook at:\n") || !strings.Contains(entry, "\nDo: ") {
			t.Errorf("the entry of %s does not say where to look, or what to do", name)
		}
	}
}

// TestAlertsAreTested: there is a case in which each alert fires, and one in which it does not.
func TestAlertsAreTested(t *testing.T) {
	tests := read(t, "alerts_test.yml")
	for _, name := range submatches(read(t, "alerts.yml"), `(?m)^      - alert: (\w+)$`) {
		fires, quiet := 0, 0
		for _, part := range strings.Split(tests, "alertname: "+name+"\n")[1:] {
			if strings.HasPrefix(strings.TrimSpace(part), "exp_alerts: []") {
				quiet++
			} else {
				fires++
			}
		}
		if fires == 0 || quiet == 0 {
			t.Errorf("%s fires in %d cases, and does not in %d", name, fires, quiet)
		}
	}
}
