package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// How the agent goes about its work.
const (
	lookEvery    = time.Second            // at the sockets, in case the kernel's word was lost
	firstPause   = 100 * time.Millisecond // between two attempts to reconnect
	longestPause = 5 * time.Second
	// A connection that hangs up is dead for the kernel a moment later, and only
	// then it takes another. So often it is offered one.
	offers     = 100
	offerEvery = 50 * time.Millisecond
)

// errDisconnected says that somebody else took the device away.
var errDisconnected = errors.New("the device was disconnected by somebody else")

// Run looks after the device until it is told to detach it, and has done so. dead
// tells of connections that died, if anything does; detach asks to swap off and
// disconnect. Nothing that can go wrong ends it but the device's own end.
func (a *Attachment) Run(dead <-chan struct{}, detach <-chan os.Signal) error {
	if a.options.Ready != nil {
		a.options.Ready(a.record)
	}
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var (
		off   chan error       // receives how swapoff ended; nil if it does not run
		out   *outage          // nil while the connections are alive
		retry <-chan time.Time // while they are not
	)
	for {
		select {
		case <-ticker.C:
			if out != nil {
				continue // retry is for that
			}
		case <-dead:
		case <-retry:
		case <-detach:
			if off == nil {
				off = a.beginDetach()
			}
			continue
		case err := <-off:
			off = nil
			if err == nil {
				return a.finish()
			}
			a.stayAttached(err)
			continue
		}
		if out == nil && !a.broken() {
			continue
		}
		if out == nil {
			out = a.beginOutage()
		}
		err := a.reconnect(out)
		switch {
		case err == nil:
			out, retry = nil, nil
			a.note(a.phase(off != nil), nil)
		case errors.Is(err, errDisconnected):
			a.log.Error("the device is gone", "device", a.record.Device, "error", err)
			return errors.Join(err, a.close())
		default:
			retry = time.After(out.pause)
			out.pause = min(2*out.pause, longestPause)
		}
	}
}

// outage is a time without connections.
type outage struct {
	began time.Time
	pause time.Duration // until the next attempt
	told  string        // what was wrong last, which is said once
}

// phase is where the attachment is while its connections are alive.
func (a *Attachment) phase(detaching bool) string {
	if detaching {
		return PhaseDetaching
	}
	return PhaseAttached
}

// beginDetach starts to swap off. It may take minutes, and the server may die
// meanwhile: the agent goes on.
func (a *Attachment) beginDetach() chan error {
	a.record.Detaches++
	a.note(PhaseDetaching, nil)
	a.log.Info("detaching", "device", a.record.Device)
	ended, path := make(chan error, 1), a.record.Device
	go func() { ended <- off(a.host, path) }() // Run receives; it ends with no other way out than errDisconnected
	return ended
}

// stayAttached carries on after a swapoff that failed: pages are still there.
func (a *Attachment) stayAttached(err error) {
	a.log.Error("could not detach; the device stays attached", "device", a.record.Device, "error", err)
	a.note(PhaseAttached, err)
}

func (a *Attachment) finish() error {
	if err := a.kernel.disconnect(a.device.index); err != nil {
		return errors.Join(err, a.close())
	}
	a.log.Info("detached", "device", a.record.Device)
	return a.close()
}

func (a *Attachment) close() (err error) {
	for _, f := range a.links {
		err = errors.Join(err, f.Close())
	}
	return errors.Join(err, a.slot.remove(), a.slot.close())
}

// note saves where the attachment is. The device is more important than its
// record.
func (a *Attachment) note(phase string, problem error) {
	a.record.Phase, a.record.Problem, a.record.Hint = phase, "", ""
	if problem != nil {
		a.record.Problem = problem.Error()
		var told *cli.Error
		if errors.As(problem, &told) {
			a.record.Hint = told.Hint
		}
	}
	if err := a.slot.save(a.record); err != nil {
		a.log.Warn("cannot save the record", "error", err)
	}
}

// broken says whether a connection is dead. The kernel shuts a socket down in
// both directions when it gives it up, and a peer that is gone shows the same:
// no message has to arrive to see that. An agent without a hold on the
// connections, one that took over, makes them anew.
func (a *Attachment) broken() bool {
	if len(a.links) == 0 {
		return true
	}
	polled := make([]unix.PollFd, len(a.links))
	for i, f := range a.links {
		polled[i] = unix.PollFd{Fd: int32(f.Fd()), Events: unix.POLLRDHUP}
	}
	n, err := unix.Poll(polled, 0)
	return err == nil && n > 0 // every event that can come is an end
}

