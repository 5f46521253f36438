// Package saved is the format of a saved export: a stream that a [Writer] makes and a
// [Reader] takes apart. The daemon writes it to tmemctl and reads it from there, and
// tmemctl checks it on its way to and from a file. Encryption, if it is asked for, is
// around it: see [Key].
//
// # Format
//
// All numbers are little-endian, all checksums CRC-32C.
//
//	header
//	  bytes 0–7    "TMEMSAVE"
//	  bytes 8–11   version, 1
//	  bytes 12–15  length of the name, 1 to 256
//	  bytes 16–23  size of the export in bytes, a multiple of 4096
//	  bytes 24–39  identity of its content, random
//	  bytes 40–47  0; for later versions
//	  …            name of the export
//	  4 bytes      checksum of all that is before
//
//	block, any number of them, each but the last about 1 MiB long
//	  bytes 0–3    1
//	  bytes 4–7    length of the records, at most 2 MiB
//	  bytes 8–15   number of the block, from 0
//	  bytes 16–19  checksum of the header's checksum (4 bytes), bytes 0–15 and the records
//	  …            records
//
//	record: a page that does not read as zeros, in ascending order
//	  bytes 0–7    page number
//	  byte 8       encoding: 1 raw, 2 lz4 block, 3 zstd frame, 4 filled with a 4-byte value
//	  byte 9       0
//	  bytes 10–11  length of the data, 1 to 4096
//	  bytes 12–15  checksum of the page itself
//	  …            data
//
//	end, after which nothing comes
//	  bytes 0–3    2
//	  bytes 4–7    24
//	  bytes 8–15   number of blocks
//	  bytes 16–19  checksum as of a block
//	  …            pages, bytes of data, pages of the export that are holes (8 bytes each)
//
// Pages that have no record are holes, page 0 like any other: a run of them takes
// nothing.
//
// # Invariants
//
//	V1  A Reader ends with io.EOF only after an end record whose totals are those of
//	    what was read, and at the end of the stream. A file that is cut short, damaged,
//	    put together of two, or of another version ends with a [FormatError].
//	V2  Nothing is allocated by a length of the stream beyond one block.
//	V3  Pages are handed out in ascending order, within the export's size, once each.
//	    That the data is the page is for whoever decodes it (package packed): the
//	    checksum is there.
//
// # Not promised
//
// That nobody made the file up: a checksum is no signature. An encrypted file is
// authenticated by its key.
package saved
