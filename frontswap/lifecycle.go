package frontswap

import "fmt"

// State is where a backend is in its life.
type State uint8

// The life of a backend:
//
//	state       takes stores  serves loads  leaves to
//	registered  no            –             active (initialised for every area), gone (an init failed);
//	                                        after a takeover what it was: active, frozen or failed
//	active      yes           yes           frozen (freeze), draining (unregister), failed (a store or load failed)
//	frozen      no            yes           active (thaw), draining (unregister)
//	draining    no            yes           gone (no page left), frozen (drain stopped)
//	failed      no            tries         draining (unregister)
//	gone        no            –
const (
	StateRegistered State = iota
	StateActive
	StateDraining
	StateFrozen
	StateFailed
	StateGone
)

var stateNames = [...]string{"registered", "active", "draining", "frozen", "failed", "gone"}

// String returns the state as metrics and the admin API spell it.
func (s State) String() string { return stateNames[s] }

// transitions lists every legal step; nothing else changes a state.
var transitions = [...][]State{
	StateRegistered: {StateActive, StateGone, StateFrozen, StateFailed},
	StateActive:     {StateFrozen, StateDraining, StateFailed},
	StateDraining:   {StateGone, StateFrozen},
	StateFrozen:     {StateActive, StateDraining},
	StateFailed:     {StateDraining},
	StateGone:       {},
}

// moveLocked takes s to the state to, for the reason given (empty when all is
// well). It is the only place that changes a state. REQUIRES: Frontswap.mu held.
func (s *slot) moveLocked(to State, reason string) error {
	for _, legal := range transitions[s.state] {
		if legal == to {
			s.state, s.reason = to, reason
			return nil
		}
	}
	return fmt.Errorf("backend %s is %s and cannot become %s", s.name, s.state, to)
}
