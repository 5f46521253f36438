package vm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/tmemd/tmemd/deploy/vm/orders"
)

// readConsole keeps what the machine prints until its socket is closed.
func (m *Machine) readConsole() {
	_, _ = io.Copy(m.console, m.serial) // ends with the socket; the machine's end is told elsewhere
}

// readReports takes in what the guest program sends. Answers go to the one who waits for them; a failure ends the machine.
func (m *Machine) readReports() {
	defer close(m.answers)
	lines := bufio.NewScanner(m.orders)
	lines.Buffer(nil, orders.MaxLine)
	for lines.Scan() {
		report, err := orders.ParseReport(lines.Bytes())
		if err != nil {
			m.cancel(err)
			return
		}
		m.note(report)
		switch report.Event {
		case orders.Progress:
		case orders.Mismatch, orders.Failed:
			m.cancel(fmt.Errorf("the guest reports %s in phase %q: %s", report.Event, report.Phase, report.Detail))
			return
		default:
			select {
			case m.answers <- report:
			case <-m.ctx.Done():
				return
			}
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, net.ErrClosed) {
		m.cancel(fmt.Errorf("read the guest's reports: %w", err))
	}
}

// note keeps a report, and remembers when the counters last moved.
func (m *Machine) note(report orders.Report) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if report.Counters != m.latest.Counters || report.Event != orders.Progress {
		m.active = time.Now()
	}
	m.latest = report
}

// watch ends the machine when its kernel complains, or when the guest makes no progress for too long: a hang is a result. In that
// case it first has the kernel say on the console which tasks are blocked.
func (m *Machine) watch() {
	ticker := time.NewTicker(m.config.pace)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-m.ctx.Done():
			return
		}
		if lines := LogTrouble(m.Console(), m.config.Expected); len(lines) > 0 {
			m.cancel(fmt.Errorf("trouble in the guest's kernel: %s", lines[0]))
			return
		}
		if still := m.stillFor(); still >= m.config.NoProgress {
			cause := fmt.Errorf("no progress in the guest for %s", still.Round(time.Second))
			m.cancel(errors.Join(cause, m.dumpBlockedTasks()))
			return
		}
	}
}

func (m *Machine) stillFor() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.active)
}

// dumpBlockedTasks is SysRq 7, for a log level that shows them, and w.
func (m *Machine) dumpBlockedTasks() error {
	for _, key := range []string{"7", "w"} {
		if err := m.sysrq(key); err != nil {
			return fmt.Errorf("ask for blocked tasks: %w", err)
		}
	}
	m.pause(5) // they go out at the pace of a serial line
	return nil
}

// sysrq presses a key: over a serial console, a break and then the key, within the kernel's five seconds.
func (m *Machine) sysrq(key string) error {
	if _, err := io.WriteString(m.monitor, "chardev-send-break console\n"); err != nil {
		return err
	}
	m.pause(1) // the break goes by way of QEMU's monitor, and must come first
	if _, err := io.WriteString(m.serial, key); err != nil {
		return err
	}
	m.pause(1)
	return nil
}

// pause lets a number of steps of the watchdog pass, or the machine end.
func (m *Machine) pause(steps int) {
	select {
	case <-time.After(time.Duration(steps) * m.config.pace):
	case <-m.ctx.Done():
	}
}
