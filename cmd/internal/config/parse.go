package config

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// Defaults.
const (
	DefaultExport      = "swap"
	DefaultExportSize  = "100%"
	DefaultBackend     = "zcache"
	DefaultBackendSize = "20%"
	DefaultMetrics     = "127.0.0.1:9757"

	DefaultMetricsExports = 200
	noBackend             = "none"
	noMetrics             = "off"
	noMemory              = "off"
)

// Parse makes the configuration of a command line, without the command's name.
// The Config is nil unless the action is ActionRun or ActionCheck.
func Parse(args []string, host Host) (*Config, Action, error) {
	f, action, err := parseFlags(args)
	if err != nil || action == ActionHelp || action == ActionVersion || action == ActionPrint {
		return nil, action, err
	}
	p := parser{host: host, flags: f, config: &Config{Fresh: f.fresh, AllowFaults: f.faults, DonorOnly: f.donor, given: f.given, origins: map[string]origin{}}}
	if f.given["config"] {
		path, err := filepath.Abs(f.config)
		if err != nil {
			return nil, action, fmt.Errorf("--config: %w", err)
		}
		if p.file, p.positions, err = readFile(path); err != nil {
			return nil, action, err
		}
		p.config.origins["config"] = origin{flag: path}
		p.config.written = writtenOf(p.file)
	}
	p.stateDir()
	p.memory()
	if !f.donor {
		p.listen()
	}
	p.metrics()
	p.statusPage()
	p.logLevel()
	p.nbd()     // before exports: their rules depend on TLS
	p.ramster() // before backends: how donors are reached depends on TLS
	if !f.donor {
		p.clients() // before exports, which belong to them
		p.templates()
		p.exports()
		p.bases()
		p.disks()
		p.backends()
	} else {
		p.noDisks()
	}
	p.donor()
	p.hostSettings()
	if len(p.errs) > 0 {
		return nil, action, errors.Join(p.errs...)
	}
	return p.config, action, nil
}

// parser brings flags, file and defaults together, one method for each setting.
type parser struct {
	host      Host
	flags     flags
	file      file
	positions positions
	config    *Config
	errs      []error
	asked     bool // it is a request while the daemon runs, and not a file and flags
}

var indexes = regexp.MustCompile(`\[\d+\]`)

// from records where the value of a key came from: the flag if it was given,
// else the file if the key is in it, else the default.
func (p *parser) from(key, flag string) {
	o := origin{key: indexes.ReplaceAllString(key, "")}
	if p.flags.given[flag] {
		o.flag = "--" + flag
	} else {
		o.pos = p.positions.of[key]
	}
	p.config.origins[key] = o
}

// reject records that the value of a key is wrong. from was called for it.
func (p *parser) reject(key, hint, format string, args ...any) {
	o := p.config.origins[key]
	prefix := o.prefix(p.positions.path)
	if p.asked {
		prefix = key[strings.LastIndexByte(key, '.')+1:] + ": "
	}
	e := cli.Misuse(hint, "%s%s", prefix, fmt.Sprintf(format, args...))
	if o.flag == "" {
		e.Excerpt = p.positions.excerpt(o.pos.line, o.pos.column)
	}
	p.errs = append(p.errs, e)
}

// blame lets a missing key's errors point at the table that it is missing from.
func (p *parser) blame(key, table string) {
	if o := p.config.origins[key]; o.flag == "" && o.pos.line == 0 {
		o.pos = p.positions.of[table]
		p.config.origins[key] = o
	}
}

func (p *parser) stateDir() {
	const key = "state_dir"
	p.from(key, "state-dir")
	switch {
	case p.flags.given["state-dir"]:
		dir, err := filepath.Abs(p.flags.stateDir)
		if err != nil || p.flags.stateDir == "" {
			p.reject(key, "give it the path of a folder", "%q is not a path", p.flags.stateDir)
			return
		}
		p.config.StateDir = dir
	case p.file.StateDir != nil:
		if !filepath.IsAbs(*p.file.StateDir) {
			p.reject(key, "write the whole path, from the / on", "%q is not an absolute path", *p.file.StateDir)
			return
		}
		p.config.StateDir = filepath.Clean(*p.file.StateDir)
	default:
		// Its parents are made if they are missing, so nothing is checked.
		dir, err := p.host.DefaultStateDir()
		if err != nil {
			p.errs = append(p.errs, err)
		}
		p.config.StateDir = dir
		return
	}
	st, err := os.Stat(p.config.StateDir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		p.needFolder(key, p.config.StateDir)
	case err != nil:
		p.reject(key, "give it a folder that you may use", "%v", err)
	case !st.IsDir():
		p.reject(key, "give it a folder, or a path where one can be made", "%s is not a folder", p.config.StateDir)
	}
}

