package backendtest_test

import (
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

// broken is the reference backend with one method replaced by a wrong one.
type broken struct {
	*backendtest.Map
	init           func(backends.Export) error
	store          func(backends.Key, []byte) (backends.Handle, backends.Refusal, error)
	load           func(backends.Key, backends.Handle, []byte) error
	pack           func(backends.Key, backends.Handle, []byte) (backends.Packed, error)
	unpack         func(backends.Key, backends.Packed) (backends.Handle, backends.Refusal, error)
	invalidate     func(backends.Key, backends.Handle)
	invalidateArea func(uint32)
	stats          func() backends.Stats
	used           func(uint32) uint64
	room           func() uint64
}

func (b *broken) Used(export uint32) uint64 {
	if b.used != nil {
		return b.used(export)
	}
	return b.Map.Used(export)
}

func (b *broken) Room() uint64 {
	if b.room != nil {
		return b.room()
	}
	return b.Map.Room()
}

func (b *broken) Init(export backends.Export) error {
	if b.init != nil {
		return b.init(export)
	}
	return b.Map.Init(export)
}

func (b *broken) Store(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
	if b.store != nil {
		return b.store(key, data)
	}
	return b.Map.Store(key, data)
}

func (b *broken) Load(key backends.Key, handle backends.Handle, dst []byte) error {
	if b.load != nil {
		return b.load(key, handle, dst)
	}
	return b.Map.Load(key, handle, dst)
}

func (b *broken) Pack(key backends.Key, handle backends.Handle, dst []byte) (backends.Packed, error) {
	if b.pack != nil {
		return b.pack(key, handle, dst)
	}
	return b.Map.Pack(key, handle, dst)
}

func (b *broken) Unpack(key backends.Key, p backends.Packed) (backends.Handle, backends.Refusal, error) {
	if b.unpack != nil {
		return b.unpack(key, p)
	}
	return b.Map.Unpack(key, p)
}

func (b *broken) Invalidate(key backends.Key, handle backends.Handle) {
	if b.invalidate != nil {
		b.invalidate(key, handle)
		return
	}
	b.Map.Invalidate(key, handle)
}

func (b *broken) InvalidateArea(export uint32) {
	if b.invalidateArea != nil {
		b.invalidateArea(export)
		return
	}
	b.Map.InvalidateArea(export)
}

func (b *broken) Stats() backends.Stats {
	if b.stats != nil {
		return b.stats()
	}
	return b.Map.Stats()
}

// faults are mistakes that a backend can make, each with a rule that the suite
// has to name.
var faults = []struct {
	name, rule string
	make       func(b *broken)
}{
	{"second init succeeds", "B2", func(b *broken) {
		b.init = func(e backends.Export) error { b.Map.Init(e); return nil }
	}},
	{"packs the page of another handle", "B29", func(b *broken) {
		var first backends.Packed
		b.pack = func(key backends.Key, handle backends.Handle, dst []byte) (backends.Packed, error) {
			p, err := b.Map.Pack(key, handle, dst)
			if first.Data == nil {
				first = backends.Packed{Encoding: p.Encoding, Sum: p.Sum, Data: append([]byte(nil), p.Data...)}
			}
			return first, err
		}
	}},
	{"unpacks what is damaged", "B30", func(b *broken) {
		b.unpack = func(key backends.Key, p backends.Packed) (backends.Handle, backends.Refusal, error) {
			handle, refusal, err := b.Map.Unpack(key, p)
			if err != nil {
				return b.Map.Store(key, make([]byte, backends.PageSize))
			}
			return handle, refusal, nil
		}
	}},
	{"fails where it should refuse to unpack", "B31", func(b *broken) {
		b.unpack = func(key backends.Key, p backends.Packed) (backends.Handle, backends.Refusal, error) {
			handle, refusal, err := b.Map.Unpack(key, p)
			if refusal == backends.RefusedUnmanaged {
				return 0, backends.Accepted, backends.ErrCorrupt
			}
			return handle, refusal, err
		}
	}},
	{"charges all exports for each page", "B32", func(b *broken) {
		b.used = func(uint32) uint64 { return b.Map.Stats().HeldBytes }
	}},
	{"charges nothing", "B32", func(b *broken) { b.used = func(uint32) uint64 { return 0 } }},
	{"always has room", "B33", func(b *broken) {
		b.Limit = 3000
		b.room = func() uint64 { return 3000 * backends.PageSize }
	}},
	{"takes unmanaged pages", "B1", func(b *broken) {
		b.store = func(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
			b.Map.Init(backends.Export{ID: key.Export})
			return b.Map.Store(key, data)
		}
	}},
	{"area stays", "B1", func(b *broken) { b.invalidateArea = func(uint32) {} }},
	{"page stays", "B3", func(b *broken) { b.invalidate = func(backends.Key, backends.Handle) {} }},
	{"refusal leaves the page", "B4", func(b *broken) {
		b.store = func(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
			handle, refusal, err := b.Map.Store(key, data)
			if refusal == backends.Accepted && data[0] == data[9] && data[1] != data[8] {
				return 0, backends.RefusedPoor, err
			}
			return handle, refusal, err
		}
	}},
	{"counts nothing", "B6", func(b *broken) {
		b.stats = func() backends.Stats {
			stats := b.Map.Stats()
			stats.Refused = [backends.Refusals]uint64{}
			return stats
		}
	}},
	{"load removes", "B7", func(b *broken) {
		b.load = func(key backends.Key, handle backends.Handle, dst []byte) error {
			defer b.Map.Invalidate(key, handle)
			return b.Map.Load(key, handle, dst)
		}
	}},
	{"last word is lost", "B8", func(b *broken) {
		b.load = func(key backends.Key, handle backends.Handle, dst []byte) error {
			keep := [8]byte(dst[len(dst)-8:])
			err := b.Map.Load(key, handle, dst)
			copy(dst[len(dst)-8:], keep[:])
			return err
		}
	}},
	{"zeros for a miss", "B20", func(b *broken) {
		b.load = func(key backends.Key, handle backends.Handle, dst []byte) error {
			if b.Map.Load(key, handle, dst) != nil {
				clear(dst)
			}
			return nil
		}
	}},
	{"key is not checked", "B9", func(b *broken) {
		var keys sync.Map
		b.store = func(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
			handle, refusal, err := b.Map.Store(key, data)
			keys.Store(handle, key)
			return handle, refusal, err
		}
		b.load = func(key backends.Key, handle backends.Handle, dst []byte) error {
			if stored, ok := keys.Load(handle); ok {
				key = stored.(backends.Key)
			}
			return b.Map.Load(key, handle, dst)
		}
	}},
	{"changes the data", "B10", func(b *broken) {
		b.store = func(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
			defer func() { data[100]++ }()
			return b.Map.Store(key, data)
		}
	}},
	{"keeps the caller's buffer", "B8", func(b *broken) {
		var buffers sync.Map
		b.store = func(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
			handle, refusal, err := b.Map.Store(key, data)
			if refusal == backends.Accepted {
				buffers.Store(handle, data)
			}
			return handle, refusal, err
		}
		b.load = func(key backends.Key, handle backends.Handle, dst []byte) error {
			err := b.Map.Load(key, handle, dst)
			if data, ok := buffers.Load(handle); err == nil && ok {
				copy(dst, data.([]byte))
			}
			return err
		}
	}},
	{"wide handles", "B11", func(b *broken) {
		const high = 1 << 50
		b.store = func(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
			handle, refusal, err := b.Map.Store(key, data)
			return handle | high, refusal, err
		}
		b.load = func(key backends.Key, handle backends.Handle, dst []byte) error {
			return b.Map.Load(key, handle&^high, dst)
		}
		b.invalidate = func(key backends.Key, handle backends.Handle) { b.Map.Invalidate(key, handle&^high) }
	}},
	{"high handle bits are ignored", "B20", func(b *broken) {
		b.load = func(key backends.Key, handle backends.Handle, dst []byte) error {
			return b.Map.Load(key, handle%(1<<backends.HandleBits), dst)
		}
	}},
	{"one copy of a key", "B7", func(b *broken) {
		var current sync.Map
		b.store = func(key backends.Key, data []byte) (backends.Handle, backends.Refusal, error) {
			handle, refusal, err := b.Map.Store(key, data)
			if refusal == backends.Accepted {
				if older, ok := current.Swap(key, handle); ok {
					b.Map.Invalidate(key, older.(backends.Handle))
				}
			}
			return handle, refusal, err
		}
	}},
	{"held after close", "B3", func(b *broken) {
		b.stats = func() backends.Stats {
			stats := b.Map.Stats()
			stats.HeldBytes += 4096
			return stats
		}
	}},
	{"above the limit", "B19", func(b *broken) {
		b.stats = func() backends.Stats {
			stats := b.Map.Stats()
			stats.LimitBytes = 1 << 20
			return stats
		}
	}},
}

// TestSuiteFindsFaults runs the suite against backends with one mistake each,
// in a process of its own, since there the suite has to fail.
func TestSuiteFindsFaults(t *testing.T) {
	const variable = "TMEMD_TEST_BROKEN_BACKENDS"
	if os.Getenv(variable) != "" {
		for _, fault := range faults {
			t.Run(fault.name, func(t *testing.T) {
				backendtest.Run(t, func(t *testing.T) backends.Backend {
					b := &broken{Map: &backendtest.Map{Limit: 1100}}
					fault.make(b)
					return b
				})
			})
		}
		return
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, "-test.run=^TestSuiteFindsFaults$", "-test.v",
		"-rapid.checks=20", "-rapid.nofailfile", "-rapid.shrinktime=1ms")
	command.Env = append(os.Environ(), variable+"=1")
	output, err := command.CombinedOutput()
	if err == nil {
		t.Fatal("the suite passed backends with faults")
	}
	for _, fault := range faults {
		name := regexp.QuoteMeta("TestSuiteFindsFaults/" + strings.ReplaceAll(fault.name, " ", "_"))
		if !regexp.MustCompile(`--- FAIL: ` + name + ` `).Match(output) {
			t.Errorf("%s: the suite passes", fault.name)
			continue
		}
		begin := regexp.MustCompile(`=== RUN +` + name + `\n`).FindIndex(output)
		section := output[begin[1]:]
		if end := regexp.MustCompile(`=== RUN +TestSuiteFindsFaults/[^/\n]+\n`).FindIndex(section); end != nil {
			section = section[:end[0]]
		}
		if !strings.Contains(string(section), " "+fault.rule+":") {
			t.Errorf("%s: the suite fails, but does not name %s:\n%s", fault.name, fault.rule, section)
		}
	}
}
