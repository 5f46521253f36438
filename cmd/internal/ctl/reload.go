package ctl

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
)

func (t *tool) reload() *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the certificates of TLS read anew",
		Long: "Have the files of [nbd.tls] read anew. New connections get the new certificates,\n" +
			"open ones keep theirs. If the new ones are no good, the old ones are used on.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				told, err := client.Reload(ctx)
				if err != nil {
					return err
				}
				return t.show(told, func(w io.Writer) { fmt.Fprintf(w, "read anew: %s\n", tlsLine(told)) })
			})
		},
	}
}

func tlsLine(t admin.TLS) string {
	line := "optional"
	if t.Required {
		line = "required on TCP"
	}
	if t.ClientCertificates {
		line += ", clients show certificates"
	}
	return fmt.Sprintf("%s, ours is %s, good until %s", line, plainName(t.Certificate), t.Expires.UTC().Format(time.DateTime))
}

// plainName keeps what somebody put into a certificate from being more than a
// word on a terminal.
func plainName(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return !strconv.IsGraphic(r) || r == ' ' }) || name == "" {
		return strconv.QuoteToGraphic(name)
	}
	return name
}
