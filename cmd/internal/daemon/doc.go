// Package daemon is tmemd without its command line: it puts exports, storage,
// frontswap, backends, the NBD server, the admin API and metrics together, and
// takes them apart again without losing a page.
//
// cmd/tmemd calls [Open], then [Daemon.Run]; tests do the same.
//
// # Phases
//
//	phase     new clients  requests            loads     leaves to
//	serving   yes          served              allowed   draining (first signal)
//	draining  no           served              refused   waiting (no backend left), serving (a drain failed)
//	waiting   no           served by storage   refused   settling (no client left, or a second signal)
//	settling  no           none                refused   the end, serving (storage failed)
//
// # Invariants
//
//	E1  The process ends by itself only after every backend has been drained and
//	    storage alone is every export, or if it never served. A second signal makes
//	    it stop waiting for clients, never for pages.
//	E2  state.json says clean from the moment in which E1 holds and nobody can write
//	    any more, until just before the next run serves.
//	E3  If a stop fails, the daemon serves on as if nobody had asked, and the next
//	    signal tries again. Only if it cannot even note that it is not clean any
//	    more does it stay between the two, serving nobody and losing nothing.
//	E4  There is one unload or replacement of a backend at a time; everybody who
//	    wants to see it gone joins it. It puts an end to a shrink or migration.
//	E5  No backend is registered from the moment in which a stop begins, but by a
//	    replacement that was under way, which the stop waits for.
//	E6  Certificates that cannot be used never replace ones that can. A configuration
//	    file that is wrong changes nothing; of one that is right, what can change live
//	    is changed, all or none (apply.go). A reload may come at any time.
//	E7  Pages in memory outlive the process if there is a memory folder: whatever ends
//	    it, the next one in the same boot takes over every page, or refuses to start
//	    and changes nothing. Nothing is half used.
//
// # Memory that outlives the process
//
// The memory folder, on a tmpfs, has
//
//	map-N.mem         the page map of export number N
//	NAME-TAG.arena.mem, NAME-TAG.chunks.mem   pages of the backend NAME
//	backends.mem      which backends there are: see record.go
//	NAME-TAG.ledger.mem                       who has pages of a ramster, and their key
//	donor.arena.mem, donor.chunks.mem, donor.pools.mem   pages that other hosts have here
//
// A stop in order removes it, but for what is lent: that is other hosts' swap, and the next
// run lends it on if it still has [donor]. A start finds one of
//
//	state.json  | memory folder           | then
//	clean       | anything                | it is emptied
//	not clean   | whole                   | takeover.go: checked, then adopted, then resumed
//	not clean   | damaged, missing, of    | refused, with what is wrong; --fresh gives all up
//	            | another version or boot |
//	not clean   | another identity        | refused, also with --memory-dir by mistake
//	--fresh     | anything                | it is emptied
//
// A stop that has pages that were lost (see frontswap) leaves the map and a state
// that is not clean, as only the map knows.
//
// # Upgrade
//
// upgrade.go has the steps. The process stays and becomes the new program, so locks,
// sockets and the process id stay too; a child with the new program rehearses the
// takeover first (rehearsal.go). If it cannot, the old program serves on. Clients have
// to connect again if the child failed when it had everything for itself, and do not
// notice if it failed before.
//
// The host's own kernel may be a client, and out of memory:
//
//	who              takes memory                       has locked it
//	the child        while requests are served, all     until the new program serves; besides its own,
//	                 that the rehearsal will need       the memory folder, the program's file and what
//	                                                    else is read at a start
//	the new program  what the old one had; it is in     from its first steps on, before anything else
//	                 the realtime class meanwhile
//
// # Exports
//
// Exports that a request creates are noted in state.json, and served by the next
// run with the same folder as if the configuration named them. A deleted export
// is forgotten, but for the storage that it leaves: what that has is not whole,
// so an export of the same name that the configuration brings back finds it
// emptied. Both are noted before the request is answered.
//
// A resize goes from below when an export grows (storage, device, state, then what
// new clients are told) and from above when it gets smaller, so nobody ever asks
// for a page that is not there. The size is noted, and stands against the
// configuration's until the export is made anew.
//
// # Saves, restores and moves
//
// transfers knows those that are under way: one for each export, and none begins without
// loading. An export that has one is not deleted or resized, and nothing is upgraded; a
// stop ends them first. They end with the request that began them.
//
//	E8  A restore is there with every page, or everything is as it was, whatever dies
//	    (restore.go has the states). Nobody reaches the export before.
//	E9  An export that moves is served by one daemon at a time. Until state.json says where
//	    it moved it is here; from then on it is refused here, in later runs too, until it
//	    is deleted (moveexport.go has the steps, package mover what is before).
//
// Not promised of a move: that state.json is the old one if saving the new one failed, and
// saving the old one once more failed too, and the process dies then. The log has an error.
//
// # Clients
//
// clients.go: those of the configuration, as requests changed them, and those that requests
// made, are noted in state.json with what they may have; like exports, before the request
// is answered. One that the configuration dropped stays while an export belongs to it.
// They are made before any page map is opened. Destroying one deletes its exports first.
//
// # Disks
//
// Those of the configuration, and those that requests made, which state.json lists for the
// next run, before the request is answered. They have no other state of ours: storage is
// the truth, and their cache begins empty. They are opened when backends are there, and
// closed, synced, before backends are; a takeover and an upgrade know nothing of them.
//
//	a disk that a request made   by                      in state.json
//	served                       create; a start         yes
//	not served                   a start, or a resize,   yes: the next start tries again
//	                             that could not open it
//	gone                         delete; the             no
//	                             configuration names it
//
// One that cannot be opened does not keep the daemon from serving swap; one of the
// configuration does, as anything wrong there. A resize closes a disk, which no client has,
// and opens it anew.
//
// # Sockets
//
// Sockets that a service manager hands over (Options.Inherited) replace all that
// the configuration names. They stay open until the daemon ends, whatever is
// accepted from them: clients that come meanwhile wait.
//
// # Memory that is borrowed and lent
//
// A ramster's donors are named by its settings, by requests, by a file and by DNS. The last
// two only take away what they brought (remote.list); all are recorded, so that a process
// that takes over knows them. Who a donor is, TLS tells (dial.go); who an owner is, its
// certificate, or the kernel (lending.go).
//
// Lending goes on while the daemon is stopping, until it has ended.
//
// # Locks
//
// loading is held for an upgrade as a whole, and to load a backend, to begin to
// replace one, to create, resize or delete an export or a disk, to begin and to commit a transfer (a
// move's pause included), and to begin a stop (E5); moves.mu and transfers.mu
// below it, for a moment each time, and urgency's lock, which an upgrade holds while
// nobody is served. mu guards what the NBD server is replaced in and exportsMu the list
// of exports and that of disks; nothing but devices' own locks is below them. reloading is
// held over one reload; what is below it are remote.mu, exportsMu and frontswap's locks, one
// after the other.
// remote.mu is held to change who donors are, and below frontswap's lock to record them:
// nothing that holds it records.
//
// # Not promised
//
// Pages in memory after a power cut or a crash of the kernel: they are gone, and
// the next start empties the storage, as swap does not outlive a boot. That a
// program which passed its rehearsal serves: if it fails afterwards, that is as if
// it had been killed. An upgrade to a program that knows no such rehearsal: it is
// refused. That an upgrade ends while storage does not answer: requests in flight are
// waited for. That an upgrade under the own host's swap ends whatever others do: the
// new program needs about what the old one leaves, others may be quicker to take it,
// and it has but a part of the kernel's reserve then (see vm.min_free_kbytes in
// tmemctl doctor).
package daemon
