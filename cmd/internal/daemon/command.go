package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/journal"
	"github.com/tmemd/tmemd/cmd/internal/protect"
	"github.com/tmemd/tmemd/cmd/internal/state"
	"github.com/tmemd/tmemd/cmd/internal/systemd"
)

// Command is tmemd: it does what the arguments ask for and returns the exit
// code. What the user is to read goes to stdout, the log and errors to stderr.
func Command(args []string, version string, stdout, stderr io.Writer) int {
	return cli.Report(stderr, command(args, cli.Version(version), stdout, stderr))
}

func command(args []string, version string, stdout, stderr io.Writer) error {
	heir, err := NewHeir()
	if err != nil {
		return err
	}
	// The program before this one had its host's swap to serve, and nobody does now.
	urgent := heir != nil && protect.IsUrgent()
	if urgent && heir.runs() {
		protect.Regain()
	}
	host, err := config.ThisHost(Kinds())
	if err != nil {
		return err
	}
	if len(args) > 0 && args[0] == "check" {
		return checkCommand(args[1:], host, stdout)
	}
	c, action, err := config.Parse(args, host)
	if err != nil {
		return err
	}
	switch action {
	case config.ActionHelp:
		_, err := io.WriteString(stdout, config.Help)
		return err
	case config.ActionPrint:
		_, err := io.WriteString(stdout, config.Reference)
		return err
	case config.ActionVersion:
		_, err := fmt.Fprintln(stdout, "tmemd", version)
		return err
	case config.ActionCheck:
		_, err := fmt.Fprintln(stdout, "the settings are good")
		return err
	}
	bootID, err := state.BootID()
	if err != nil {
		return err
	}
	if heir != nil {
		c.Fresh = false // that was the first program's business
		if heir.rehearses {
			return runRehearsal(c, heir, host.RAM, bootID, urgent, stdout)
		}
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find out which program this is: %w", err)
	}
	// Sockets and storage are this user's alone, from the moment they exist.
	unix.Umask(0o077)
	// From here on a signal finds somebody who brings pages to safety.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	// A terminal that is closed asks for the same, unless nohup said otherwise. A
	// daemon that has none is asked to read certificates anew.
	hangups := make(chan os.Signal, 1)
	switch {
	case signal.Ignored(unix.SIGHUP):
	case hasTerminal():
		signal.Notify(signals, unix.SIGHUP)
	default:
		signal.Notify(hangups, unix.SIGHUP)
	}
	defer signal.Stop(signals)
	defer signal.Stop(hangups)
	upgrades := make(chan os.Signal, 1)
	signal.Notify(upgrades, unix.SIGUSR2)
	defer signal.Stop(upgrades)
	// Whoever reads the log may go away; that must not end us, as it would by
	// default, with pages in memory.
	signal.Ignore(unix.SIGPIPE)

	lines := journal.New(c.LogLevel)
	log := slog.New(lines.Handler(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: lines.Leveler()})))
	// Before anything is made: what is mapped from now on is locked as it is.
	room := roomOf(host.RAM)
	protection, err := protect.Apply(c.Protect, servesLocally(c), room, log)
	if err != nil {
		return err
	}
	// Not before this host swaps through us, but while it waits for us.
	urgent, inherited := urgent && protection.Wanted, urgent
	if protection.Wanted || inherited {
		if err := protect.SetUrgent(urgent); err != nil {
			return err
		}
	}
	d, err := Open(Options{
		Config: c, Version: version, RAM: host.RAM, BootID: bootID, Log: log, Journal: lines,
		Settings: func() (*config.Config, error) {
			fresh, _, err := config.Parse(args, host)
			return fresh, err
		},
		Protection: protection, Urgent: urgent, Inherited: append(activation.Files(true), heir.inherited()...),
		Program: program, Upgrades: upgrades, Heir: heir,
	})
	if err != nil {
		return err
	}
	protection.Settle(room)
	defer d.reloadOn(hangups)()
	return d.Run(signals, func() {
		if _, err := io.WriteString(stdout, d.Announcement()); err != nil {
			log.Warn("cannot print how to attach", "error", err)
		}
		if err := systemd.Notify(os.Getenv("NOTIFY_SOCKET"), "READY=1"); err != nil {
			log.Warn("cannot tell the service manager", "error", err)
		}
	})
}

// roomOf is what the daemon has to spare on a host with so many bytes of memory. The
// Go heap holds books, not pages, and the garbage of the admin API and of metrics;
// threads wait for storage. A small host has no 48 MiB to spare: a collection is due
// earlier there.
func roomOf(ram int64) protect.Room {
	return protect.Room{Heap: min(max(ram/16, 16<<20), 48<<20), Threads: 48}
}

// servesLocally says whether this host can attach without TCP.
func servesLocally(c *config.Config) bool {
	return slices.ContainsFunc(c.Listen, func(a config.Address) bool { return a.Network == "unix" })
}
