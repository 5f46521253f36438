package attach

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

func newDiskRig(t *testing.T, readOnly bool) *rig {
	r := newRig(t)
	r.server.stop()
	r.server.export.Description, r.server.export.ReadOnly = diskIdentity+", content 1", readOnly
	r.server.start()
	return r
}

// TestDiskIsNoSwap: without --no-swap nothing is made of a disk, and nothing is left.
func TestDiskIsNoSwap(t *testing.T) {
	r := newDiskRig(t, false)
	o := r.options()
	o.Force = true
	_, err := attach(t.Context(), o, r.kernel, r.host)
	var told *cli.Error
	if !errors.As(err, &told) || !strings.Contains(told.Problem, "export \"swap\" is a disk: no swap is made of it") || !strings.Contains(told.Hint, "--no-swap") {
		t.Errorf("attach fails with %v", err)
	}
	if connected, _ := r.kernel.connected(fakeIndex); connected || r.host.prepared != 0 || r.host.on {
		t.Error("something was made of the disk")
	}
}

// TestAttachDisk: a disk is attached without swap, its agent reconnects, the next one takes
// over from it, and it stays attached while it is mounted.
func TestAttachDisk(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		r := newDiskRig(t, readOnly)
		o := r.options()
		o.NoSwap = true
		a, err := attach(t.Context(), o, r.kernel, r.host)
		if err != nil {
			t.Fatal(err)
		}
		if r.host.prepared != 0 || r.host.on {
			t.Errorf("swap was made of a disk: %+v", r.host)
		}
		if got := r.kernel.asked.flags&flagReadOnly != 0; got != readOnly {
			t.Errorf("the kernel was told read-only=%t", got)
		}
		if record := r.record(); !record.NoSwap || record.Phase != PhaseAttached {
			t.Errorf("the record is %+v", record)
		}
		r.run(a)
		r.server.stop()
		r.linkDead()
		eventually(t, "the agent sees that the server is gone", func() bool { return r.record().Phase == PhaseReconnecting })
		r.server.start()
		eventually(t, "the agent has reconnected", func() bool { return r.record().Reconnects == 1 && r.record().Phase == PhaseAttached })

		busy := cli.Failure("umount it first", "/dev/nbd3 is in use")
		r.host.setFailRelease(busy)
		r.signals <- unix.SIGTERM
		eventually(t, "the detach was refused", func() bool { return r.record().Detaches == 1 && r.record().Phase == PhaseAttached })
		if record := r.record(); record.Problem != "/dev/nbd3 is in use" || record.Hint != "umount it first" {
			t.Errorf("the record is %+v", record)
		}
		if connected, _ := r.kernel.connected(fakeIndex); !connected {
			t.Error("a device in use was disconnected")
		}
		r.host.setFailRelease(nil)
		r.signals <- unix.SIGTERM
		if err := r.wait(); err != nil {
			t.Fatal(err)
		}
		if connected, _ := r.kernel.connected(fakeIndex); connected || r.host.prepared != 0 {
			t.Error("the device is configured still, or swap was made of it")
		}
	}
}

func TestTakeOverDisk(t *testing.T) {
	r := newDiskRig(t, false)
	o := r.options()
	o.NoSwap = true
	a, err := attach(t.Context(), o, r.kernel, r.host)
	if err != nil {
		t.Fatal(err)
	}
	r.kill(a)
	if _, err := attach(t.Context(), r.options(), r.kernel, r.host); err == nil || !strings.Contains(err.Error(), "attached with --no-swap=true") {
		t.Errorf("an agent that is to make swap of it: %v", err)
	}
	again, err := attach(t.Context(), o, r.kernel, r.host)
	if err != nil {
		t.Fatal(err)
	}
	r.run(again)
	eventually(t, "the agent has reconnected", func() bool { return r.record().Reconnects == 1 })
	if r.host.prepared != 0 || r.host.on {
		t.Errorf("swap was made of a disk: %+v", r.host)
	}
}

// TestRelease: what is no block device is synced, or its absence said.
func TestRelease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	if err := release(path); err == nil || !strings.Contains(err.Error(), "release "+path) {
		t.Errorf("a device that is not there: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := release(path); err != nil {
		t.Errorf("release: %v", err)
	}
}
