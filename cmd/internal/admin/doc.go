// Package admin is the daemon's admin API: its types, its server and its
// client. HTTP and JSON over the Unix socket admin.sock in the state folder,
// which only the daemon's user can open (mode 0600); that is all of its access
// control.
//
// The daemon implements [Service] and runs a [Server]; tmemctl uses the [Client].
//
//	GET  /v1/status                  → Status
//	POST /v1/reload                  → Reloaded
//	GET  /v1/log?lines=N&level=LEVEL → Log; with follow=1, one LogLine a line
//	PATCH /v1/log  LogSettings       → Log, without lines
//	GET  /v1/exports                 → []Export
//	POST /v1/exports  CreateRequest  → 201 Export
//	POST /v1/exports/NAME/resize  ResizeRequest → Export
//	POST /v1/exports/NAME/delete  DeleteRequest → DeleteRequest
//	PATCH /v1/exports/NAME  ExportSettings → Export
//	GET  /v1/disks                   → []Disk
//	POST /v1/disks  DiskRequest      → 201 Disk
//	POST /v1/disks/NAME/resize  DiskResizeRequest → Disk
//	POST /v1/disks/NAME/delete  DeleteRequest → DeleteRequest
//	PATCH /v1/disks/NAME  DiskSettings → Disk
//	GET  /v1/backends                → []Backend
//	POST /v1/backends  LoadRequest   → 201 Backend
//	GET  /v1/donors                  → []Donor
//	POST /v1/donors         DonorRequest → 201 Donor
//	POST /v1/donors/remove  DonorRemoval → Donor
//	GET  /v1/lent                    → Lent
//	PATCH /v1/lent  LentSettings     → Lent
//	GET  /v1/faults                  → []Fault
//	PUT  /v1/faults/TARGET           FaultRequest  → Fault
//	PUT  /v1/backends/order          OrderRequest  → []Backend
//	POST /v1/backends/NAME/freeze    FreezeRequest → Backend
//	POST /v1/backends/NAME/thaw      → Backend
//	POST /v1/backends/NAME/cancel    → Backend
//	POST /v1/backends/NAME/unload    → moves
//	POST /v1/backends/NAME/replace   LoadRequest → moves
//	POST /v1/backends/NAME/shrink    MoveRequest → moves
//	POST /v1/backends/NAME/migrate   MoveRequest → moves
//	GET  /v1/exports/NAME/save       → a saved export, with an error in the trailer Tmemd-Error
//	PUT  /v1/exports/NAME/restore    a saved export → Export; ?storage, ?writethrough, ?allow
//	POST /v1/exports/NAME/move       MoveExportRequest → one ExportMove a line
//
// where moves is 200 and one MoveEvent a line, the last with done or error.
//
// Every other answer is an [Error] as JSON with a status of 4xx or 5xx.
//
// Invariants:
//
//	A1  Any other request is at most 64 KiB long and has to arrive within 10 seconds.
//	A2  A move of a backend's pages belongs to the daemon, not to the request that began it: it goes on
//	    when the client goes away, and a second request for it joins it.
//	A3  A client that stops reading a move's lines loses the connection, and
//	    nothing else.
//	A4  Saves, restores and moves of exports are streams of any length, each piece of which
//	    has a time limit. They end with their request, and what they did not finish is
//	    undone.
//
// Not promised: that snapshots of one answer are of one instant.
package admin
