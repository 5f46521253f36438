package sharedmem

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A file of a [Folder] begins with a header of one page, which says what the file
// is. It is written before the file gets its name, and not mapped.
//
//	bytes 0–7      "tmemdmem"
//	bytes 8–11     version of the format
//	bytes 12–15    CRC-32C of the header, taken with these four bytes zero
//	bytes 16–23    length of the data, in bytes
//	bytes 24–31    note: the owner's business, see Folder.Create
//	bytes 32–47    identity of the folder
//	bytes 48–95    the boot of the machine, in text, zeros behind it
//	bytes 96–159   purpose, in text
//	bytes 160–415  name of the file, in text
//
// Numbers are little-endian.
const (
	headerSize    = 4096
	headerVersion = 1
	headerMagic   = "tmemdmem"

	bootBytes    = 48
	purposeBytes = 64
	nameBytes    = 256
)

// What can be wrong with a file of a folder.
var (
	// ErrDamaged: it is no such file, it was cut short, or its header is damaged.
	ErrDamaged = errors.New("it is damaged")
	// ErrOtherVersion: another version of tmemd made it.
	ErrOtherVersion = errors.New("another version of tmemd made it")
	// ErrOtherFolder: it belongs to another state folder, or is another file.
	ErrOtherFolder = errors.New("it does not belong here")
	// ErrOtherBoot: it was made before the machine was started.
	ErrOtherBoot = errors.New("it is from another boot of the machine")
)

// header is what a header says.
type header struct {
	size          int64
	note          uint64
	identity      Identity
	boot          string
	purpose, name string
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (h header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, headerMagic)
	binary.LittleEndian.PutUint32(b[8:], headerVersion)
	binary.LittleEndian.PutUint64(b[16:], uint64(h.size))
	binary.LittleEndian.PutUint64(b[24:], h.note)
	copy(b[32:48], h.identity[:])
	copy(b[48:48+bootBytes], h.boot)
	copy(b[96:96+purposeBytes], h.purpose)
	copy(b[160:160+nameBytes], h.name)
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b, castagnoli))
	return b
}

// fits says whether the texts have room.
func (h header) fits() bool {
	return len(h.boot) <= bootBytes && len(h.purpose) <= purposeBytes && len(h.name) <= nameBytes
}

// decodeHeader reads a header of headerSize bytes. The version is looked at
// before the checksum: what another version checks is its own business.
func decodeHeader(b []byte) (header, error) {
	if len(b) != headerSize || string(b[:8]) != headerMagic {
		return header{}, fmt.Errorf("%w: it does not begin as a memory file of tmemd does", ErrDamaged)
	}
	if version := binary.LittleEndian.Uint32(b[8:]); version != headerVersion {
		return header{}, fmt.Errorf("%w: its format has version %d, this one knows version %d", ErrOtherVersion, version, headerVersion)
	}
	sum := binary.LittleEndian.Uint32(b[12:])
	plain := bytes.Clone(b)
	clear(plain[12:16])
	if crc32.Checksum(plain, castagnoli) != sum {
		return header{}, fmt.Errorf("%w: the checksum of its header is wrong", ErrDamaged)
	}
	text := func(b []byte) string { return string(bytes.TrimRight(b, "\x00")) }
	return header{
		size:     int64(binary.LittleEndian.Uint64(b[16:])),
		note:     binary.LittleEndian.Uint64(b[24:]),
		identity: Identity(b[32:48]),
		boot:     text(b[48 : 48+bootBytes]),
		purpose:  text(b[96 : 96+purposeBytes]),
		name:     text(b[160 : 160+nameBytes]),
	}, nil
}
