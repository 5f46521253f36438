package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tmemd/tmemd/deploy/vm/orders"
)

// kernel is what the agent asks of the machine it runs on; a test has a stand-in.
type kernel interface {
	swapped() (in, out int64, err error) // pages since boot
	swapoff() error
	detach() error // disconnects the swap device
	log() (string, error)
	run(command string) (printed string, err error) // from another goroutine
}

// agent carries out the host's orders. All of it runs in the goroutine that called run, but for the reading of orders and
// the workers, both of which run waits for.
type agent struct {
	kernel   kernel
	workers  []*worker
	counters *counters
	reports  io.Writer
	every    time.Duration // between two progress reports
	phase    string

	orders <-chan receivedOrder
	ticks  <-chan time.Time
	ran    chan ranCommand // receives how the command ended that runs, if one does
}

type ranCommand struct {
	printed string
	err     error
}

type receivedOrder struct {
	order orders.Order
	err   error
}

// run goes through the sequence of package orders. A failure is reported to the host and returned.
// The goroutine that reads orders ends with Detach, or with an error of in: after a failure, close in.
func (a *agent) run(in io.Reader) error {
	ticker := time.NewTicker(a.every)
	defer ticker.Stop()
	ended := make(chan struct{})
	defer close(ended)
	a.orders, a.ticks, a.ran = readOrders(in, ended), ticker.C, make(chan ranCommand, 1)

	err := a.sequence()
	if err == nil {
		return nil
	}
	event := orders.Failed
	if mismatch := (*mismatchError)(nil); errors.As(err, &mismatch) {
		event = orders.Mismatch
	}
	return errors.Join(err, a.report(orders.Report{Event: event, Detail: err.Error()}))
}

func readOrders(in io.Reader, ended <-chan struct{}) <-chan receivedOrder {
	received := make(chan receivedOrder)
	go func() {
		scanner := bufio.NewScanner(in)
		for {
			var next receivedOrder
			if scanner.Scan() {
				next.order, next.err = orders.ParseOrder(scanner.Bytes())
			} else {
				next.err = errors.Join(errors.New("read orders: the line is closed"), scanner.Err())
			}
			select {
			case received <- next:
			case <-ended:
				return
			}
			if next.err != nil || next.order.Do == orders.Detach {
				return
			}
		}
	}()
	return received
}

func (a *agent) sequence() error {
	if err := a.each((*worker).fill, nil); err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	if err := a.answer(orders.Filled); err != nil {
		return err
	}
	if err := a.each((*worker).rounds, a.orders); err != nil {
		return fmt.Errorf("phase %q: %w", a.phase, err)
	}
	if err := a.stop(); err != nil {
		return err
	}
	if err := a.swapoff(); err != nil {
		return err
	}
	return a.detach()
}

// stop verifies everything once more and drops most of it.
func (a *agent) stop() error {
	if err := a.each((*worker).verifyAll, nil); err != nil {
		return fmt.Errorf("verify all after the rounds: %w", err)
	}
	if err := a.each((*worker).dropMost, nil); err != nil {
		return fmt.Errorf("drop most: %w", err)
	}
	return a.answer(orders.Stopped)
}

// swapoff makes the kernel read everything back, then verifies it.
func (a *agent) swapoff() error {
	if err := a.expect(orders.Swapoff); err != nil {
		return err
	}
	if err := a.parallel([]task{func(context.Context) error { return a.kernel.swapoff() }}, nil); err != nil {
		return err
	}
	if err := a.each((*worker).verifyAll, nil); err != nil {
		return fmt.Errorf("verify all after swapoff: %w", err)
	}
	return a.answer(orders.SwappedOff)
}

func (a *agent) detach() error {
	if err := a.expect(orders.Detach); err != nil {
		return err
	}
	if err := a.kernel.detach(); err != nil {
		return err
	}
	log, err := a.kernel.log()
	if err != nil {
		return err
	}
	return a.report(orders.Report{Event: orders.Detached, Log: log})
}

// expect waits for one order, which must be the one named.
func (a *agent) expect(do string) error {
	for {
		select {
		case <-a.ticks:
			if err := a.answer(orders.Progress); err != nil {
				return err
			}
		case received := <-a.orders:
			if received.err != nil {
				return received.err
			}
			if received.order.Do != do {
				return fmt.Errorf("order %q out of turn: expected %q", received.order.Do, do)
			}
			return nil
		}
	}
}

type task func(context.Context) error

func (a *agent) each(do func(*worker, context.Context) error, obeyed <-chan receivedOrder) error {
	tasks := make([]task, len(a.workers))
	for i, w := range a.workers {
		tasks[i] = func(ctx context.Context) error { return do(w, ctx) }
	}
	return a.parallel(tasks, obeyed)
}

// parallel runs tasks side by side until all have ended, and meanwhile reports progress and carries out the orders that
// come on obeyed, if it is not nil. The first error, or the order to stop, ends the context of all. It returns the first error.
func (a *agent) parallel(tasks []task, obeyed <-chan receivedOrder) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error)
	for _, do := range tasks {
		go func() { ended <- do(ctx) }()
	}
	var first error
	for running := len(tasks); running > 0; {
		var err error
		select {
		case err = <-ended:
			running--
		case <-a.ticks:
			err = a.answer(orders.Progress)
		case received := <-obeyed:
			err = a.obey(received, cancel)
		case command := <-a.ran:
			err = command.err
			if err == nil {
				err = a.report(orders.Report{Event: orders.Ran, Detail: command.printed})
			}
		}
		if err != nil && first == nil {
			first = err
			cancel()
		}
	}
	return first
}

// obey carries out an order that comes while the workers run.
func (a *agent) obey(received receivedOrder, stop func()) error {
	if received.err != nil {
		return received.err
	}
	switch received.order.Do {
	case orders.Phase:
		a.phase = received.order.Phase
		return a.answer(orders.PhaseBegan)
	case orders.Run:
		// The host waits for the answer before it sends another order, so this
		// ends while the rounds run.
		go func() {
			printed, err := a.kernel.run(received.order.Command)
			a.ran <- ranCommand{printed, err}
		}()
		return nil
	case orders.Stop:
		stop()
		return nil
	default:
		return fmt.Errorf("order %q out of turn", received.order.Do)
	}
}

func (a *agent) answer(event string) error {
	return a.report(orders.Report{Event: event})
}

func (a *agent) report(r orders.Report) error {
	in, out, err := a.kernel.swapped()
	if err != nil {
		return err
	}
	r.Phase = a.phase
	r.Counters = orders.Counters{
		Verified: a.counters.verified.Load(), Written: a.counters.written.Load(), Dropped: a.counters.dropped.Load(),
		SwappedIn: in, SwappedOut: out,
	}
	return orders.Write(a.reports, r)
}
