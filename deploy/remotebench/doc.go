// Package remotebench measures other hosts' memory beside what else there is to be had
// over TCP: nbdkit's memory plugin, attached as a remote RAM disk, and Redis with its
// pipelined Go client. It has nothing but a benchmark: make bench-remote.
//
// All run in turn on the same pages of real processes, each server in a process of its
// own, over loopback TCP. ramster alone encrypts (mutual TLS 1.3, and each page sealed);
// with two copies it sends each page to two donors. A write counts when it is
// acknowledged and, at the end of each cell, all that was acknowledged has arrived at
// the donors; but for a burst, which the staging area takes.
//
// Writes go anywhere in 64 MiB, which the staging area could hold: a page that is written
// anew before it was sent is sent once, so donors see fewer writes than are counted.
//
// Loopback flatters whoever sends more bytes: a network of 1 Gbit/s has 30,000 plain
// pages a second, and compressed ones twice as many.
package remotebench
