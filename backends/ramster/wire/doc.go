// Package wire is the protocol between owners and donors of memory as Go code:
// headers, records and their bounds. PROTOCOL.md in the folder above is its
// specification.
//
// Packages peer (the owner's side) and donor call it. It does no I/O, keeps no
// state and does not allocate.
//
// # Invariants
//
//	W1  Decode accepts exactly what Encode can make of a header that is in bounds:
//	    every bound of PROTOCOL.md is checked here, before any field is used.
//	W2  Decode never panics and reads nothing but its argument.
//
// # Not promised
//
// That a header which is in bounds makes sense where it comes: numbers, sessions,
// pools and rights are the callers' to check.
package wire
