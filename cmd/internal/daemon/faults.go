package daemon

import (
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/fault"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/tier"
)

// Parts that have rules, as admin.Fault spells them, and what they do.
const (
	partBackend = "backend"
	partStorage = "storage"
)

var partOperations = map[string][]fault.Operation{
	partBackend: {fault.Any, fault.Store, fault.Load},
	partStorage: {fault.Any, fault.Read, fault.Write, fault.Punch, fault.Sync},
}

// faults are the rules of everything that is loaded. Without --allow-faults
// there are none, and nothing is between a backend or storage and its caller.
type faults struct {
	allowed bool // immutable

	mu      sync.Mutex
	targets []faultTarget // guarded by mu
}

type faultTarget struct {
	part, name string
	rules      *fault.Rules
}

// backend puts rules before a backend.
func (f *faults) backend(name string, b backends.Backend) backends.Backend {
	if !f.allowed {
		return b
	}
	wrapped := fault.New(b)
	f.add(faultTarget{part: partBackend, name: name, rules: wrapped.Rules})
	return wrapped
}

// storage puts rules before storage.
func (f *faults) storage(name string, s tier.Storage) tier.Storage {
	if !f.allowed {
		return s
	}
	wrapped := tier.NewFaultyStorage(s)
	f.add(faultTarget{part: partStorage, name: name, rules: wrapped.Rules})
	return wrapped
}

func (f *faults) add(t faultTarget) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.targets = append(f.targets, t)
}

// forget drops the rules of a backend that was not loaded after all.
func (f *faults) forget(b backends.Backend) {
	wrapped, ok := b.(*fault.Backend)
	if !ok {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.targets = slices.DeleteFunc(f.targets, func(t faultTarget) bool { return t.rules == wrapped.Rules })
}

// keep drops the targets of that part that are not there any more. Of several
// with one name the latest counts, as the ones before are gone.
func (f *faults) keep(part string, there func(name string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen := map[string]bool{}
	for i := len(f.targets) - 1; i >= 0; i-- {
		t := f.targets[i]
		if t.part != part {
			continue
		}
		if seen[t.name] || !there(t.name) {
			f.targets = slices.Delete(f.targets, i, i+1)
		}
		seen[t.name] = true
	}
}

func (f *faults) list() []faultTarget {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.targets)
}

// faultTargets lists what has rules. What is gone is forgotten on the way; not
// while something is being loaded, which is in one list and not yet in the
// other.
func (d *Daemon) faultTargets() ([]faultTarget, error) {
	if !d.faults.allowed {
		return nil, &admin.Error{
			Status: http.StatusForbidden, Message: "this tmemd does not let anybody make it fail",
			Hint: "start it with --allow-faults to rehearse failures",
		}
	}
	d.loading.Lock()
	defer d.loading.Unlock()
	d.faults.keep(partStorage, func(name string) bool {
		return slices.ContainsFunc(d.list(), func(e *export) bool { return e.Name == name }) ||
			d.findDisk(name) != nil ||
			slices.ContainsFunc(d.bases, func(s *servedBase) bool { return s.Name == name })
	})
	if !d.moves.replacing() {
		d.faults.keep(partBackend, func(name string) bool {
			_, found := findBackend(d.frontswap, name)
			return found
		})
	}
	return d.faults.list(), nil
}

func (t faultTarget) show() admin.Fault {
	shown := admin.Fault{Target: t.name, Part: t.part, Rules: []admin.FaultRule{}}
	for _, s := range t.rules.Status() {
		shown.Rules = append(shown.Rules, admin.FaultRule{Rule: s.Rule.String(), Fired: s.Fired})
	}
	return shown
}

// Faults implements admin.Service.
func (s service) Faults() ([]admin.Fault, error) {
	targets, err := s.d.faultTargets()
	if err != nil {
		return nil, err
	}
	shown := []admin.Fault{}
	for _, t := range targets {
		shown = append(shown, t.show())
	}
	return shown, nil
}

// SetFaults implements admin.Service.
func (s service) SetFaults(name string, texts []string) (admin.Fault, error) {
	targets, err := s.d.faultTargets()
	if err != nil {
		return admin.Fault{}, err
	}
	t, err := findTarget(targets, name)
	if err != nil {
		return admin.Fault{}, err
	}
	rules := make([]fault.Rule, 0, len(texts))
	for _, text := range texts {
		rule, err := fault.Parse(text)
		if err == nil && !slices.Contains(partOperations[t.part], rule.Operation) {
			err = fmt.Errorf("rule %q: %s %s has no operation %s", text, t.part, t.name, rule.Operation)
		}
		if err != nil {
			return admin.Fault{}, &admin.Error{
				Status: http.StatusBadRequest, Message: err.Error(),
				Hint: fmt.Sprintf("OPERATION [pages=FIRST-LAST] [every=N] [times=N] ACTION; operations of %s: %v; "+
					"actions: refuse, error, transient, full, corrupt, gone, delay=TIME", t.part, partOperations[t.part]),
			}
		}
		rules = append(rules, rule)
	}
	t.rules.Set(rules)
	s.d.log.Warn("faults are set", "part", t.part, "target", t.name, "rules", texts)
	return t.show(), nil
}

// findTarget finds NAME, or PART:NAME if a backend and an export share the name.
func findTarget(targets []faultTarget, name string) (faultTarget, error) {
	var found []faultTarget
	for _, t := range slices.Backward(targets) {
		again := slices.ContainsFunc(found, func(other faultTarget) bool { return other.part == t.part })
		if !again && (name == t.name || name == t.part+":"+t.name) {
			found = append(found, t)
		}
	}
	switch len(found) {
	case 0:
		return faultTarget{}, &admin.Error{
			Status: http.StatusNotFound, Message: "there is no backend, export or disk " + name, Hint: "tmemctl fault list shows what can fail",
		}
	case 1:
		return found[0], nil
	}
	return faultTarget{}, &admin.Error{
		Status: http.StatusBadRequest, Message: "both a backend and an export are called " + name,
		Hint: fmt.Sprintf("say %s:%s or %s:%s", partBackend, name, partStorage, name),
	}
}
