package backendtest_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

// TestMapConformance also shows that the suite keeps the caller's side of the
// contract.
func TestMapConformance(t *testing.T) {
	for name, limit := range map[string]int{"unlimited": 0, "limited": 2048} {
		t.Run(name, func(t *testing.T) {
			backendtest.Run(t, func(t *testing.T) backends.Backend {
				m := &backendtest.Map{Limit: limit}
				t.Cleanup(func() {
					if err := m.Misuse(); err != nil {
						t.Errorf("the suite breaks the contract: %v", err)
					}
				})
				return m
			})
		})
	}
}

var key = backends.Key{Export: 1, Page: 7}

func newMap(t *testing.T, m *backendtest.Map) *backendtest.Map {
	t.Helper()
	if err := m.Init(backends.Export{ID: 1, Pages: 64}); err != nil {
		t.Fatal(err)
	}
	return m
}

func mustStore(t *testing.T, m *backendtest.Map, seed uint64) backends.Handle {
	t.Helper()
	handle, refusal, err := m.Store(key, backendtest.Mixed(seed))
	if err != nil || refusal != backends.Accepted {
		t.Fatalf("Store: %v, %v", refusal, err)
	}
	return handle
}

func TestMapHooks(t *testing.T) {
	failure := errors.New("no such luck")
	dst := make([]byte, backends.PageSize)

	t.Run("refuse", func(t *testing.T) {
		m := newMap(t, &backendtest.Map{OnStore: func(backends.Key, []byte) (backends.Refusal, error) {
			return backends.RefusedBusy, nil
		}})
		if _, refusal, err := m.Store(key, backendtest.Mixed(1)); refusal != backends.RefusedBusy || err != nil {
			t.Errorf("Store: %v, %v", refusal, err)
		}
		if got := m.Stats().Refused[backends.RefusedBusy]; got != 1 {
			t.Errorf("%d refusals counted, want 1", got)
		}
	})
	t.Run("fail", func(t *testing.T) {
		m := &backendtest.Map{
			OnInit:  func(backends.Export) error { return failure },
			OnStore: func(backends.Key, []byte) (backends.Refusal, error) { return 0, failure },
			OnClose: func() error { return failure },
		}
		if err := m.Init(backends.Export{ID: 1}); !errors.Is(err, failure) {
			t.Errorf("Init: %v", err)
		}
		if _, _, err := m.Store(key, backendtest.Mixed(1)); !errors.Is(err, failure) {
			t.Errorf("Store: %v", err)
		}
		if err := m.Close(); !errors.Is(err, failure) {
			t.Errorf("Close: %v", err)
		}
		if stats := m.Stats(); stats.Pages != 0 || stats.Refused != [backends.Refusals]uint64{} {
			t.Errorf("failed calls left %+v", stats)
		}
	})
	t.Run("lie", func(t *testing.T) {
		m := newMap(t, &backendtest.Map{OnLoad: func(_ backends.Key, _ backends.Handle, dst []byte) error {
			clear(dst)
			return nil
		}})
		handle := mustStore(t, m, 1)
		if err := m.Load(key, handle, dst); err != nil || !bytes.Equal(dst, make([]byte, len(dst))) {
			t.Errorf("Load: %v, or dst not as the hook left it", err)
		}
	})
	t.Run("corrupt", func(t *testing.T) {
		m := newMap(t, &backendtest.Map{OnLoad: func(backends.Key, backends.Handle, []byte) error {
			return backends.ErrCorrupt
		}})
		handle := mustStore(t, m, 1)
		if err := m.Load(key, handle, dst); !errors.Is(err, backends.ErrCorrupt) || m.Stats().CorruptLoads != 1 {
			t.Errorf("Load: %v, %d corrupt loads counted", err, m.Stats().CorruptLoads)
		}
	})
}

