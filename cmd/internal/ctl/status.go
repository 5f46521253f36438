package ctl

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/backends"
	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

func (t *tool) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show everything at a glance",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				s, err := client.Status(ctx)
				if err != nil {
					return err
				}
				return t.show(s, func(w io.Writer) { printStatus(w, s, time.Now()) })
			})
		},
	}
}

var phaseTexts = map[string]string{
	admin.PhaseServing:  "serving",
	admin.PhaseDraining: "stopping: moving pages to storage",
	admin.PhaseWaiting:  "stopping: waiting for clients to leave",
	admin.PhaseSettling: "stopping: completing storage",
}

func printStatus(w io.Writer, s admin.Status, now time.Time) {
	fmt.Fprintf(w, "tmemd %s, process %d, up %s, %s\n", s.Version, s.PID, now.Sub(s.Started).Round(time.Second), phaseTexts[s.Phase])
	fmt.Fprintf(w, "folder   %s\n", s.StateDir)
	fmt.Fprintf(w, "nbd      %s\n", strings.Join(s.Listen, "  "))
	if s.TLS != nil {
		fmt.Fprintf(w, "tls      %s\n", tlsLine(*s.TLS))
	}
	if s.Metrics != "" {
		fmt.Fprintf(w, "metrics  %s\n", s.Metrics)
	}
	if line := protectionLine(s.Protection); line != "" {
		fmt.Fprintf(w, "host     %s\n", line)
	}
	fmt.Fprintln(w)
	if len(s.Exports) > 0 {
		printExports(w, s.Exports)
		fmt.Fprintln(w)
	}
	if len(s.Disks) > 0 {
		printDisks(w, s.Disks)
		fmt.Fprintln(w)
	}
	printBackends(w, s.Backends)
	if len(s.Clients) > 0 {
		fmt.Fprintln(w)
		printClients(w, s.Clients, now)
	}
	fmt.Fprintln(w)
	printMemory(w, s.Memory)
}

// protectionLine says whether the daemon's own host may swap through it.
func protectionLine(list []admin.Protection) string {
	var on int
	var refused []string
	for _, p := range list {
		switch p.State {
		case "on":
			on++
		case "refused":
			refused = append(refused, p.Measure)
		}
	}
	switch {
	case len(refused) > 0:
		return "not fully protected for swap of this host: " + strings.Join(refused, ", ") + " refused (tmemctl doctor says why)"
	case on > 0:
		return "protected for swap of this host"
	}
	return ""
}

// table prints rows of cells: the first column is aligned left, the others right.
func table(w io.Writer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len(cell))
		}
	}
	for _, row := range rows {
		fmt.Fprintf(w, "%-*s", widths[0], row[0])
		for i, cell := range row[1:] {
			fmt.Fprintf(w, "  %*s", widths[i+1], cell)
		}
		fmt.Fprintln(w)
	}
}

func pages(n int64) string { return cli.Bytes(uint64(max(n, 0)) * backends.PageSize) }

func printExports(w io.Writer, exports []admin.Export) {
	rows := [][]string{{"EXPORT", "SIZE", "CLIENTS", "BACKENDS", "STORAGE", "HOLES", "UNTOUCHED", "LOADS", "STORES", "REFUSED", "ERRORS"}}
	for _, e := range exports {
		if e.MovedTo != "" {
			continue
		}
		held := int64(0)
		for _, n := range e.Pages.Backends {
			held += n
		}
		failed := uint64(0)
		for _, n := range e.Errors {
			failed += n
		}
		rows = append(rows, []string{
			e.Name, cli.Bytes(uint64(e.SizeBytes)), fmt.Sprint(e.Clients), pages(held), pages(e.Pages.Storage), pages(e.Pages.Hole),
			pages(e.Pages.None), fmt.Sprint(e.Loads), fmt.Sprint(e.SuccStores), fmt.Sprint(e.FailedStores), fmt.Sprint(failed),
		})
	}
	table(w, rows)
	for _, e := range exports {
		if e.MovedTo != "" {
			fmt.Fprintf(w, "%s moved to %s (tmemctl export delete %s forgets that)\n", e.Name, e.MovedTo, e.Name)
		}
	}
	for _, e := range exports {
		if e.Writethrough != "" && e.Writethrough != "off" {
			fmt.Fprintf(w, "%s copies pages to storage: %s\n", e.Name, writethrough(e))
		}
	}
}

func printBackends(w io.Writer, list []admin.Backend) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no backend is loaded: pages go to storage")
		return
	}
	rows := [][]string{{"BACKEND", "KIND", "STATE", "DATA", "MEMORY", "LIMIT", "RATIO", "SAME-FILLED", "REFUSED", "ERRORS"}}
	for _, b := range list {
		refused := uint64(0)
		for _, n := range b.Refused {
			refused += n
		}
		rows = append(rows, []string{
			b.Name, b.Kind, b.State, pages(int64(b.Pages + b.EphemeralPages)), cli.Bytes(b.HeldBytes), cli.Bytes(b.LimitBytes), ratio(b),
			fmt.Sprint(b.SameFilledPages), fmt.Sprint(refused), fmt.Sprint(b.LoadErrors),
		})
	}
	table(w, rows)
	for _, b := range list {
		if b.Reason != "" {
			fmt.Fprintf(w, "%s is %s: %s\n", b.Name, b.State, b.Reason)
		}
		if b.LimitBytes < b.MaxBytes {
			fmt.Fprintf(w, "%s may take %s of %s: the host is or was short of memory\n", b.Name, cli.Bytes(b.LimitBytes), cli.Bytes(b.MaxBytes))
		}
		if b.Drain != nil && b.Drain.Running {
			event := admin.MoveEvent{Backend: b.Name, Progress: *b.Drain}
			if b.State == "draining" {
				event.Operation = admin.OperationUnload
			}
			fmt.Fprintln(w, progressLine(event))
		}
	}
}

// ratio is how many bytes of pages one byte of memory holds.
func ratio(b admin.Backend) string {
	if b.Pages+b.EphemeralPages == 0 || b.HeldBytes == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", float64((b.Pages+b.EphemeralPages)*backends.PageSize)/float64(b.HeldBytes))
}

func printClients(w io.Writer, clients []admin.Attachment, now time.Time) {
	rows := [][]string{{"CLIENT", "EXPORT", "FOR"}}
	for _, c := range clients {
		rows = append(rows, []string{clientName(c), c.Export, now.Sub(c.Since).Round(time.Second).String()})
	}
	table(w, rows)
}

func clientName(c admin.Attachment) string {
	name := c.Remote
	if c.PID != 0 {
		name = fmt.Sprintf("process %d", c.PID)
	}
	switch {
	case c.Certificate != "":
		return fmt.Sprintf("%s (%s)", name, plainName(c.Certificate))
	case c.Encrypted:
		return name + " (TLS)"
	}
	return name
}

func printMemory(w io.Writer, memory []admin.Memory) {
	rows := [][]string{{"MEMORY FOR", "TAKEN", "MAPPED"}}
	for _, m := range memory {
		rows = append(rows, []string{m.Purpose, cli.Bytes(uint64(m.Resident)), cli.Bytes(uint64(m.Mapped))})
	}
	table(w, rows)
}
