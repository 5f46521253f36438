package daemon

import (
	"testing"
	"time"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/frontswap"
)

// TestStopJoinsReplacement: a stop that finds a replacement under way is not
// stopped by the reason for which that does not come off.
func TestStopJoinsReplacement(t *testing.T) {
	log := &logBuffer{}
	d, err := Open(options(t, t.TempDir(), log, "--size", "4MiB"))
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan struct{})
	_, err = d.moves.start("zcache", moveOrder{operation: admin.OperationReplace}, "", func() (frontswap.Drain, error) {
		<-refused
		return frontswap.Drain{}, frontswap.ErrExists
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- d.unloadAll() }()
	time.Sleep(10 * time.Millisecond) // it joins; later it would find nothing to join
	close(refused)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if left := d.frontswap.Backends(); len(left) > 0 {
		t.Errorf("still loaded: %+v", left)
	}
	must(t, d.close())
}
