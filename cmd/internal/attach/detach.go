package attach

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

const detachEvery = 200 * time.Millisecond // between two reports of progress

// DetachOptions says what to detach.
type DetachOptions struct {
	Device string
	RunDir string
	// Progress is told how many bytes are still to be read back.
	Progress func(left int64)
}

// Detach has the kernel read everything back from a device, and disconnects it.
// The device's agent does it if there is one: the server may die meanwhile. When
// ctx ends, Detach returns; an agent goes on.
func Detach(ctx context.Context, o DetachOptions) error {
	return detach(ctx, o, newDriver(), linux{})
}

func detach(ctx context.Context, o DetachOptions, k kernel, h host) error {
	index, err := ParseDevice(o.Device)
	if err != nil {
		return err
	}
	connected, err := k.connected(index)
	if err != nil {
		return err
	}
	if !connected {
		return cli.Failure("tmemctl doctor lists what is attached", "%s is not attached", devicePath(index))
	}
	lives, err := agentLives(o.RunDir, index)
	if err != nil {
		return err
	}
	if lives {
		return detachByAgent(ctx, o, index, k, h)
	}
	return detachSelf(ctx, o, index, k, h)
}

func detachByAgent(ctx context.Context, o DetachOptions, index int, k kernel, h host) error {
	before, found, err := readRecord(o.RunDir, index)
	if err != nil {
		return err
	}
	sent := false
	if found {
		if sent, err = signalAgent(before, unix.SIGTERM); err != nil {
			return fmt.Errorf("tell the agent, process %d, to detach %s: %w", before.PID, before.Device, err)
		}
	}
	if !sent {
		return cli.Failure("try again in a moment", "the agent of %s has not got that far yet", devicePath(index))
	}
	return await(ctx, o, devicePath(index), h, func() (bool, error) {
		r, found, err := readRecord(o.RunDir, index)
		if err != nil {
			return false, err
		}
		if !found {
			lives, err := agentLives(o.RunDir, index)
			return !lives, err
		}
		if r.Detaches > before.Detaches && r.Phase == PhaseAttached {
			return false, cli.Failure(r.Hint, "%s", r.Problem)
		}
		if lives, err := agentLives(o.RunDir, index); err != nil || lives {
			return false, err
		}
		return true, detachSelf(ctx, o, index, k, h) // the agent died over it
	})
}

func detachSelf(ctx context.Context, o DetachOptions, index int, k kernel, h host) error {
	path, ended := devicePath(index), make(chan error, 1)
	go func() { ended <- off(h, path) }() // the system call cannot be taken back
	err := await(ctx, o, path, h, func() (bool, error) {
		select {
		case err := <-ended:
			return true, err
		default:
			return false, nil
		}
	})
	if err != nil {
		return err
	}
	s, err := takeSlot(o.RunDir, index)
	if err != nil {
		return err
	}
	return errors.Join(k.disconnect(index), s.remove(), s.close())
}

// await reports progress until done says that it is over.
func await(ctx context.Context, o DetachOptions, path string, h host, done func() (bool, error)) error {
	ticker := time.NewTicker(detachEvery)
	defer ticker.Stop()
	for {
		if over, err := done(); over || err != nil {
			return err
		}
		if left, on, err := h.used(path); err == nil && on && o.Progress != nil {
			o.Progress(left)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return cli.Failure("run tmemctl detach again", "stopped waiting for the detach of %s", path)
		}
	}
}
