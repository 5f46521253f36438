package ramster

import (
	"sync/atomic"
	"testing"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/pressure"
)

// steady is a host with so much memory available.
type steady struct{ available atomic.Int64 }

// Sample implements [pressure.Source].
func (s *steady) Sample() (pressure.Sample, error) {
	return pressure.Sample{Available: s.available.Load(), Total: 100}, nil
}

// TestHome moves the limit as a host would that has memory to spare, and then has not.
func TestHome(t *testing.T) {
	config := testConfig("a", "b")
	config.Home = 1 << 20
	source := &steady{}
	source.available.Store(7) // between: nothing moves the limit but this test
	config.Pressure = source
	o := newOwner(t, config, newNetwork("a", "b"))
	o.write(0, 1000, 1)
	o.awaitSent()
	background := o.background.Load()
	background.Resize(config.Home)
	await(t, "pages to come home", func() bool { return o.Remote().CameHome > 100 })
	o.check()
	if held := o.Remote().Home; held > config.Home+8192 {
		t.Errorf("%d bytes at home, %d allowed", held, config.Home)
	}
	o.write(0, 100, 2)
	for page := uint64(100); page < 200; page++ {
		o.host.Trim(backends.Key{Export: 1, Page: page})
	}
	o.check()
	o.checkCopies(2)
	background.Resize(0)
	await(t, "pages to go out", func() bool { return o.Remote().Home == 0 && o.Remote().Staged == 0 })
	if o.Remote().SentOut == 0 {
		t.Error("nothing went out")
	}
	o.check()
	o.checkCopies(2)
}

// TestHomeFollows has the limit grow while there is memory to spare.
func TestHomeFollows(t *testing.T) {
	config := testConfig("a", "b")
	config.Home = 1 << 20
	b := &background{Cache: newTest(t, config, newNetwork("a", "b"))}
	defer b.Close()
	if size, on := b.Size(); !on || size.Target != 0 || size.Floor != 0 || size.Max != config.Home {
		t.Errorf("size %+v, %v", size, on)
	}
	b.Resize(config.Home * 2)
	if size, _ := b.Size(); size.Target != config.Home {
		t.Errorf("target %d", size.Target)
	}
	b.Resize(-1)
	if size, _ := b.Size(); size.Target != 0 {
		t.Errorf("target %d", size.Target)
	}
}
