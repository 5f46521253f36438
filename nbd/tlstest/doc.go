// Package tlstest makes certificates for tests: an authority, and what it signs,
// in memory and as PEM files.
//
// Tests of every room use it. Keys are made anew by each test; nothing here is
// fit for anything else.
package tlstest
