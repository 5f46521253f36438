package ctl

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/attach"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/doctor"
)

func (t *tool) doctor() *cobra.Command {
	var runDir, root string
	command := &cobra.Command{
		Use:   "doctor",
		Short: "Check what a host needs that swaps to tmemd, or serves others",
		Long: "Check what a host needs that swaps to tmemd, or serves others, and say how to cure what is\n" +
			"missing. It changes nothing. The exit status is 1 if there is a problem.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			facts := doctor.Facts{Root: root, Free: freeAt}
			var err error
			if facts.Attachments, err = attach.Records(runDir); err != nil {
				return err
			}
			t.findDaemon(c.Context(), &facts)
			findings := doctor.Examine(facts)
			// A daemon looks each second whether this host swaps through it; who attached just now would be told of a problem
			// that is none.
			for tries := 0; root == "/" && tries < 3 && slices.ContainsFunc(findings, settles); tries++ {
				time.Sleep(time.Second)
				findings = doctor.Examine(facts)
			}
			if err := t.show(findings, func(w io.Writer) { printFindings(w, findings) }); err != nil {
				return err
			}
			if n := doctor.Count(findings, doctor.Problem); n > 0 {
				return cli.Failure("each has its cure above", "problems found: %d", n)
			}
			return nil
		},
	}
	command.Flags().StringVar(&runDir, "run-dir", attach.DefaultRunDir, "`folder` for records of what is attached")
	command.Flags().StringVar(&root, "root", "/", "`folder` in which /proc and /sys are")
	return command
}

// settles says whether a finding may be gone a moment later.
func settles(f doctor.Finding) bool { return f.State == doctor.Problem && f.Check == "realtime" }

// freeAt is how much is free for others than root where a path is.
func freeAt(path string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, fmt.Errorf("look for free space at %s: %w", path, err)
	}
	return s.Bavail * uint64(s.Bsize), nil
}

// findDaemon asks the daemon of this host, if there is one.
func (t *tool) findDaemon(ctx context.Context, facts *doctor.Facts) {
	client, err := t.client()
	if err != nil {
		facts.DaemonError = err.Error()
		return
	}
	defer client.Close()
	s, err := client.Status(ctx)
	if err != nil {
		facts.DaemonError = err.Error()
		return
	}
	facts.Daemon = &s
}

// printFindings prints a line for each, and its cure below it if there is
// something to do.
func printFindings(w io.Writer, findings []doctor.Finding) {
	for _, f := range findings {
		fmt.Fprintf(w, "%-8s %s: %s: %s\n", f.State, f.Subject, f.Check, f.Detail)
		if f.Cure != "" && f.State != doctor.OK {
			fmt.Fprintf(w, "         cure: %s\n", f.Cure)
		}
	}
	fmt.Fprintf(w, "%d problems, %d warnings\n", doctor.Count(findings, doctor.Problem), doctor.Count(findings, doctor.Warning))
}
