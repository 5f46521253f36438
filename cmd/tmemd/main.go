// Command tmemd serves swap over NBD: pages that a kernel swaps out go to
// compressed memory while there is room, and to a file or block device
// otherwise.
//
// Without flags it serves the export "swap", as large as RAM, with 20 % of RAM
// for compressed pages, and prints the commands that attach it. tmemd --help
// lists the flags; tmemctl is its remote control.
//
// # How it stops
//
// This is a promise. On SIGTERM or SIGINT tmemd
//
//  1. stops accepting connections, and loads no backend any more;
//  2. moves every page that a backend holds to storage, while clients that are
//     attached are served as before; an unload that is under way is waited for;
//  3. serves the clients from storage until the last one has left, and logs who
//     they are;
//  4. makes storage complete (pages that were trimmed read as zero there too, and
//     all is on the medium), notes in the state folder that it ended cleanly, and
//     exits with status 0.
//
// A second signal skips step 3: clients get errors, which kill programs whose
// pages are swapped out. No signal skips step 2 or 4. If they fail, because
// storage is full, say, tmemd says why, loses nothing, accepts connections again
// and serves on; another signal tries again.
//
// kill -9 is the other way to stop it, and loses nothing either: pages and what
// describes them are in a folder on memory (--memory-dir), and the next start in the
// same boot of the machine takes them over. If that is not possible it says why, and
// refuses to serve what is left (--fresh empties it). In a later boot it starts with
// empty storage, as swap does not outlive a boot. tmemd check says what would happen.
//
// SIGUSR2 and tmemctl upgrade replace the running program by the one that is
// installed by now; if that cannot take over, this one serves on.
//
// SIGHUP counts as SIGTERM if tmemd was started from a terminal, which sends it
// when it is closed. Without one it has the configuration file and the certificates of
// TLS read anew, as tmemctl reload does.
//
// # Exit status
//
//	0  stopped, everything is on storage
//	1  could not start or not end as it should
//	2  a flag or the configuration file is wrong
package main

import (
	"os"

	"github.com/tmemd/tmemd/cmd/internal/daemon"
)

// version is set by the linker.
var version string

func main() {
	os.Exit(daemon.Command(os.Args[1:], version, os.Stdout, os.Stderr))
}
