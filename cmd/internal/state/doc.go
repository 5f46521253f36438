// Package state keeps the state folder of one daemon: who may use it, and what
// the last run left on storage.
//
// The daemon opens a [Folder] before anything else and closes it last.
//
//	DIR/lock         held (flock) while a daemon uses the folder; has its process id
//	DIR/state.json   what was exported, which disks requests made, and whether it was
//	                 stopped properly
//	DIR/nbd.sock     sockets, made by the daemon
//	DIR/admin.sock
//	DIR/NAME.img     storage of the export NAME, unless it is elsewhere
//
// state.json also says where the memory folder is (see package daemon), and has the
// identity that its files have to have, and the exports' numbers in it.
//
// Invariants:
//
//	D1  At most one process has a Folder of one path open. The system drops the
//	    lock with the process, however it dies.
//	D2  state.json is one complete state at every instant: the new one is written
//	    beside it, brought to the medium and moved over it.
//	D3  clean is true only if storage alone is every export that is not deleted.
//	D4  A deleted export whose storage was kept is remembered until an export of
//	    its name is served again.
//	D5  The number of an export stays the same, and is not given to another one.
//
// Not promised: that storage was left alone while no daemon ran.
package state
