package nbd

// Device is what an export serves. Requests arrive from many goroutines at
// once; the server has checked that offset and length lie within the size that
// the client negotiated.
//
// Every method but Size may return an error, which becomes an NBD errno (see
// errno.go) and never costs the connection. ReadAt and WriteAt are total: n is
// len(p) exactly if err is nil.
type Device interface {
	// Size is the export's length in bytes when it is added to a server, see
	// ResizeExport for later.
	Size() (int64, error)

	// ReadAt fills p from offset off. It may wait for a disk or a network.
	ReadAt(p []byte, off int64) (n int, err error)

	// WriteAt stores p at offset off. It may wait for a disk or a network. When
	// it returns nil every later read, on any connection, sees p.
	WriteAt(p []byte, off int64) (n int, err error)

	// TryReadAt is ReadAt for callers that must not wait: it returns true if p
	// is filled, and false if ReadAt has to be asked instead (p is then garbage).
	TryReadAt(p []byte, off int64) bool

	// TryWriteAt is WriteAt for callers that must not wait: it stores as much of p
	// as it can, from its start, and returns the bytes stored. WriteAt has to be
	// called with the rest.
	TryWriteAt(p []byte, off int64) (n int)

	// Sync returns when all that was stored is as durable as the device promises.
	Sync() error

	// Trim declares the range to be of no interest; whole pages read as zero
	// afterwards, or as before if the device cannot forget.
	Trim(off, length int64) error

	// Prefetch says that the range is going to be read soon. It returns when the
	// device has done about it what it does, which may be nothing.
	Prefetch(off, length int64) error

	// Extents tells where the range is: report is called for each run of bytes, in
	// order, with its length, whether it is a hole (reads as zeros), and a number
	// for who has it. It ends early when report returns false. It may look at
	// nothing but its own memory.
	Extents(off, length int64, report func(length int64, hole bool, owner uint32) bool) error

	// WriteZeroes makes the range read as zero. punch allows the device to give
	// the space back.
	WriteZeroes(off, length int64, punch bool) error
}
