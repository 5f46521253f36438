// Package nbdtest is a small NBD client for tests of the commands: one request
// at a time, errors as the server tells them. Like the test vectors it is
// written from the protocol (NetworkBlockDevice/nbd, doc/proto.md), not with the
// server's own constants.
package nbdtest
