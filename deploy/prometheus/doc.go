// Package prometheus holds alerts and recording rules for Prometheus, what to do when one
// fires, and the tests that both are complete. Nobody imports it.
//
//	alerts.yml       alerts and recording rules, to be loaded as they are (rule_files)
//	alerts_test.yml  promtool's tests: each alert fires, and does not
//	RUNBOOK.md       an entry for each alert, which its runbook_url leads to
//
// ../grafana/tmemd.json is the dashboard: import it, and choose the Prometheus that scrapes the
// daemons. The job is to be called "tmemd":
//
//	scrape_configs:
//	  - job_name: tmemd
//	    static_configs: [{targets: ["node1:9757"]}]
//
// # Rules
//
//	R1  Each metric, label and value that is asked for exists: package daemon starts a daemon with
//	    all of its parts and compares.
//	R2  promtool and Grafana's queries have no complaint: interop's tests ask promtool.
//	R3  An alert says something is wrong that somebody can do something about, and its entry in the
//	    runbook says what. Full pools are a warning and lost pages are critical, never the other way.
package prometheus
