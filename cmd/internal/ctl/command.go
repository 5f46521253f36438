package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/bench"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/estimate"
)

// Command does what the arguments ask for and returns the exit code.
func Command(args []string, version string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	t := &tool{out: stdout, log: stderr}
	root := t.root(cli.Version(version))
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var told *cli.Error
	if err != nil && !t.understood && !errors.As(err, &told) {
		err = cli.Misuse("tmemctl --help lists commands and flags", "%v", err)
	}
	return cli.Report(stderr, err)
}

// tool is one run of tmemctl.
type tool struct {
	out        io.Writer
	log        io.Writer
	stateDir   string
	socket     string
	json       bool
	understood bool // the command line was right: errors are the command's
}

func (t *tool) root(version string) *cobra.Command {
	root := &cobra.Command{
		Use:           "tmemctl",
		Short:         "Ask a running tmemd, and tell it what to do",
		Version:       version,
		Args:          noCommand,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) {
			t.understood = true
		},
	}
	root.SetVersionTemplate("tmemctl {{.Version}}\n")
	flags := root.PersistentFlags()
	flags.StringVar(&t.stateDir, "state-dir", "", "`folder` of the daemon (default: the one that tmemd uses for this user)")
	flags.StringVar(&t.socket, "socket", "", "`path` of the daemon's admin socket (default: admin.sock in its folder)")
	flags.BoolVar(&t.json, "json", false, "print JSON")
	root.AddCommand(t.top(), t.logLines())
	root.AddCommand(bench.Command(t.out, t.log, &t.json))
	root.AddCommand(estimate.Command(t.out, t.log, &t.json))
	root.AddCommand(t.status(), t.reload(), t.upgrade(), t.attach(), t.detach(), t.doctor(), t.group("export", "Look at and change exports", t.exportList(), t.exportSet(), t.exportCreate(), t.exportResize(), t.exportSave(), t.exportRestore(), t.exportMove(), t.exportDelete()),
		t.clientCommands(), t.poolCommands(),
		t.group("disk", "Look at and change disks", t.diskList(), t.diskSet(), t.diskCreate(), t.diskResize(), t.diskDelete()),
		t.group("backend", "Look at, load and unload backends", t.backendList(), t.backendLoad(), t.backendUnload(), t.backendReplace(),
			t.backendFreeze(), t.backendThaw(), t.backendOrder(), t.backendShrink(), t.backendMigrate(), t.backendCancel(),
			t.backendShow(), t.backendSet()),
		t.group("donor", "Look at and change which hosts lend memory to this one", t.donorList(), t.donorAdd(), t.donorRemove()),
		t.group("lend", "Look at and change the memory that this host lends", t.lendStatus(), t.lendFreeze(), t.lendThaw(), t.lendSet()),
		t.group("fault", "Make backends and storage fail, to rehearse it (tmemd --allow-faults)", t.faultList(), t.faultSet(), t.faultClear()))
	t.completions(root)
	return root
}

// group is a command that only has others below it.
func (t *tool) group(name, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use:   name,
		Short: short,
		Args:  noCommand,
		RunE: func(c *cobra.Command, _ []string) error {
			return cli.Misuse(c.CommandPath()+" --help lists them", "which %s command?", name)
		},
	}
	g.AddCommand(commands...)
	return g
}

// noCommand is for commands that have others below them: what is left on the
// command line is not one of these.
func noCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := c.CommandPath() + " --help lists the commands"
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %s %s?", c.CommandPath(), near[0])
	}
	return cli.Misuse(hint, "there is no command %s %s", c.CommandPath(), args[0])
}

// oneArgument is for commands that take exactly one argument.
func oneArgument(name string) cobra.PositionalArgs { return arguments(1, "one "+name) }

// arguments is for commands that take so many.
func arguments(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return cli.Misuse(c.CommandPath()+" --help shows how", "%s takes %s, not %d arguments", c.CommandPath(), what, len(args))
	}
}

// client returns a client of the daemon that the flags name.
func (t *tool) client() (*admin.Client, error) {
	socket := t.socket
	if socket == "" {
		dir := t.stateDir
		if dir == "" {
			var err error
			if dir, err = config.DefaultStateDir(os.Geteuid() == 0, os.Getenv); err != nil {
				return nil, err
			}
		}
		socket = filepath.Join(dir, "admin.sock")
	}
	return admin.NewClient(socket), nil
}

// ask runs do with a client.
func (t *tool) ask(c *cobra.Command, do func(context.Context, *admin.Client) error) error {
	client, err := t.client()
	if err != nil {
		return err
	}
	defer client.Close()
	return do(c.Context(), client)
}

// show prints a value as JSON if that was asked for, else as text does.
func (t *tool) show(value any, text func(io.Writer)) error {
	if !t.json {
		text(t.out)
		return nil
	}
	encoder := json.NewEncoder(t.out)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// completeTimeout is how long a shell waits for names to complete.
const completeTimeout = 2 * time.Second

// complete makes a completion function for the first argument out of what the
// daemon says. A daemon that does not answer completes nothing.
func (t *tool) complete(names func(admin.Status) []string) cobra.CompletionFunc {
	return t.completeWith(func(ctx context.Context, client *admin.Client) ([]string, error) {
		status, err := client.Status(ctx)
		if err != nil {
			return nil, err
		}
		return names(status), nil
	})
}

// completeWith is complete for what is not in the status.
func (t *tool) completeWith(ask func(context.Context, *admin.Client) ([]string, error)) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		client, err := t.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(c.Context(), completeTimeout)
		defer cancel()
		names, err := ask(ctx, client)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
