// Command manpages writes the manual pages of tmemd and tmemctl to a folder, made from what the commands say of themselves:
// tmemd.8 from its help text, tmemctl.8 and one page for each of its commands from their descriptions and flags.
//
//	go run ./cmd/internal/manpages VERSION FOLDER
//
// It is run when a package is built (deploy/debian/build.sh), and is in no package itself. SOURCE_DATE_EPOCH is the date in the
// pages, so that the same source gives the same pages.
//
// Not promised: pages for commands that are hidden.
package main