// beginOutage gives up all connections, although one has died: the kernel sends
// what was on it again on the others, and if it is only late, the server could
// carry out the old one after a newer write. With every connection given up,
// nothing is sent again until the server has ended all of them (see
// nbd.OptionSession).
func (a *Attachment) beginOutage() *outage {
	a.log.Warn("a connection died: making all anew", "device", a.record.Device, "server", a.options.Address.String())
	for _, f := range a.links {
		shutdown(f)
	}
	return &outage{began: time.Now(), pause: firstPause}
}

// reconnect tries to make all connections anew. The error is errDisconnected if
// the device is gone.
func (a *Attachment) reconnect(out *outage) error {
	err := a.replace()
	if err == nil {
		a.record.Reconnects++
		a.log.Info("reconnected", "device", a.record.Device, "connections", len(a.links), "after", time.Since(out.began).Round(time.Millisecond))
		return nil
	}
	if connected, statusErr := a.kernel.connected(a.device.index); statusErr == nil && !connected {
		return errDisconnected
	}
	if err.Error() != out.told {
		out.told = err.Error()
		a.log.Warn("cannot reconnect yet", "device", a.record.Device, "error", err)
		if a.record.Phase != PhaseDetaching {
			a.note(PhaseReconnecting, err)
		}
	}
	return err
}

// replace tries once to put new connections in the place of all old ones.
func (a *Attachment) replace() error {
	// Noted before the server hears of it: the next agent must not be behind it.
	// Without the record the clock alone has to do.
	a.fence.advance(a.host.now())
	a.record.Generation = a.fence.generation
	saveErr := a.slot.save(a.record)
	fresh, err := a.dial(&a.record.Server, a.record.Connections)
	if err != nil {
		return errors.Join(err, saveErr)
	}
	awaitReaders(a.links, readersPatience)
	accepted, err := a.offer(sockets(fresh))
	if len(accepted) == 0 {
		return errors.Join(err, errors.New("the kernel took none of the new connections"))
	}
	for _, f := range a.links {
		f.Close() // dead
	}
	a.links = accepted
	if err != nil {
		a.log.Warn("not every connection could be replaced", "error", err)
	}
	return nil
}

// offer hands sockets over until the kernel has taken all, and closes those that
// it never took.
func (a *Attachment) offer(pending []*os.File) (accepted []*os.File, err error) {
	for range offers {
		if err = a.kernel.reconfigure(a.device, descriptors(pending)); err != nil {
			break
		}
		var left []*os.File
		for _, f := range pending {
			taken, lookErr := a.kernel.accepted(int(f.Fd()))
			if err = errors.Join(err, lookErr); taken {
				accepted = append(accepted, f)
			} else {
				left = append(left, f)
			}
		}
		if pending = left; len(pending) == 0 {
			return accepted, err
		}
		time.Sleep(offerEvery)
	}
	for _, f := range pending {
		f.Close()
	}
	return accepted, errors.Join(err, fmt.Errorf("%d connections were not taken", len(pending)))
}

func shutdown(f *os.File) {
	// A socket that is dead already says so; that is what is wanted.
	_ = unix.Shutdown(int(f.Fd()), unix.SHUT_RDWR)
}

// isGone says whether nobody answers at an address.
func isGone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}

// Listen passes the kernel's words about dead connections of a device on to
// Run, until ctx ends. The agent works without them, a second later.
func Listen(ctx context.Context, index int) (<-chan struct{}, error) {
	links, err := newDriver().listen()
	if err != nil {
		return nil, err
	}
	dead := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { _ = links.close() })
	go func() { // ends with links
		defer stop()
		for {
			mine, err := links.next(index)
			if err != nil {
				return
			}
			if !mine {
				continue
			}
			select {
			case dead <- struct{}{}:
			default: // Run will look anyway
			}
		}
	}()
	return dead, nil
}

// Index is the N of /dev/nbdN.
func (a *Attachment) Index() int { return a.device.index }
