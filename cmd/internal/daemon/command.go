package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/config"
	"github.com/tmemd/tmemd/cmd/internal/state"
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
			if err := rehearse(Options{Config: c, BootID: bootID, Log: slog.New(slog.DiscardHandler), Heir: heir}); err != nil {
				return err
			}
			_, err := fmt.Fprintln(stdout, rehearsed)
			return err
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
	// A terminal that is closed asks for the same, unless nohup said otherwise.
	if !signal.Ignored(unix.SIGHUP) {
		signal.Notify(signals, unix.SIGHUP)
	}
	defer signal.Stop(signals)
	upgrades := make(chan os.Signal, 1)
	signal.Notify(upgrades, unix.SIGUSR2)
	defer signal.Stop(upgrades)
	// Whoever reads the log may go away; that must not end us, as it would by
	// default, with pages in memory.
	signal.Ignore(unix.SIGPIPE)

	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: c.LogLevel}))
	d, err := Open(Options{
		Config: c, Version: version, RAM: host.RAM, BootID: bootID, Log: log, Program: program, Upgrades: upgrades, Heir: heir,
	})
	if err != nil {
		return err
	}
	return d.Run(signals, func() {
		if _, err := io.WriteString(stdout, d.Announcement()); err != nil {
			log.Warn("cannot print how to attach", "error", err)
		}
	})
}
