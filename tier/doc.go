// Package tier makes a device of an export: it cuts requests into pages, holds
// the page locks, merges parts of pages with the newest data, offers whole pages
// to frontswap, and keeps on storage what no backend takes. It is what the swap
// layer (mm/page_io.c, the swap file) is in the kernel.
//
// The NBD server calls a [Device]; the daemon opens one for each export, on a
// [Storage] that the device owns from then on. [File] is the storage of the
// product; tests put faults between.
//
// # Words
//
//	page      4096 bytes at a multiple of 4096
//	block     256 pages at a multiple of 256: the most that is locked at once
//	storage   the file or block device below an export
//	hole      a page that reads as zeros and needs no space
//
// # Invariants
//
//	T1  A page is a register: a read that starts after a write was answered gives
//	    that write or a later one, whatever backends come and go meanwhile. Requests
//	    for several pages are atomic page by page, not as a whole.
//	T2  A part of a page is merged with the newest content of its page, under one
//	    exclusive lock.
//	T3  A write fails only if storage fails. The page is then as it was, unless
//	    storage had it: then it is what the failed write left there.
//	T4  Storage never sees two operations on one page at once of which one writes
//	    or punches: writers hold the page exclusively, drains and copies for update,
//	    and the puncher holds off all writes to the block's storage.
//	T5  Trim never touches storage and never waits for it: the puncher does the work
//	    later, on pages that are still holes, and without their locks.
//
//	T6  What a device gains by a resize reads as zeros, whatever storage has there.
//	    What it loses is gone from backends and storage before anybody could find it
//	    again; a move that is at work there is waited for, a block of it.
//	T7  Storage is written after a word says that it may have something: a process that
//	    dies in between leaves the page as it was, or as it was written.
//
//	T8  Of a log of changes (changes.go): a change that a client was told of is in what
//	    was copied last, or marked to be copied again; from Hold on nothing changes, and
//	    after Leave nothing is read or changed any more.
//	T9  Save gives pages that were proved right, or fails; Restorer takes nothing in that
//	    it has not proved.
//
// # Another process
//
// A device opened with Takeover has the words of the process before. Resume, after
// frontswap's, marks every block with holes for the puncher; storage counts as
// written and not synced from the start; turning writethrough on marks all blocks.
//
// # Lock order
//
// Device.resizing first, and one page lock at a time below it. Page locks of one block, ascending (see frontswap); then the block's storage
// lock; then whatever backends and storage lock inside. [Device.TryReadAt] and [Device.TryWriteAt] hold one page
// at a time and never wait for a lock.
//
// # Not promised
//
// Durability of pages in backends: Sync covers what storage has. Space on
// storage: the file is sparse, so a full disk shows when a page is written, as
// ENOSPC to the client if no backend takes the page either. Space under a page that
// a backend took over is kept until the page is trimmed.
package tier
