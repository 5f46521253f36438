// Command tmemctl asks a running tmemd and tells it what to do: its status, its
// exports, and loading and unloading backends while swap is in use. It also measures any
// NBD server (bench), and says what zcache would make of a host's memory (estimate).
//
// It finds the daemon by its state folder (--state-dir) or admin socket
// (--socket). tmemctl --help lists the commands; --json makes every answer JSON.
//
// # Exit status
//
//	0  done
//	1  the daemon could not do it, or is not there
//	2  the command line is wrong
package main

import (
	"os"

	"github.com/tmemd/tmemd/cmd/internal/ctl"
)

// version is set by the linker.
var version string

func main() {
	os.Exit(ctl.Command(os.Args[1:], version, os.Stdout, os.Stderr))
}
