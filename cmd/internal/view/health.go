package view

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// Levels of trouble.
const (
	Bad  = "problem" // pages are or can be lost, or requests fail
	Warn = "warning" // works, less well than it could
	Busy = "busy"    // something is under way
)

// Trouble is something that is not as it should be.
type Trouble struct {
	Level string
	Text  string
	Cure  string // may be empty, if it ends by itself
}

const (
	// expiresSoon is when a certificate is worth a word.
	expiresSoon = 14 * 24 * time.Hour
	// fullShare is how much of its limit a backend has that counts as full.
	fullShare = 0.97
)

var phaseTexts = map[string]string{
	admin.PhaseServing:  "serving",
	admin.PhaseDraining: "stopping: moving pages to storage",
	admin.PhaseWaiting:  "stopping: waiting for clients to leave",
	admin.PhaseSettling: "stopping: completing storage",
}

// Health says what is wrong with a daemon, the worst first; nothing if it is healthy.
func Health(s admin.Status, now time.Time) (all []Trouble) {
	add := func(level, cure, format string, args ...any) {
		all = append(all, Trouble{level, Plain(fmt.Sprintf(format, args...)), cure})
	}
	if s.Phase != admin.PhaseServing {
		cure := ""
		if s.Phase == admin.PhaseWaiting {
			cure = "tmemctl detach on the clients, or swapoff and nbd-client -d"
		}
		add(Busy, cure, "%s", phaseTexts[s.Phase])
	}
	exportHealth(s, add)
	for _, b := range s.Backends {
		backendHealth(b, add)
	}
	if len(s.Backends) == 0 && len(s.Exports) > 0 && s.Phase == admin.PhaseServing {
		add(Warn, "tmemctl backend load zcache", "no backend is loaded: pages go to storage")
	}
	var refused []string
	for _, p := range s.Protection {
		if p.State == "refused" {
			refused = append(refused, p.Measure)
		}
	}
	if len(refused) > 0 {
		add(Warn, "tmemctl doctor says why; it matters if this host swaps to itself", "not fully protected for swap of this host: %s refused", strings.Join(refused, ", "))
	}
	if s.TLS != nil {
		left := s.TLS.Expires.Sub(now)
		switch {
		case left <= 0:
			add(Bad, "put a new certificate in its place, then tmemctl reload", "the certificate %s expired on %s", s.TLS.Certificate, s.TLS.Expires.UTC().Format(time.DateOnly))
		case left < expiresSoon:
			add(Warn, "put a new certificate in its place, then tmemctl reload", "the certificate %s expires in %d days", s.TLS.Certificate, int(left.Hours()/24))
		}
	}
	slices.SortStableFunc(all, func(a, b Trouble) int { return levelOrder(a.Level) - levelOrder(b.Level) })
	return all
}

func levelOrder(level string) int { return slices.Index([]string{Bad, Busy, Warn}, level) }

// exportHealth counts what is wrong over all exports: a thousand of them on one bad
// disk are one line.
func exportHealth(s admin.Status, add func(level, cure, format string, args ...any)) {
	type kind struct {
		cure, text string
		count      func(e admin.Export) uint64
	}
	for _, k := range []kind{
		{"tmemctl detach on the clients gives them up; make the swap area anew", "%s pages are lost (%s): reading them is an I/O error",
			func(e admin.Export) uint64 { return uint64(max(e.Pages.Lost, 0)) }},
		{"look at the disk: dmesg, and the daemon's log (tmemctl log)", "storage failed %s times (%s)",
			func(e admin.Export) uint64 {
				return e.Storage.ReadErrors + e.Storage.WriteErrors + e.Storage.PunchErrors
			}},
		{"the daemon's log says why: tmemctl log --level warn", "%s requests were answered with an error (%s)",
			func(e admin.Export) uint64 {
				failed := uint64(0)
				for _, n := range e.Errors {
					failed += n
				}
				return failed
			}},
	} {
		total, names := uint64(0), []string(nil)
		for _, e := range s.Exports {
			if n := k.count(e); n > 0 {
				total += n
				names = append(names, e.Name)
			}
		}
		if total > 0 {
			add(Bad, k.cure, k.text, count(total), some(names))
		}
	}
}

// some names the first few.
func some(names []string) string {
	const most = 3
	if len(names) > most+1 {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}

func backendHealth(b admin.Backend, add func(level, cure, format string, args ...any)) {
	reason := ""
	if b.Reason != "" {
		reason = ": " + b.Reason
	}
	switch b.State {
	case "failed":
		add(Bad, "tmemctl backend unload "+b.Name+" moves what can be read to storage", "backend %s failed%s", b.Name, reason)
	case "frozen":
		add(Warn, "tmemctl backend thaw "+b.Name, "backend %s is frozen%s: it takes no pages", b.Name, reason)
	}
	if b.Drain != nil && b.Drain.Running {
		share := 1.0
		if b.Drain.Total > 0 {
			share = 1 - float64(min(b.Drain.Left, b.Drain.Total))/float64(b.Drain.Total)
		}
		text := fmt.Sprintf("pages of %s are being moved: %.0f %%, %s left", b.Name, 100*share, pages(int64(b.Drain.Left)))
		if b.Drain.SecondsLeft > 0 {
			text += ", " + age(time.Duration(b.Drain.SecondsLeft*float64(time.Second)))
		}
		add(Busy, "", "%s", text)
	}
	if b.CorruptLoads > 0 {
		add(Bad, "test the memory (memtester, EDAC in dmesg); tmemctl backend unload "+b.Name, "%s found %s damaged pages", b.Name, count(b.CorruptLoads))
	}
	if b.LoadErrors > b.CorruptLoads {
		add(Bad, "the daemon's log says why: tmemctl log --level warn", "%s could not deliver %s pages", b.Name, count(b.LoadErrors-b.CorruptLoads))
	}
	switch {
	case b.LimitBytes < b.MaxBytes:
		add(Warn, "it grows back by itself; more memory, or less at once, helps", "%s may take %s of %s: the host is or was short of memory", b.Name, cli.Bytes(b.LimitBytes), cli.Bytes(b.MaxBytes))
	case b.LimitBytes > 0 && float64(b.HeldBytes) >= fullShare*float64(b.LimitBytes):
		add(Warn, "tmemctl backend set "+b.Name+" max_pool=SIZE, if there is memory to spare", "%s is full (%s): the coldest pages go to storage", b.Name, cli.Bytes(b.LimitBytes))
	}
}

// pages spells so many pages in bytes.
func pages(n int64) string { return cli.Bytes(uint64(max(n, 0)) * backends.PageSize) }

// age spells a time for a human: two units at most.
func age(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%ds", int(d.Seconds()))
}

// sumOf adds up what is counted by names.
func sumOf[N int64 | uint64](by map[string]N) (sum N) {
	for n := range maps.Values(by) {
		sum += n
	}
	return sum
}
