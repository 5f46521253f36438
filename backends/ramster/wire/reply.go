package wire

import (
	"encoding/binary"
	"fmt"
)

// Status is what became of a request.
type Status uint8

// The statuses.
const (
	OK       Status = 0 // done
	None     Status = 1 // there is no such page
	Stale    Status = 2 // a newer generation is there, and stays
	Full     Status = 3 // quota or memory is used up; no older generation is left
	Frozen   Status = 4 // the donor takes no pages now; no older generation is left
	Gone     Status = 5 // there is no such pool
	Denied   Status = 6 // this client may not; the connection ends
	Version  Status = 7 // the donor speaks another version; the connection ends
	Bad      Status = 8 // the request makes no sense here; the connection ends
	statuses        = 9
)

var statusNames = [statuses]string{"ok", "none", "stale", "full", "frozen", "gone", "denied", "version", "bad"}

// String names the status as logs and metrics do.
func (s Status) String() string {
	if s >= statuses {
		return fmt.Sprintf("status %d", uint8(s))
	}
	return statusNames[s]
}

// Ends says whether the donor ends the connection after this.
func (s Status) Ends() bool { return s == Denied || s == Version || s == Bad }

// Flags of a reply.
const (
	WantsBack  = 1 // the donor wants pages back
	More       = 2 // more replies to the same request follow
	replyFlags = WantsBack | More
)

// Reply is the header of a reply.
type Reply struct {
	Status     Status
	Operation  Operation
	Flags      uint16
	Length     uint32 // of the payload
	Number     uint64 // of the request
	Page       uint64
	Generation uint64
}

// Encode writes the header to b, of ReplySize bytes.
func (r Reply) Encode(b []byte) {
	_ = b[ReplySize-1]
	b[0], b[1] = byte(r.Status), byte(r.Operation)
	binary.LittleEndian.PutUint16(b[2:], r.Flags)
	binary.LittleEndian.PutUint32(b[4:], r.Length)
	binary.LittleEndian.PutUint64(b[8:], r.Number)
	binary.LittleEndian.PutUint64(b[16:], r.Page)
	binary.LittleEndian.PutUint64(b[24:], r.Generation)
}

// DecodeReply reads a header from b, of ReplySize bytes, and checks all its bounds.
func DecodeReply(b []byte) (Reply, error) {
	_ = b[ReplySize-1]
	r := Reply{
		Status:     Status(b[0]),
		Operation:  Operation(b[1]),
		Flags:      binary.LittleEndian.Uint16(b[2:]),
		Length:     binary.LittleEndian.Uint32(b[4:]),
		Number:     binary.LittleEndian.Uint64(b[8:]),
		Page:       binary.LittleEndian.Uint64(b[16:]),
		Generation: binary.LittleEndian.Uint64(b[24:]),
	}
	if r.Status >= statuses || r.Operation == 0 || r.Operation >= operations || r.Flags&^replyFlags != 0 || r.Number == 0 || !r.inBounds() {
		return Reply{}, fmt.Errorf("reply to %d, %v: %w", r.Number, r.Operation, ErrBounds)
	}
	return r, nil
}

// inBounds says whether length, page, generation and More are what such a reply may have.
func (r Reply) inBounds() bool {
	if r.Status.Ends() {
		return r.Length <= 1 && r.Page == 0 && r.Generation == 0 && r.Flags&More == 0
	}
	if r.Operation == Get {
		if r.Page >= MaxPages || r.Status != OK && r.Status != None && r.Status != Gone {
			return false
		}
		if r.Status == OK {
			return r.Length > 0 && r.Length <= MaxBlob && r.Generation != 0
		}
		return r.Length == 0 && r.Generation == 0
	}
	if r.Flags&More != 0 || r.Generation != 0 || r.Operation != List && r.Page != 0 {
		return false
	}
	if r.Status != OK {
		return r.Length == 0 && r.Page == 0
	}
	switch r.Operation {
	case Hello:
		return r.Length == WelcomeSize
	case List:
		return r.Length%ListedSize == 0 && r.Length <= MaxList*ListedSize && r.Page <= MaxPages
	case Stats:
		return r.Length == StatsSize
	}
	return r.Length == 0
}
