package config

import (
	_ "embed" // Reference
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/tmemd/tmemd/cmd/internal/cli"
)

// Action is what the command line asks tmemd to do.
type Action int

// The actions.
const (
	ActionRun     Action = iota
	ActionCheck          // check the settings and end
	ActionHelp           // print Help and end
	ActionVersion        // print the version and end
	ActionPrint          // print Reference and end
)

// Reference is a configuration file with every key explained, which changes nothing.
//
//go:embed reference.toml
var Reference string

// Help is what --help prints.
const Help = `tmemd serves swap over NBD: pages go to compressed memory while there is room,
and to a file or block device otherwise.

usage: tmemd [flags]
       tmemd donor --config FILE [flags] lend memory to other hosts, serve no swap
       tmemd check [--state-dir DIR]     examine what a daemon left, change nothing

Without any flag it serves the export "swap", as large as this machine's RAM,
with 20 % of RAM for compressed pages, and prints how to attach it.

  --state-dir DIR         folder of this instance: sockets, state and storage
                          (default /var/lib/tmemd for root, else
                          $XDG_STATE_HOME/tmemd or ~/.local/state/tmemd)
  --memory-dir DIR        folder on a tmpfs for pages and what describes them: with
                          it a daemon that was killed loses nothing, as the next
                          one takes over; or off, for memory that ends with the
                          process (default /dev/shm/tmemd-CODE, with a code for DIR)
  --size SIZE             size of the export: 512MiB, 8GiB, 100% of RAM
  --backend KIND          what to load at start: none, zcache or ramster
                          (default zcache)
  --listen ADDRESS        where to serve NBD: unix:///PATH or tcp://HOST:PORT;
                          may be repeated (default unix://DIR/nbd.sock)
  --metrics HOST:PORT     where to serve Prometheus metrics, /healthz, /readyz and a
                          page for browsers, or off (default 127.0.0.1:9757)
  --status-page=false     without that page
  --config FILE           TOML file for these and all other settings
  --print-config          print such a file, with every key explained
  --fresh                 empty the storage first; swap has to be made again
  --allow-faults          let tmemctl fault make backends and storage fail, to
                          rehearse it; not for use in earnest
  --check                 check the settings, start nothing
  --log-level LEVEL       debug, info, warn or error (default info)
  --version               print the version
  --help                  print this

To stop it: swapoff on the clients, then SIGTERM. It moves every page to storage
first and waits for the last client. A second SIGTERM does not wait for clients.
`

// flags is the command line, not looked at yet.
type flags struct {
	stateDir, memory, size, backend, metrics, config, logLevel string

	listen []string
	status bool
	fresh  bool
	faults bool
	donor  bool            // the command is tmemd donor
	given  map[string]bool // names of the flags that were there
}

func parseFlags(args []string) (flags, Action, error) {
	f := flags{given: map[string]bool{}}
	if len(args) > 0 && args[0] == "donor" {
		f.donor, args = true, args[1:]
	}
	var check, version, reference bool
	set := flag.NewFlagSet("tmemd", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&f.stateDir, "state-dir", "", "")
	set.StringVar(&f.memory, "memory-dir", "", "")
	set.StringVar(&f.size, "size", "", "")
	set.StringVar(&f.backend, "backend", "", "")
	set.StringVar(&f.metrics, "metrics", "", "")
	set.StringVar(&f.config, "config", "", "")
	set.StringVar(&f.logLevel, "log-level", "", "")
	set.BoolVar(&f.status, "status-page", true, "")
	set.BoolVar(&f.fresh, "fresh", false, "")
	set.BoolVar(&f.faults, "allow-faults", false, "")
	set.BoolVar(&check, "check", false, "")
	set.BoolVar(&version, "version", false, "")
	set.BoolVar(&reference, "print-config", false, "")
	set.Func("listen", "", func(text string) error {
		f.listen = append(f.listen, text)
		return nil
	})
	const hint = "tmemd --help lists the flags"
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return f, ActionHelp, nil
	case err != nil:
		return f, ActionRun, cli.Misuse(hint, "%s", withTwoDashes(err.Error()))
	case set.NArg() > 0:
		return f, ActionRun, cli.Misuse(hint, "tmemd takes no arguments, not %q", set.Arg(0))
	}
	set.Visit(func(given *flag.Flag) { f.given[given.Name] = true })
	for _, name := range []string{"size", "backend", "listen"} {
		if f.donor && f.given[name] {
			return f, ActionRun, cli.Misuse("leave it out: what is lent is set below [donor] in the file", "--%s: tmemd donor serves no swap", name)
		}
	}
	switch {
	case version:
		return f, ActionVersion, nil
	case reference:
		return f, ActionPrint, nil
	case check:
		return f, ActionCheck, nil
	}
	return f, ActionRun, nil
}

// withTwoDashes spells a flag in an error of package flag as Help spells it.
func withTwoDashes(message string) string {
	for _, lead := range []string{"not defined: ", "for flag ", "needs an argument: ", "for "} {
		if before, after, found := strings.Cut(message, lead+"-"); found {
			return fmt.Sprintf("%s%s--%s", before, lead, strings.TrimPrefix(after, "-"))
		}
	}
	return message
}
