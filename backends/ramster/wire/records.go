package wire

import (
	"encoding/binary"
	"fmt"
)

// The lengths of payloads that are records, in bytes.
const (
	HelloSize   = 8 + 16 + 16
	WelcomeSize = 16 + 16
	ListedSize  = 16
	StatsSize   = 8 * 8
)

// ProtocolVersion is the version that this package speaks.
const ProtocolVersion = 1

// magic begins a Hello; its last byte is the version.
const magic = "tmemram"

// Party is one side of a session: who it is, and since when it keeps what it has.
type Party struct {
	Identity [16]byte
	Epoch    [16]byte
}

// EncodeHello writes the payload of a Hello to b, of HelloSize bytes.
func (p Party) EncodeHello(b []byte) {
	_ = b[HelloSize-1]
	copy(b, magic)
	b[len(magic)] = ProtocolVersion
	p.EncodeWelcome(b[8:])
}

// DecodeHello reads the payload of a Hello, of HelloSize bytes. The version is the
// client's: of another one, party is nothing.
func DecodeHello(b []byte) (p Party, version uint8, err error) {
	_ = b[HelloSize-1]
	if string(b[:len(magic)]) != magic {
		return Party{}, 0, fmt.Errorf("hello: %w", ErrBounds)
	}
	if version = b[len(magic)]; version != ProtocolVersion {
		return Party{}, version, nil
	}
	return DecodeWelcome(b[8:]), version, nil
}

// EncodeWelcome writes the payload of the reply to a Hello to b, of WelcomeSize bytes.
func (p Party) EncodeWelcome(b []byte) {
	_ = b[WelcomeSize-1]
	copy(b, p.Identity[:])
	copy(b[16:], p.Epoch[:])
}

// DecodeWelcome is the inverse of EncodeWelcome.
func DecodeWelcome(b []byte) (p Party) {
	_ = b[WelcomeSize-1]
	copy(p.Identity[:], b)
	copy(p.Epoch[:], b[16:])
	return p
}

// Listed is one record of a List.
type Listed struct{ Page, Generation uint64 }

// Encode writes the record to b, of ListedSize bytes.
func (l Listed) Encode(b []byte) {
	_ = b[ListedSize-1]
	binary.LittleEndian.PutUint64(b, l.Page)
	binary.LittleEndian.PutUint64(b[8:], l.Generation)
}

// DecodeListed reads a record from b, of ListedSize bytes.
func DecodeListed(b []byte) Listed {
	_ = b[ListedSize-1]
	return Listed{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}
}

// Room is a donor's account of one owner.
type Room struct {
	Quota   uint64 // bytes that the owner may use
	Used    uint64 // bytes that it uses
	Pages   uint64 // its pages
	Free    uint64 // bytes that it could use now
	Wanted  uint64 // bytes that the donor wants back from it
	Frozen  bool   // no Put is taken
	Foreign uint64 // bytes of all other owners
	Weight  uint64 // of the owner, beside others
}

// Encode writes the record to b, of StatsSize bytes.
func (r Room) Encode(b []byte) {
	_ = b[StatsSize-1]
	frozen := uint64(0)
	if r.Frozen {
		frozen = 1
	}
	for i, n := range [...]uint64{r.Quota, r.Used, r.Pages, r.Free, r.Wanted, frozen, r.Foreign, r.Weight} {
		binary.LittleEndian.PutUint64(b[8*i:], n)
	}
}

// DecodeRoom is the inverse of Encode.
func DecodeRoom(b []byte) Room {
	_ = b[StatsSize-1]
	n := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	return Room{Quota: n(0), Used: n(1), Pages: n(2), Free: n(3), Wanted: n(4), Frozen: n(5) != 0, Foreign: n(6), Weight: n(7)}
}
