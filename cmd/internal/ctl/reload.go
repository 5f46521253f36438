package ctl

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/view"
)

func (t *tool) reload() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the configuration file, certificates and lists of donors read anew",
		Long: "Have the configuration file read anew, the files of [nbd.tls], [ramster.tls] and [donor.tls], and\n" +
			"those of donors_file.\n\n" +
			"If anything in the configuration file is wrong, nothing is changed. What differs from the last\n" +
			"time is told key by key: applied is log_level, writethrough of exports, mode of disks, and the\n" +
			"settings of each zcache; the rest waits for a restart (systemctl restart tmemd). New connections\n" +
			"get the new certificates, open ones keep theirs. If one of the new ones is no good, all old ones\n" +
			"are used on.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				told, err := client.Reload(ctx)
				if err != nil {
					return err
				}
				return t.show(told, func(w io.Writer) { printReloaded(w, told) })
			})
		},
	}
}

func printReloaded(w io.Writer, r admin.Reloaded) {
	if r.File != "" {
		fmt.Fprintf(w, "read anew: %s\n", r.File)
		if len(r.Applied)+len(r.Restart) == 0 {
			fmt.Fprintln(w, "nothing in it is different")
		}
	}
	for _, group := range []struct {
		of      string
		changes []admin.Change
	}{{"applied", r.Applied}, {"waits for a restart", r.Restart}} {
		for _, c := range group.changes {
			line := fmt.Sprintf("%s: %s: %s -> %s", group.of, c.Key, saysDefault(c.Old), saysDefault(c.New))
			if c.Note != "" {
				line += " (" + c.Note + ")"
			}
			fmt.Fprintln(w, line)
		}
	}
	if r.TLS != nil {
		fmt.Fprintf(w, "read anew: %s\n", view.TLSLine(*r.TLS))
	}
	for _, side := range []struct {
		of   string
		read *admin.TLS
	}{{"to donors", r.Ramster}, {"as a donor", r.Donor}} {
		if side.read != nil {
			fmt.Fprintf(w, "read anew: %s, %s\n", side.of, view.CertificateLine(*side.read))
		}
	}
	for _, file := range r.DonorsFiles {
		fmt.Fprintf(w, "read anew: %s\n", file)
	}
}

func saysDefault(value string) string {
	if value == "" {
		return "(default)"
	}
	return value
}
