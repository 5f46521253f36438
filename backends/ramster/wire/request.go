package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Operation is what a request asks for.
type Operation uint8

// The operations.
const (
	Hello       Operation = 1 // begins a session; first on every connection
	Pool        Operation = 2 // makes a pool
	Put         Operation = 3 // stores a version of a page
	Get         Operation = 4 // fetches a run of pages
	Flush       Operation = 5 // forgets versions of a run of pages
	FlushObject Operation = 6 // forgets versions of an object's pages
	Destroy     Operation = 7 // forgets a pool
	List        Operation = 8 // says which pages there are
	Stats       Operation = 9 // says how much room there is
	operations            = 10
)

var operationNames = [operations]string{
	Hello: "hello", Pool: "pool", Put: "put", Get: "get", Flush: "flush", FlushObject: "flush_object", Destroy: "destroy", List: "list", Stats: "stats",
}

// String names the operation as logs and metrics do.
func (o Operation) String() string {
	if o == 0 || o >= operations {
		return fmt.Sprintf("operation %d", uint8(o))
	}
	return operationNames[o]
}

// Operations lists them all.
func Operations() []Operation {
	return []Operation{Hello, Pool, Put, Get, Flush, FlushObject, Destroy, List, Stats}
}

const (
	// RequestSize and ReplySize are the lengths of the headers, in bytes.
	RequestSize = 40
	ReplySize   = 32
	// MaxBlob is the length of the longest sealed page.
	MaxBlob = 4160
	// MaxPayload is the length of the longest payload in either direction.
	MaxPayload = 4224
	// MaxPages bounds page numbers. As the place where a list goes on it is the end.
	MaxPages = 1 << 40
	// MaxRun is how many pages one Get asks for at most, MaxList how many List does.
	MaxRun  = 64
	MaxList = 256
	// ObjectPages is how many pages an object has.
	ObjectPages = 1024

	// Ephemeral is the flag of a pool whose pages may be dropped at any time, and
	// Exclusive that of a Get which takes the pages away.
	Ephemeral = 1
	Exclusive = 1
)

// Request is the header of a request.
type Request struct {
	Operation  Operation
	Flags      uint8
	Count      uint16
	Length     uint32 // of the payload
	Number     uint64
	Page       uint64
	Generation uint64
	Pool       uint32
}

// ErrBounds is what Decode wraps: the peer does not speak this protocol.
var ErrBounds = errors.New("not a frame of this protocol")

// Encode writes the header to b, of RequestSize bytes.
func (r Request) Encode(b []byte) {
	_ = b[RequestSize-1]
	b[0], b[1] = byte(r.Operation), r.Flags
	binary.LittleEndian.PutUint16(b[2:], r.Count)
	binary.LittleEndian.PutUint32(b[4:], r.Length)
	binary.LittleEndian.PutUint64(b[8:], r.Number)
	binary.LittleEndian.PutUint64(b[16:], r.Page)
	binary.LittleEndian.PutUint64(b[24:], r.Generation)
	binary.LittleEndian.PutUint32(b[32:], r.Pool)
	binary.LittleEndian.PutUint32(b[36:], 0)
}

// PutNumber changes the number in an encoded request.
func PutNumber(b []byte, number uint64) { binary.LittleEndian.PutUint64(b[8:], number) }

// DecodeRequest reads a header from b, of RequestSize bytes, and checks all its
// bounds.
func DecodeRequest(b []byte) (Request, error) {
	_ = b[RequestSize-1]
	r := Request{
		Operation:  Operation(b[0]),
		Flags:      b[1],
		Count:      binary.LittleEndian.Uint16(b[2:]),
		Length:     binary.LittleEndian.Uint32(b[4:]),
		Number:     binary.LittleEndian.Uint64(b[8:]),
		Page:       binary.LittleEndian.Uint64(b[16:]),
		Generation: binary.LittleEndian.Uint64(b[24:]),
		Pool:       binary.LittleEndian.Uint32(b[32:]),
	}
	if binary.LittleEndian.Uint32(b[36:]) != 0 || r.Number == 0 || !r.inBounds() {
		return Request{}, fmt.Errorf("request %d, %v: %w", r.Number, r.Operation, ErrBounds)
	}
	return r, nil
}

// inBounds says whether the fields that the operation has are in their bounds, and
// the others 0.
func (r Request) inBounds() bool {
	rest := r // what is checked becomes 0
	rest.Operation, rest.Number = 0, 0
	ok := true
	switch r.Operation {
	case Hello:
		ok = r.Length == HelloSize && r.Generation != 0
		rest.Length, rest.Generation = 0, 0
	case Pool:
		ok = r.Flags <= Ephemeral
		rest.Pool, rest.Flags = 0, 0
	case Put:
		ok = r.Page < MaxPages && r.Generation != 0 && r.Length > 0 && r.Length <= MaxBlob
		rest.Pool, rest.Page, rest.Generation, rest.Length = 0, 0, 0, 0
	case Get:
		ok = r.Flags <= Exclusive && r.hasRun(MaxRun)
		rest.Pool, rest.Page, rest.Count, rest.Flags = 0, 0, 0, 0
	case Flush:
		ok = r.Generation != 0 && r.hasRun(1<<16-1)
		rest.Pool, rest.Page, rest.Count, rest.Generation = 0, 0, 0, 0
	case FlushObject:
		ok = r.Generation != 0 && r.Page < MaxPages && r.Page%ObjectPages == 0
		rest.Pool, rest.Page, rest.Generation = 0, 0, 0
	case List:
		ok = r.Page < MaxPages && r.Count > 0 && r.Count <= MaxList
		rest.Pool, rest.Page, rest.Count = 0, 0, 0
	case Destroy:
		rest.Pool = 0
	case Stats:
	default:
		return false
	}
	return ok && rest == Request{}
}

// hasRun says whether page and count are a run of at most so many pages.
func (r Request) hasRun(most uint16) bool {
	return r.Count > 0 && r.Count <= most && r.Page < MaxPages && r.Page+uint64(r.Count) <= MaxPages
}
