// Package config turns tmemd's flags and its configuration file into one
// checked [Config], or into errors that name the setting, the line and the cure.
//
// cmd/tmemd calls [Parse] once at start. cmd/tmemctl uses the package for the
// default state folder and for sizes.
//
// A setting comes from, strongest first: a flag, the file, the default. Each
// remembers where it came from, so that an error found later (a socket that is
// taken) still names it: see [Config.Fault].
//
// Invariants:
//
//	G1  A Config that Parse returned is complete: every size is in bytes, every
//	    path is absolute, every name is unique, and every folder that the
//	    settings name was there. So were certificates and keys, and fit each
//	    other.
//	G2  All that is wrong with the settings is reported at once. Only a file that
//	    is not TOML ends the search early.
//	G3  Nothing is created, opened for writing or changed here, so that --check
//	    is safe beside a running daemon.
//
// Not promised: that what was checked still holds when the daemon uses it.
package config
