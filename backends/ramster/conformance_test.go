package ramster

import (
	"flag"
	"testing"

	"go.uber.org/goleak"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/backends/backendtest"
)

func TestMain(m *testing.M) {
	// Those that run side by side wait, most of the time: more of them than there are
	// processors.
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// TestConformance is without a host: pages stay in the staging area.
func TestConformance(t *testing.T) {
	backendtest.Run(t, func(t *testing.T) backends.Backend {
		return newTest(t, testConfig("a", "b"), newNetwork("a", "b"))
	})
}

// TestHosted is with one: pages go to donors.
func TestHosted(t *testing.T) {
	backendtest.RunHosted(t, func(t *testing.T) backends.Backend {
		config := testConfig("a", "b", "c")
		config.Pages, config.Staging = 2048, MinStaging // full soon: compressing takes most of the time
		return newTest(t, config, newNetwork("a", "b", "c"))
	})
}

// TestNoEphemeral: an export whose pages may be forgotten is refused (B26), and leaves
// nothing behind.
func TestNoEphemeral(t *testing.T) {
	c := newTest(t, testConfig("a", "b"), newNetwork("a", "b"))
	if c.Init(backends.Export{ID: 7, Name: "disk", Pages: 100, Ephemeral: true}) == nil {
		t.Error("an ephemeral export was initialised")
	}
	_, refusal, err := c.Store(backends.Key{Export: 7}, make([]byte, backends.PageSize))
	if refusal != backends.RefusedUnmanaged || err != nil {
		t.Errorf("Store: %v, %v", refusal, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