func TestMapMisuse(t *testing.T) {
	for _, test := range []struct {
		name string
		use  func(*testing.T, *backendtest.Map)
		want bool
	}{
		{"proper use", func(t *testing.T, m *backendtest.Map) {
			older, newer := mustStore(t, m, 1), mustStore(t, m, 2)
			m.Invalidate(key, older)
			m.Invalidate(key, newer)
			m.InvalidateArea(1)
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}, false},
		{"dead handle", func(t *testing.T, m *backendtest.Map) {
			handle := mustStore(t, m, 1)
			m.Invalidate(key, handle)
			m.Invalidate(key, handle)
		}, true},
		{"wrong key", func(t *testing.T, m *backendtest.Map) {
			m.Invalidate(backends.Key{Export: 1, Page: 8}, mustStore(t, m, 1))
		}, true},
		{"area with pages", func(t *testing.T, m *backendtest.Map) {
			mustStore(t, m, 1)
			m.InvalidateArea(1)
		}, true},
		{"area twice", func(t *testing.T, m *backendtest.Map) {
			m.InvalidateArea(1)
			m.InvalidateArea(1)
		}, true},
		{"close with exports", func(t *testing.T, m *backendtest.Map) { m.Close() }, true},
		{"init after close", func(t *testing.T, m *backendtest.Map) {
			m.InvalidateArea(1)
			m.Close()
			if m.Init(backends.Export{ID: 2}) == nil {
				t.Error("Init after Close succeeded")
			}
		}, true},
		{"short page", func(t *testing.T, m *backendtest.Map) {
			if _, _, err := m.Store(key, make([]byte, 512)); err == nil {
				t.Error("Store of 512 bytes succeeded")
			}
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMap(t, &backendtest.Map{})
			test.use(t, m)
			if err := m.Misuse(); (err != nil) != test.want {
				t.Errorf("Misuse: %v, want one: %v", err, test.want)
			}
		})
	}
}

// TestMapOverlap lets calls for one key overlap: loads may, others not.
func TestMapOverlap(t *testing.T) {
	for _, test := range []struct {
		name   string
		second func(m *backendtest.Map, handle backends.Handle)
		want   bool
	}{
		{"load", func(m *backendtest.Map, handle backends.Handle) {
			m.Stats()
			m.Store(backends.Key{Export: 1, Page: 8}, backendtest.Mixed(8))
		}, false},
		{"invalidate", func(m *backendtest.Map, handle backends.Handle) { m.Invalidate(key, handle) }, true},
		{"store", func(m *backendtest.Map, _ backends.Handle) { m.Store(key, backendtest.Mixed(2)) }, true},
		{"area", func(m *backendtest.Map, _ backends.Handle) { m.InvalidateArea(1) }, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			inside, leave, done := make(chan struct{}), make(chan struct{}), make(chan error)
			m := newMap(t, &backendtest.Map{OnLoad: func(backends.Key, backends.Handle, []byte) error {
				inside <- struct{}{}
				<-leave
				return nil
			}})
			handle := mustStore(t, m, 1)
			for range 2 { // two loads at once are fine
				go func() { done <- m.Load(key, handle, make([]byte, backends.PageSize)) }()
				<-inside
			}
			test.second(m, handle)
			close(leave)
			for range 2 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			if err := m.Misuse(); (err != nil) != test.want {
				t.Errorf("Misuse: %v, want one: %v", err, test.want)
			}
		})
	}
}

// TestMapEphemeral also shows that the suite keeps the caller's side, but where it
// makes a handle that is dead to anybody but itself.
func TestMapEphemeral(t *testing.T) {
	backendtest.RunEphemeral(t, func(t *testing.T) backends.Backend {
		m := &backendtest.Map{Limit: 2048}
		t.Cleanup(func() {
			if err := m.Misuse(); err != nil && !strings.HasSuffix(t.Name(), "/WrongKey") {
				t.Errorf("the suite breaks the contract: %v", err)
			}
		})
		return m
	})
}

// TestMapEphemeralMisuse: what the contract forbids to callers with ephemeral exports.
func TestMapEphemeralMisuse(t *testing.T) {
	disk := backends.Key{Export: 2, Page: 9}
	for name, misuse := range map[string]func(*backendtest.Map, backends.Handle){
		"a second handle of a key": func(m *backendtest.Map, _ backends.Handle) {
			m.Store(disk, backendtest.Mixed(2))
		},
		"a forgotten handle invalidated twice": func(m *backendtest.Map, h backends.Handle) {
			m.Drop(func(backends.Key) bool { return true })
			m.Invalidate(disk, h)
			m.Invalidate(disk, h)
		},
		"a forgotten handle left behind": func(m *backendtest.Map, _ backends.Handle) {
			m.Drop(func(backends.Key) bool { return true })
			m.InvalidateArea(2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := &backendtest.Map{}
			if err := m.Init(backends.Export{ID: 2, Pages: 64, Ephemeral: true}); err != nil {
				t.Fatal(err)
			}
			handle, refusal, err := m.Store(disk, backendtest.Mixed(1))
			if err != nil || refusal != backends.Accepted || m.Misuse() != nil {
				t.Fatalf("Store: %v, %v; %v", refusal, err, m.Misuse())
			}
			misuse(m, handle)
			if m.Misuse() == nil {
				t.Error("not found out")
			}
		})
	}
}
