package ctl

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
)

func (t *tool) diskCreate() *cobra.Command {
	var request admin.DiskRequest
	command := &cobra.Command{
		Use:   "create NAME --path FILE",
		Short: "Serve a disk, now and after the next start",
		Long: "Serve a disk, now and after the next start.\n\n" +
			"FILE is a file or a block device with content, such as a file system; with --size it is a\n" +
			"new file. With --base it is an overlay over one of the [[base]] images of the configuration,\n" +
			"and is made if it is not there.",
		Example: "  tmemctl disk create scratch --path /srv/scratch.img --size 4GiB\n" +
			"  tmemctl disk create vm7 --path /srv/vm7.overlay --base debian",
		Args: oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			if request.Path == "" {
				return cli.Misuse("say --path FILE, such as --path /srv/"+args[0]+".img", "where is the content of disk %s?", args[0])
			}
			request.Name = args[0]
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				d, err := client.CreateDisk(ctx, request)
				if err != nil {
					return err
				}
				return t.show(d, func(w io.Writer) {
					fmt.Fprintf(w, "created disk %s, %s, storage %s\n", d.Name, cli.Bytes(uint64(d.SizeBytes)), d.Storage.Path)
				})
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := command.Flags()
	flags.StringVar(&request.Path, "path", "", "`path` of its file or block device")
	flags.StringVar(&request.Size, "size", "", "make a file of this `size`, such as 8GiB")
	flags.BoolVar(&request.ReadOnly, "read-only", false, "let nobody write it")
	flags.StringVar(&request.Base, "base", "", "`name` of the base that it is an overlay over")
	flags.StringVar(&request.Shared, "shared", "", "`UUID` of the base that it has the same content as, to share cached pages with; with --read-only")
	flags.StringVar(&request.Mode, "mode", "", "`mode` of its cache: inclusive or exclusive (default inclusive)")
	flags.StringArrayVar(&request.Allow, "allow", nil, "`rule` about who may open it: cert:NAME, uid:NUMBER or gid:NUMBER; may be repeated")
	return command
}

func (t *tool) diskResize() *cobra.Command {
	var request admin.DiskResizeRequest
	command := &cobra.Command{
		Use:   "resize NAME [SIZE]",
		Short: "Give a disk that no client is attached to another size",
		Long: "Give a disk that no client is attached to another size: its file gets longer, and what it\n" +
			"gains reads as zeros; or shorter, with --discard. Without SIZE the disk takes the size that\n" +
			"its file or block device has by now. An overlay is as long as its base.",
		Example: "  tmemctl disk resize scratch 16GiB",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return cli.Misuse(c.CommandPath()+" --help shows how", "%s takes the name of a disk and a size, not %d arguments", c.CommandPath(), len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 2 {
				request.Size = args[1]
			}
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				d, err := client.ResizeDisk(ctx, args[0], request)
				if err != nil {
					return err
				}
				return t.show(d, func(w io.Writer) { fmt.Fprintf(w, "disk %s has %s now\n", d.Name, cli.Bytes(uint64(d.SizeBytes))) })
			})
		},
		ValidArgsFunction: t.completeDisks(),
	}
	command.Flags().BoolVar(&request.Discard, "discard", false, "give up what is beyond a new end")
	return command
}

func (t *tool) diskDelete() *cobra.Command {
	var request admin.DeleteRequest
	command := &cobra.Command{
		Use:   "delete NAME",
		Short: "Stop to serve a disk that no client is attached to",
		Long: "Stop to serve a disk that no client is attached to. Its content stays where it is.\n\n" +
			"A disk that the configuration names is back after the next start.",
		Args: oneArgument("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				if err := client.DeleteDisk(ctx, args[0], request); err != nil {
					return err
				}
				return t.show(request, func(w io.Writer) { fmt.Fprintf(w, "deleted disk %s\n", args[0]) })
			})
		},
		ValidArgsFunction: t.completeDisks(),
	}
	command.Flags().BoolVar(&request.RemoveStorage, "remove-storage", false, "remove the file that was made for it, too")
	return command
}
