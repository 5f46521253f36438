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

// TestEphemeral: pages of swap stay in the staging area, those of disks go to donors.
func TestEphemeral(t *testing.T) {
	backendtest.RunEphemeralElsewhere(t, func(t *testing.T) backends.Backend {
		c := newTest(t, testConfig("a", "b"), newNetwork("a", "b"))
		awaitDonors(t, c)
		return c
	})
}
