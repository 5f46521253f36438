// Package tlsstream moves many TLS records with one system call.
//
// Left to itself crypto/tls makes a system call for each record in either direction, which
// undoes the batches that whoever speaks a pipelined protocol lives on: a Read returns one
// record, though ten are there, and a Write of ten is ten writes.
//
// nbd has one for each encrypted connection, and so have the daemon's connections to
// donors of memory and of owners.
//
// # Not promised
//
// That a Write is one system call: it is one for each [recordBuffer] bytes.
package tlsstream
