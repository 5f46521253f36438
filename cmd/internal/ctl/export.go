package ctl

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

func (t *tool) exportList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the exports, with their storage",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				exports, err := client.Exports(ctx)
				if err != nil {
					return err
				}
				return t.show(exports, func(w io.Writer) {
					printExports(w, exports)
					fmt.Fprintln(w)
					printStorage(w, exports)
				})
			})
		},
	}
}

func printStorage(w io.Writer, exports []admin.Export) {
	rows := [][]string{{"STORAGE", "EXPORT", "TAKEN", "O_DIRECT", "READ", "WRITTEN", "GIVEN BACK", "ERRORS"}}
	for _, e := range exports {
		direct := "no"
		if e.Storage.Direct {
			direct = "yes"
		}
		s := e.Storage
		rows = append(rows, []string{
			s.Path, e.Name, cli.Bytes(uint64(s.AllocatedBytes)), direct, pages(int64(s.PagesRead)), pages(int64(s.PagesWritten)),
			pages(int64(s.PagesPunched)), fmt.Sprint(s.ReadErrors + s.WriteErrors + s.PunchErrors),
		})
	}
	table(w, rows)
}
