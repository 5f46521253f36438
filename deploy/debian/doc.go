// Package debian makes a Debian package: `make deb`, which runs build.sh. Nobody imports it; its test is part of `make interop`.
//
//	build.sh          makes the package of the built programs, with dpkg-deb alone
//	copyright.sh      prints its copyright file, with the licences of what is linked
//	tmemd.default     /etc/default/tmemd, the daemon's flags
//	postinst, prerm, postrm
//
// /etc/tmemd/tmemd.toml is the reference of the configuration (cmd/internal/config). Units are those of deploy/systemd, completions are what tmemctl completion prints, manual pages are made of the commands
// (cmd/internal/manpages).
//
// # What the package promises
//
//	K1  Installed, it changes nothing: no unit is enabled or started. The configuration file says what is the default anyway, and
//	    the daemon works when it is started.
//	K2  A removal does not take away a daemon that somebody swaps to, or the programs that look after a device: it is refused, with
//	    the cure. Else it stops the daemon, which moves every page to storage first.
//	K3  An upgrade leaves a running daemon as it is. tmemctl upgrade makes it the new one.
//	K4  Removed, it leaves settings and storage; purged, nothing but the user's line in /etc/passwd and what others put into /etc/tmemd.
//	K5  The same source, Go and dpkg give the same file, byte for byte.
//
// # Not promised
//
// A package for Debian's archive: it brings its Go modules along.
package debian
