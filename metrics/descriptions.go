package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tmemd_"+name, help, labels, nil)
}

// What is shown. A table: nothing changes it.
var (
	buildInfo = describe("build_info", "1, with the version and source revision of tmemd, and the version of Go that it was built with.", "version", "revision", "goversion")

	protection       = describe("protection", "1 if the daemon has the measure against waiting for the memory it frees, when its own host swaps through it.", "measure")
	protectionWanted = describe("protection_wanted", "1 if the daemon is to have these measures.")

	exportMoves     = describe("export_moves_total", "Moves of exports to another tmemd, by how they ended: moved, or failed, which left the export here.", "result")
	exportMovePause = describe("export_move_pause_seconds", "For how long clients were held back by the latest move that was done.")
	exportsMoved    = describe("exports_moved", "Exports that another tmemd has now, and that are refused here.")

	loads        = describe("frontswap_loads_total", "Pages loaded from a backend.", "export")
	succStores   = describe("frontswap_succ_stores_total", "Pages that a backend took.", "export")
	failedStores = describe("frontswap_failed_stores_total", "Pages that every loaded backend refused; they went to storage.", "export")
	invalidates  = describe("frontswap_invalidates_total", "Pages dropped from a backend because the client dropped them.", "export")
	loadErrors   = describe("frontswap_load_errors_total", "Loads that a backend owed and could not deliver; the client got an I/O error.", "export")
	pages        = describe("pages", "Pages by who has them: none (never written since the start), storage, hole (reads as zero), or a backend.", "export", "owner")

	succGets              = describe("cleancache_succ_gets_total", "Pages of the disk that were read from the cache.", "disk")
	failedGets            = describe("cleancache_failed_gets_total", "Pages of the disk that were not in the cache, and read from storage.", "disk")
	puts                  = describe("cleancache_puts_total", "Pages offered to the cache, kept or not.", "disk")
	cleancacheInvalidates = describe("cleancache_invalidates_total", "Pages taken out of the cache because they were written, whether they were there or not.", "disk")
	cachedPages           = describe("cleancache_pages", "Pages of the disk in the backend; some of them may be forgotten by now.", "disk", "backend")
	cleancacheMode        = describe("cleancache_mode", "1 for the mode: inclusive, or exclusive (a page that was read leaves the cache).", "disk", "mode")

	exportSize   = describe("export_size_bytes", "Size of the export.", "export")
	diskSize     = describe("disk_size_bytes", "Size of the disk.", "disk")
	storageLive  = describe("storage_live_bytes", "Of the space that storage takes, what somebody may ask for.", "export")
	storageStale = describe("storage_stale_bytes", "Of the space that storage takes, what nobody needs any more: holes, and pages that a backend took over. After a restart a page that nobody asked for yet counts as live.", "export")
	punchPending = describe("punch_pending_blocks", "Blocks of 1 MiB that wait to be looked at for space on storage to give back.", "export")

	storagePagesRead    = describe("storage_pages_read_total", "Pages read from storage.", "export")
	storagePagesWritten = describe("storage_pages_written_total", "Pages written to storage.", "export")
	storagePagesPunched = describe("storage_pages_punched_total", "Pages whose space on storage was given back.", "export")
	storageErrors       = describe("storage_errors_total", "Failed operations on storage.", "export", "operation")
	storageAllocated    = describe("storage_allocated_bytes", "Space that storage takes on its file system.", "export")
	storageDirect       = describe("storage_direct", "1 if storage is used past the page cache (O_DIRECT).", "export")

	writethroughMode    = describe("writethrough_mode", "1 for the mode: off, async or sync.", "export", "mode")
	writethroughPending = describe("writethrough_pending_blocks", "Blocks of 1 MiB that wait to be looked at for pages to copy to storage.", "export")
	rescuedPages        = describe("rescued_pages_total", "Pages read from storage because their backend failed.", "export")

	backendInfo           = describe("backend_info", "1, with the kind of the backend.", "backend", "kind")
	backendPages          = describe("backend_pages", "Pages that the backend has.", "backend")
	backendEphemeral      = describe("backend_ephemeral_pages", "Clean pages of disks that the backend has beside those.", "backend")
	backendSameFilled     = describe("backend_same_filled_pages", "Of both, pages of one repeated word, which take no memory.", "backend")
	backendShared         = describe("backend_shared_pages", "Of its pages, those kept once together with identical ones of the same client.", "backend")
	backendContents       = describe("backend_shared_contents", "Different pages among those.", "backend")
	backendSaved          = describe("backend_shared_saved_bytes", "Memory that those would take more if each was kept by itself, about.", "backend")
	backendStored         = describe("backend_stored_bytes", "Page data after compression.", "backend")
	backendHeld           = describe("backend_held_bytes", "Memory taken from the system for it, overhead included.", "backend")
	backendIncompressible = describe("backend_incompressible_pages", "Of its pages, those kept as they came because they do not compress.", "backend")
	backendMax            = describe("backend_limit_max_bytes", "What its limit is while this host is not short of memory.", "backend")
	backendStall          = describe("backend_stall_ratio", "Share of the time, 0 to 1, that tasks of this host waited for memory in the last seconds, as the backend saw it.", "backend")
	backendLimit          = describe("backend_limit_bytes", "The memory that it may take now; 0 means no limit. It goes down while this host is short of memory.", "backend")
	backendAccepted       = describe("backend_accepted_total", "Pages that it took.", "backend")
	backendRefused        = describe("backend_refused_total", "Offers of a page that it did not take. A page may be offered twice: in place, and by a worker that may wait.", "backend", "reason")
	backendMoved          = describe("backend_movements_total", "What became of pages after they were stored, and of the pool: staged, compressed behind, recompressed, compacted, evicted, scrubbed and so on.", "backend", "movement")
	backendCodecPages     = describe("backend_codec_pages", "Pages by how they are kept, without same-filled ones.", "backend", "codec")
	backendCodecBytes     = describe("backend_codec_bytes", "Page data by how it is kept.", "backend", "codec")
	backendCorrupt        = describe("backend_corrupt_loads_total", "Loads that found a damaged copy.", "backend")
	backendLoadErrors     = describe("backend_load_errors_total", "Loads that it owed and could not deliver.", "backend")
	backendState          = describe("backend_state", "1 for the state that the backend is in.", "backend", "state")
	drainRunning          = describe("drain_running", "1 while pages of the backend are being moved: by an unload, shrink or migration.", "backend")
	drainMoved            = describe("drain_pages_moved", "Pages that the latest move moved, by where they went: storage, or a backend.", "backend", "into")
	drainLeft             = describe("drain_pages_left", "Pages that the backend still has.", "backend")

	nbdRequests          = describe("nbd_requests_total", "Requests answered, errors included.", "export", "command")
	nbdErrors            = describe("nbd_errors_total", "Requests answered with an error.", "export", "command")
	nbdBytes             = describe("nbd_bytes_total", "Bytes read, written, discarded or zeroed.", "export", "command")
	nbdRequestSeconds    = describe("nbd_request_seconds", "Time from reading a request to sending its reply.", "command")
	nbdClients           = describe("nbd_clients", "Connections that use the export.", "export")
	nbdConnections       = describe("nbd_connections", "Open connections.")
	nbdHandshaking       = describe("nbd_handshaking_connections", "Open connections that have not chosen an export yet.")
	nbdConnectionsTotal  = describe("nbd_connections_total", "Connections accepted.")
	nbdRefused           = describe("nbd_refused_connections_total", "Connections closed at once.", "reason")
	nbdHandshakeFailures = describe("nbd_handshake_failures_total", "Connections that ended before they chose an export.", "reason")
	nbdDenied            = describe("nbd_access_denied_total", "Exports that a client named and might not open.", "reason")
	nbdTLSConnections    = describe("nbd_tls_connections", "Open connections that are encrypted.")
	nbdTLSHandshakes     = describe("nbd_tls_handshakes_total", "TLS handshakes that succeeded; those that failed are handshake failures.")
	nbdTLSExpiry         = describe("nbd_tls_certificate_expiry_timestamp_seconds", "When the server's certificate expires; left out without TLS.")
	nbdBuffersLent       = describe("nbd_buffer_lent_bytes", "Memory that requests in flight use.")
	nbdBuffersLimit      = describe("nbd_buffer_limit_bytes", "The most memory that requests in flight may use.")
	nbdPanics            = describe("nbd_panics_total", "Panics survived while serving a request: each is a bug.")

	memoryMapped   = describe("memory_mapped_bytes", "Address space outside the Go heap, by purpose.", "purpose")
	memoryResident = describe("memory_resident_bytes", "Memory taken outside the Go heap, by purpose; for NBD buffers the most that they can take.", "purpose")

	descriptions = []*prometheus.Desc{
		buildInfo, protection, protectionWanted,
		exportSize, diskSize, storageLive, storageStale, punchPending, backendInfo,
		exportMoves, exportMovePause, exportsMoved,
		loads, succStores, failedStores, invalidates, loadErrors, pages,
		storagePagesRead, storagePagesWritten, storagePagesPunched, storageErrors, storageAllocated, storageDirect,
		writethroughMode, writethroughPending, rescuedPages,
		succGets, failedGets, puts, cleancacheInvalidates, cachedPages, cleancacheMode,
		backendPages, backendEphemeral, backendSameFilled, backendShared, backendContents, backendSaved, backendStored, backendHeld, backendLimit, backendMax, backendStall, backendIncompressible, backendAccepted, backendRefused, backendMoved, backendCodecPages, backendCodecBytes,
		backendCorrupt, backendLoadErrors, backendState, drainRunning, drainMoved, drainLeft,
		nbdRequests, nbdErrors, nbdBytes, nbdRequestSeconds, nbdClients, nbdConnections, nbdHandshaking,
		nbdConnectionsTotal, nbdRefused, nbdHandshakeFailures, nbdDenied, nbdTLSConnections, nbdTLSHandshakes, nbdTLSExpiry, nbdBuffersLent, nbdBuffersLimit, nbdPanics,
		memoryMapped, memoryResident,
	}
)

// allDescriptions are those of every file.
func allDescriptions() []*prometheus.Desc {
	return slices.Concat(descriptions, memoryDescriptions, donorDescriptions, timeDescriptions, healthDescriptions, clientDescriptions, boundDescriptions)
}
