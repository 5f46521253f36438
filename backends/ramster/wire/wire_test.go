package wire

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// requests are one of each operation, as large as it may be, and some more.
func requests() []Request {
	return []Request{
		{Operation: Hello, Number: 1, Generation: 1, Length: HelloSize},
		{Operation: Pool, Number: 2, Pool: 1<<32 - 1, Flags: Ephemeral},
		{Operation: Put, Number: 1<<64 - 1, Pool: 1, Page: MaxPages - 1, Generation: 1<<64 - 1, Length: MaxBlob},
		{Operation: Put, Number: 3, Generation: 1, Length: 1},
		{Operation: Get, Number: 3, Pool: 1, Page: MaxPages - MaxRun, Count: MaxRun, Flags: Exclusive},
		{Operation: Get, Number: 3, Count: 1},
		{Operation: Flush, Number: 3, Pool: 1, Page: MaxPages - 65535, Count: 65535, Generation: 1},
		{Operation: FlushObject, Number: 3, Pool: 1, Page: MaxPages - ObjectPages, Generation: 1},
		{Operation: Destroy, Number: 3, Pool: 1},
		{Operation: List, Number: 3, Pool: 1, Page: MaxPages - 1, Count: MaxList},
		{Operation: Stats, Number: 3},
	}
}

// replies are one of each kind.
func replies() []Reply {
	return []Reply{
		{Operation: Hello, Number: 1, Length: WelcomeSize},
		{Operation: Hello, Status: Version, Number: 1, Length: 1},
		{Operation: Hello, Status: Denied, Number: 1},
		{Operation: Pool, Number: 2, Status: Bad, Flags: WantsBack},
		{Operation: Put, Number: 2},
		{Operation: Put, Number: 2, Status: Stale, Flags: WantsBack},
		{Operation: Put, Number: 2, Status: Full},
		{Operation: Put, Number: 2, Status: Frozen},
		{Operation: Get, Number: 1<<64 - 1, Page: MaxPages - 1, Generation: 1<<64 - 1, Length: MaxBlob, Flags: More | WantsBack},
		{Operation: Get, Status: None, Number: 2, Page: 3, Flags: More},
		{Operation: Flush, Number: 3, Status: None},
		{Operation: FlushObject, Number: 3},
		{Operation: Destroy, Number: 3, Status: Gone},
		{Operation: List, Number: 3, Page: MaxPages, Length: MaxList * ListedSize},
		{Operation: List, Number: 3, Page: 1},
		{Operation: Stats, Number: 3, Length: StatsSize},
	}
}

// What is in bounds comes back as it was.
func TestRoundTrip(t *testing.T) {
	for _, want := range requests() {
		b := bytes.Repeat([]byte{0xee}, RequestSize)
		want.Encode(b)
		if got, err := DecodeRequest(b); err != nil || got != want {
			t.Errorf("%+v became %+v, %v", want, got, err)
		}
		want.Number = 77
		PutNumber(b, 77)
		if got, err := DecodeRequest(b); err != nil || got != want {
			t.Errorf("with another number %+v became %+v, %v", want, got, err)
		}
	}
	for _, want := range replies() {
		b := bytes.Repeat([]byte{0xee}, ReplySize)
		want.Encode(b)
		if got, err := DecodeReply(b); err != nil || got != want {
			t.Errorf("%+v became %+v, %v", want, got, err)
		}
	}
}

