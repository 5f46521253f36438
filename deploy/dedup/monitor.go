package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// monitor is a conversation with QEMU's monitor.
type monitor struct {
	conn    net.Conn
	answers *bufio.Reader
}

// openMonitor waits until QEMU listens.
func openMonitor(ctx context.Context, socket string) (*monitor, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil {
			m := &monitor{conn, bufio.NewReader(conn)}
			if deadline, ok := ctx.Deadline(); ok {
				err = conn.SetDeadline(deadline)
			}
			if err == nil {
				_, err = readPrompt(m.answers)
			}
			if err != nil {
				return nil, errors.Join(fmt.Errorf("open the monitor: %w", err), conn.Close())
			}
			return m, nil
		}
		if err := pause(ctx); err != nil {
			return nil, fmt.Errorf("open the monitor: %w", err)
		}
	}
}

// ask sends a command and returns what is answered up to the next prompt: the command's echo, and the answer.
func (m *monitor) ask(command string) (string, error) {
	if _, err := fmt.Fprintln(m.conn, command); err != nil {
		return "", fmt.Errorf("monitor: %s: %w", command, err)
	}
	answer, err := readPrompt(m.answers)
	if err != nil {
		return "", fmt.Errorf("monitor: %s: %w", command, err)
	}
	return answer, nil
}

// await asks until the answer has a word.
func (m *monitor) await(ctx context.Context, command, word string) error {
	for {
		switch answer, err := m.ask(command); {
		case err != nil:
			return err
		case strings.Contains(answer, word):
			return nil
		case strings.Contains(answer, "failed"):
			return fmt.Errorf("monitor: %s", answer)
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("monitor: wait for %s: %w", word, err)
		}
	}
}

// saveState has QEMU write the state of a running machine to a file, and lets it go on.
func (m *monitor) saveState(ctx context.Context, file string) error {
	for _, command := range []string{"stop", "migrate_set_parameter max-bandwidth 10G", fmt.Sprintf("migrate -d \"exec:cat >%s\"", file)} {
		if _, err := m.ask(command); err != nil {
			return err
		}
	}
	if err := m.await(ctx, "info migrate", "completed"); err != nil {
		return err
	}
	_, err := m.ask("cont")
	return err
}

// resume waits until a machine that was started from a saved state has all of it, and lets it go on: it was
// stopped when it was saved. What is sent to its console before is lost.
func (m *monitor) resume(ctx context.Context) error {
	for {
		status, err := m.ask("info status")
		if err != nil {
			return err
		}
		if !strings.Contains(status, "inmigrate") {
			_, err := m.ask("cont")
			return err
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("monitor: wait for the saved state: %w", err)
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(200 * time.Millisecond):
		return nil
	}
}

func readPrompt(from *bufio.Reader) (string, error) {
	var answer strings.Builder
	for !strings.HasSuffix(answer.String(), "(qemu) ") {
		b, err := from.ReadByte()
		if err != nil {
			return answer.String(), err
		}
		answer.WriteByte(b)
	}
	return answer.String(), nil
}