// needFolder checks that a path can be created where it is to be.
func (p *parser) needFolder(key, path string) {
	folder := filepath.Dir(path)
	st, err := os.Stat(folder)
	switch {
	case errors.Is(err, os.ErrNotExist):
		p.reject(key, "create it first: mkdir -p "+folder, "the folder %s does not exist", folder)
	case err != nil:
		p.reject(key, "give it a path that you may use", "%v", err)
	case !st.IsDir():
		p.reject(key, "give it a path in a folder", "%s is not a folder", folder)
	}
}

func (p *parser) listen() {
	texts := p.file.Listen
	if p.flags.given["listen"] {
		texts = p.flags.listen
	}
	if texts == nil {
		p.from("listen[0]", "")
		path := filepath.Join(p.config.StateDir, "nbd.sock")
		// The longest of the names in the folder that are sockets.
		if err := checkSocketPath(filepath.Join(p.config.StateDir, "admin.sock")); err != nil {
			p.config.origins["listen[0]"] = p.config.origins["state_dir"]
			p.reject("listen[0]", "use a state folder with a shorter path", "%v", err)
		}
		p.config.Listen = []Address{{Network: "unix", Address: path}}
		return
	}
	if len(texts) == 0 {
		p.from("listen", "")
		p.reject("listen", "leave it out to serve on nbd.sock in the state folder", "no address to serve on")
	}
	for i, text := range texts {
		key := fmt.Sprintf("listen[%d]", i)
		p.from(key, "listen")
		a, err := parseAddress(text)
		switch {
		case err != nil:
			p.reject(key, addressSyntax, "%v", err)
			continue
		case a.Network == "unix" && filepath.Dir(a.Address) != p.config.StateDir:
			p.needFolder(key, a.Address)
		}
		if slices.Contains(p.config.Listen, a) && !strings.HasSuffix(a.Address, ":0") {
			p.reject(key, "remove one of them", "%s is there twice", a)
		}
		p.config.Listen = append(p.config.Listen, a)
	}
}

func (p *parser) metrics() {
	const key = "metrics"
	p.from(key, "metrics")
	switch {
	case p.flags.given["metrics"]:
		p.config.Metrics, p.config.MetricsChosen = p.flags.metrics, true
	case p.file.Metrics != nil:
		p.config.Metrics, p.config.MetricsChosen = *p.file.Metrics, true
	default:
		p.config.Metrics = DefaultMetrics
	}
	if p.config.Metrics == noMetrics {
		p.config.Metrics = ""
		return
	}
	if err := checkHostPort(p.config.Metrics); err != nil {
		p.reject(key, "write HOST:PORT, where port 0 picks a free one, or off", "%v", err)
	}
}

// maxMetricsExports bounds a scrape to some hundred thousand series.
const maxMetricsExports = 10_000

func (p *parser) statusPage() {
	const key = "metrics_exports"
	p.from(key, "")
	p.config.MetricsExports = DefaultMetricsExports
	if n := p.file.MetricsExports; n != nil {
		if p.config.MetricsExports = *n; *n < 0 || *n > maxMetricsExports {
			p.reject(key, fmt.Sprintf("write a number from 0 to %d", maxMetricsExports), "%d is out of range", *n)
		}
	}
	p.from("status_page", "status-page")
	p.config.StatusPage = p.flags.status
	if p.file.StatusPage != nil && !p.flags.given["status-page"] {
		p.config.StatusPage = *p.file.StatusPage
	}
}

func (p *parser) logLevel() {
	const key = "log_level"
	p.from(key, "log-level")
	text := "info"
	switch {
	case p.flags.given["log-level"]:
		text = p.flags.logLevel
	case p.file.LogLevel != nil:
		text = *p.file.LogLevel
	}
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}
	level, known := levels[strings.ToLower(text)]
	if !known {
		p.reject(key, "write debug, info, warn or error", "%q is not a level", text)
	}
	p.config.LogLevel = level
}