// W1: a header that breaks a bound is not one.
func TestBounds(t *testing.T) {
	change := func(i int, f func(*Request)) Request {
		r := requests()[i]
		f(&r)
		return r
	}
	for name, r := range map[string]Request{
		"no operation":             {Number: 1},
		"operation 10":             {Operation: 10, Number: 1},
		"number 0":                 change(10, func(r *Request) { r.Number = 0 }),
		"hello without a session":  change(0, func(r *Request) { r.Generation = 0 }),
		"hello of another length":  change(0, func(r *Request) { r.Length++ }),
		"pool with another flag":   change(1, func(r *Request) { r.Flags = 2 }),
		"pool with a page":         change(1, func(r *Request) { r.Page = 1 }),
		"put of nothing":           change(2, func(r *Request) { r.Length = 0 }),
		"put of too much":          change(2, func(r *Request) { r.Length++ }),
		"put of no page":           change(2, func(r *Request) { r.Page++ }),
		"put of generation 0":      change(2, func(r *Request) { r.Generation = 0 }),
		"put with a count":         change(2, func(r *Request) { r.Count = 1 }),
		"get of none":              change(4, func(r *Request) { r.Count = 0 }),
		"get of too many":          change(5, func(r *Request) { r.Count = MaxRun + 1 }),
		"get beyond the end":       change(4, func(r *Request) { r.Page++ }),
		"get with a payload":       change(4, func(r *Request) { r.Length = 1 }),
		"get with a generation":    change(4, func(r *Request) { r.Generation = 1 }),
		"flush of none":            change(6, func(r *Request) { r.Count = 0 }),
		"flush beyond the end":     change(6, func(r *Request) { r.Page++ }),
		"flush of generation 0":    change(6, func(r *Request) { r.Generation = 0 }),
		"object that is askew":     change(7, func(r *Request) { r.Page++ }),
		"object beyond the end":    change(7, func(r *Request) { r.Page = MaxPages }),
		"destroy with a page":      change(8, func(r *Request) { r.Page = 1 }),
		"list of none":             change(9, func(r *Request) { r.Count = 0 }),
		"list of too many":         change(9, func(r *Request) { r.Count++ }),
		"list from beyond the end": change(9, func(r *Request) { r.Page++ }),
		"stats of a pool":          change(10, func(r *Request) { r.Pool = 1 }),
		"stats with a flag":        change(10, func(r *Request) { r.Flags = 1 }),
	} {
		b := make([]byte, RequestSize)
		r.Encode(b)
		if got, err := DecodeRequest(b); !errors.Is(err, ErrBounds) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	b := make([]byte, RequestSize)
	requests()[10].Encode(b)
	b[39] = 1
	if _, err := DecodeRequest(b); !errors.Is(err, ErrBounds) {
		t.Errorf("the last bytes are not 0: %v", err)
	}

	alter := func(i int, f func(*Reply)) Reply {
		r := replies()[i]
		f(&r)
		return r
	}
	for name, r := range map[string]Reply{
		"no operation":              alter(4, func(r *Reply) { r.Operation = 0 }),
		"operation 10":              alter(4, func(r *Reply) { r.Operation = 10 }),
		"status 9":                  alter(4, func(r *Reply) { r.Status = 9 }),
		"number 0":                  alter(4, func(r *Reply) { r.Number = 0 }),
		"another flag":              alter(4, func(r *Reply) { r.Flags = 4 }),
		"hello that is short":       alter(0, func(r *Reply) { r.Length-- }),
		"denied with a text":        alter(2, func(r *Reply) { r.Length = 2 }),
		"denied with a page":        alter(2, func(r *Reply) { r.Page = 1 }),
		"denied, and more":          alter(2, func(r *Reply) { r.Flags = More }),
		"put with a payload":        alter(4, func(r *Reply) { r.Length = 1 }),
		"put with a page":           alter(4, func(r *Reply) { r.Page = 1 }),
		"put with a generation":     alter(4, func(r *Reply) { r.Generation = 1 }),
		"put, and more":             alter(4, func(r *Reply) { r.Flags = More }),
		"get of nothing":            alter(8, func(r *Reply) { r.Length = 0 }),
		"get of too much":           alter(8, func(r *Reply) { r.Length++ }),
		"get of no page":            alter(8, func(r *Reply) { r.Page++ }),
		"get of generation 0":       alter(8, func(r *Reply) { r.Generation = 0 }),
		"get that is full":          alter(9, func(r *Reply) { r.Status = Full }),
		"get of none with a page":   alter(9, func(r *Reply) { r.Length = 1 }),
		"get of none, a generation": alter(9, func(r *Reply) { r.Generation = 1 }),
		"list of half a record":     alter(13, func(r *Reply) { r.Length -= 8 }),
		"list of too many":          alter(13, func(r *Reply) { r.Length += ListedSize }),
		"list beyond the end":       alter(13, func(r *Reply) { r.Page++ }),
		"list of no pool, a page":   alter(14, func(r *Reply) { r.Status = Gone }),
		"stats that are long":       alter(15, func(r *Reply) { r.Length++ }),
	} {
		b := make([]byte, ReplySize)
		r.Encode(b)
		if got, err := DecodeReply(b); !errors.Is(err, ErrBounds) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// Records come back as they were, and take all of their bytes.
func TestRecords(t *testing.T) {
	var p Party
	for i := range p.Identity {
		p.Identity[i], p.Epoch[i] = byte(i+1), byte(i+100)
	}
	b := make([]byte, HelloSize)
	p.EncodeHello(b)
	if got, version, err := DecodeHello(b); err != nil || version != ProtocolVersion || got != p {
		t.Errorf("%v, %d, %v", got, version, err)
	}
	b[7] = 9
	if got, version, err := DecodeHello(b); err != nil || version != 9 || got != (Party{}) {
		t.Errorf("of another version: %v, %d, %v", got, version, err)
	}
	b[0] = 'T'
	if _, _, err := DecodeHello(b); !errors.Is(err, ErrBounds) {
		t.Errorf("of another protocol: %v", err)
	}
	p.EncodeWelcome(b)
	if got := DecodeWelcome(b); got != p {
		t.Errorf("%v", got)
	}
	l := Listed{Page: 1<<40 - 1, Generation: 1 << 63}
	l.Encode(b)
	if got := DecodeListed(b); got != l {
		t.Errorf("%v", got)
	}
	r := Room{Quota: 1, Used: 2, Pages: 3, Free: 4, Wanted: 5, Frozen: true, Foreign: 6, Weight: 7}
	b = make([]byte, StatsSize)
	r.Encode(b)
	if got := DecodeRoom(b); got != r {
		t.Errorf("%+v", got)
	}
}

// Each operation and status has a name, and what is none has too.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range Operations() {
		seen[o.String()] = true
	}
	for s := range Status(statuses) {
		seen[s.String()] = true
		if want := s == Denied || s == Version || s == Bad; s.Ends() != want {
			t.Errorf("%v ends: %v", s, s.Ends())
		}
	}
	if len(seen) != operations-1+statuses || seen[""] {
		t.Errorf("names are %v", seen)
	}
	if a, b := Operation(77).String(), Status(77).String(); !strings.Contains(a, "77") || !strings.Contains(b, "77") {
		t.Errorf("%q, %q", a, b)
	}
}

// W1, W2: what Decode accepts Encode makes again, and nothing panics.
func FuzzRequest(f *testing.F) {
	for _, r := range requests() {
		b := make([]byte, RequestSize)
		r.Encode(b)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < RequestSize {
			return
		}
		r, err := DecodeRequest(b)
		if err != nil {
			if !errors.Is(err, ErrBounds) {
				t.Error(err)
			}
			return
		}
		if r.Length > MaxPayload || r.Page >= MaxPages || r.Page+uint64(r.Count) > MaxPages && r.Operation != List {
			t.Errorf("out of bounds: %+v", r)
		}
		again := make([]byte, RequestSize)
		if r.Encode(again); !bytes.Equal(again, b[:RequestSize]) {
			t.Errorf("%x became %x", b[:RequestSize], again)
		}
	})
}

func FuzzReply(f *testing.F) {
	for _, r := range replies() {
		b := make([]byte, ReplySize)
		r.Encode(b)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < ReplySize {
			return
		}
		r, err := DecodeReply(b)
		if err != nil {
			if !errors.Is(err, ErrBounds) {
				t.Error(err)
			}
			return
		}
		if r.Length > MaxPayload || r.Page > MaxPages {
			t.Errorf("out of bounds: %+v", r)
		}
		again := make([]byte, ReplySize)
		if r.Encode(again); !bytes.Equal(again, b[:ReplySize]) {
			t.Errorf("%x became %x", b[:ReplySize], again)
		}
	})
}

func FuzzHello(f *testing.F) {
	b := make([]byte, HelloSize)
	Party{Identity: [16]byte{1}, Epoch: [16]byte{2}}.EncodeHello(b)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HelloSize {
			return
		}
		p, version, err := DecodeHello(b)
		if err != nil || version != ProtocolVersion {
			return
		}
		again := make([]byte, HelloSize)
		if p.EncodeHello(again); !bytes.Equal(again, b[:HelloSize]) {
			t.Errorf("%x became %x", b[:HelloSize], again)
		}
	})
}
