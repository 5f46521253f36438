// Package cli holds what tmemd and tmemctl share at their edge to a human:
// errors that name a cure, exit codes, and how sizes and the version are
// spelled.
//
// Exit codes, the same for both commands:
//
//	0  done
//	1  it was asked for correctly and failed
//	2  it was not asked for correctly: a flag, an argument, a configuration file
package cli
