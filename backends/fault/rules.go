package fault

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends"
)

// Operation is what a rule is about.
type Operation string

// The operations. Any matches all of them.
const (
	Any   Operation = "any"
	Store Operation = "store" // of a backend
	Load  Operation = "load"  // of a backend
	Read  Operation = "read"  // of storage
	Write Operation = "write" // of storage
	Punch Operation = "punch" // of storage
	Sync  Operation = "sync"  // of storage
)

// Action is what a rule does.
type Action string

// The actions.
const (
	Refuse    Action = "refuse"
	Error     Action = "error"
	Transient Action = "transient"
	Full      Action = "full"
	Corrupt   Action = "corrupt"
	Gone      Action = "gone" // of pages that may vanish
	Delay     Action = "delay"
)

// allowed says which operations an action makes sense for.
var allowed = map[Action][]Operation{
	Refuse:    {Store},
	Error:     {Any, Store, Load, Read, Write, Punch, Sync},
	Transient: {Any, Store, Load},
	Full:      {Write},
	Corrupt:   {Load, Read},
	Gone:      {Load},
	Delay:     {Any, Store, Load, Read, Write, Punch, Sync},
}

// Rule is one line of the language in the package comment.
type Rule struct {
	Operation   Operation
	First, Last uint64 // pages, both included
	Every       uint64 // 1 or more
	Times       uint64 // 0: for ever
	Action      Action
	Delay       time.Duration // with Action Delay
}

// Parse reads a rule.
func Parse(text string) (Rule, error) {
	r, err := parse(strings.Fields(text))
	if err != nil {
		return Rule{}, fmt.Errorf("rule %q: %w", text, err)
	}
	return r, nil
}

func parse(words []string) (Rule, error) {
	r := Rule{Last: backends.MaxPages - 1, Every: 1}
	if len(words) < 2 {
		return r, errors.New("it needs an operation and an action, as in \"load every=10 corrupt\"")
	}
	r.Operation = Operation(words[0])
	for _, word := range words[1:] {
		if r.Action != "" {
			return r, fmt.Errorf("%q follows the action, which comes last", word)
		}
		if err := r.set(strings.Cut(word, "=")); err != nil {
			return r, err
		}
	}
	if r.Action == "" {
		return r, errors.New("the action is missing")
	}
	for _, operation := range allowed[r.Action] {
		if operation == r.Operation {
			return r, nil
		}
	}
	return r, fmt.Errorf("%s cannot %s: it goes with %v", r.Operation, r.Action, allowed[r.Action])
}

func (r *Rule) set(key, value string, hasValue bool) (err error) {
	switch {
	case key == "pages" && hasValue:
		first, last, isRange := strings.Cut(value, "-")
		if !isRange {
			last = first
		}
		r.First, err = number(first, 0)
		if err == nil {
			r.Last, err = number(last, r.First)
		}
	case key == "every" && hasValue:
		r.Every, err = number(value, 1)
	case key == "times" && hasValue:
		r.Times, err = number(value, 1)
	case key == string(Delay) && hasValue:
		r.Action = Delay
		r.Delay, err = time.ParseDuration(value)
		if err == nil && (r.Delay < 0 || r.Delay > time.Hour) {
			err = errors.New("a delay is between 0 and 1h")
		}
	case !hasValue && Action(key) != Delay && allowed[Action(key)] != nil:
		r.Action = Action(key)
	default:
		err = fmt.Errorf("%q is not known", key)
	}
	return err
}

func number(text string, least uint64) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < least || n >= backends.MaxPages {
		return 0, fmt.Errorf("%q is not a number from %d to %d", text, least, uint64(backends.MaxPages-1))
	}
	return n, nil
}

// String writes the rule so that Parse reads it.
func (r Rule) String() string {
	words := []string{string(r.Operation)}
	if r.First != 0 || r.Last != backends.MaxPages-1 {
		words = append(words, fmt.Sprintf("pages=%d-%d", r.First, r.Last))
	}
	if r.Every != 1 {
		words = append(words, fmt.Sprintf("every=%d", r.Every))
	}
	if r.Times != 0 {
		words = append(words, fmt.Sprintf("times=%d", r.Times))
	}
	if r.Action == Delay {
		return strings.Join(append(words, "delay="+r.Delay.String()), " ")
	}
	return strings.Join(append(words, string(r.Action)), " ")
}

// Rules is a list of rules and how often each matched. The zero value has none.
// All methods are safe for concurrent use.
type Rules struct {
	mu     sync.Mutex
	active []activeRule // guarded by mu
}

type activeRule struct {
	Rule
	matched uint64
	fired   uint64
}

// Set replaces the rules; counting starts anew.
func (r *Rules) Set(rules []Rule) {
	active := make([]activeRule, len(rules))
	for i, rule := range rules {
		active[i].Rule = rule
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active = active
}

// Status is a rule and how often it did its work.
type Status struct {
	Rule  Rule
	Fired uint64
}

// Status returns the rules in order.
func (r *Rules) Status() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	status := make([]Status, len(r.active))
	for i, a := range r.active {
		status[i] = Status{a.Rule, a.fired}
	}
	return status
}

// Next returns what is to happen to an operation on n pages from first on, after
// it has waited as long as the rules say: "" for nothing. An operation without
// pages has n 0 and matches rules for all pages only.
func (r *Rules) Next(o Operation, first, n uint64) Action {
	action, wait := r.decide(o, first, n)
	if wait > 0 {
		time.Sleep(wait)
	}
	return action
}

func (r *Rules) decide(o Operation, first, n uint64) (Action, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var wait time.Duration
	for i := range r.active {
		a := &r.active[i]
		if !a.fires(o, first, n) {
			continue
		}
		if a.Action != Delay {
			return a.Action, wait
		}
		wait += a.Delay
	}
	return "", wait
}

func (a *activeRule) fires(o Operation, first, n uint64) bool {
	everywhere := a.First == 0 && a.Last == backends.MaxPages-1
	switch {
	case a.Operation != Any && a.Operation != o:
		return false
	case !everywhere && (n == 0 || first > a.Last || first+n-1 < a.First):
		return false
	case a.Times > 0 && a.fired == a.Times:
		return false
	}
	a.matched++
	if a.matched%a.Every != 0 {
		return false
	}
	a.fired++
	return true
}

// Err is the error that the action stands for, or nil.
func (a Action) Err() error {
	switch a {
	case Error:
		return fmt.Errorf("injected: %w", unix.EIO)
	case Transient:
		return fmt.Errorf("injected: %w: %w", backends.ErrTransient, unix.EIO)
	case Full:
		return fmt.Errorf("injected: %w", unix.ENOSPC)
	}
	return nil
}
