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
		Short: "Have certificates, and the files that list donors, read anew",
		Long: "Have the files of [nbd.tls], [ramster.tls] and [donor.tls] read anew, and those of donors_file.\n" +
			"New connections get the new certificates, open ones keep theirs. If one of the new ones is no\n" +
			"good, all old ones are used on.",
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
