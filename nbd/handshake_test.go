package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// How a handshake's conversation ends.
type ending int

const (
	goesOn    ending = iota // in negotiation
	closes                  // by the server, without another word
	transmits               // in transmission
)

// wantReply is a reply to an option.
type wantReply struct{ id, kind uint32 }

type handshakeCase struct {
	name   string
	flags  uint32
	send   []byte
	want   []wantReply
	ending ending
	raw    int // bytes of an EXPORT_NAME answer before transmission
}

const (
	fixed   = uint32(1)
	nozeros = uint32(2)
)

// filled is n bytes of an option's data that mean nothing.
func filled(n int) []byte { return bytes.Repeat([]byte{0xa5}, n) }

func handshakeCases() []handshakeCase {
	unsupported := func(id uint32) []wantReply { return []wantReply{{id, repUnsup}} }
	invalid := func(id uint32) []wantReply { return []wantReply{{id, replyErrInvalid}} }
	one := func(id, kind uint32) []wantReply { return []wantReply{{id, kind}} }
	infoAck := func(id uint32, infos int) (w []wantReply) {
		for range infos {
			w = append(w, wantReply{id, repInfo})
		}
		return append(w, wantReply{id, repAck})
	}
	const name = optionExportName
	cases := []handshakeCase{
		// Client flags.
		{"plain newstyle, padded", 0, option(name, []byte("swap")), nil, transmits, 10 + zeroesSize},
		{"plain newstyle, not padded", nozeros, option(name, []byte("swap")), nil, transmits, 10},
		{"fixed newstyle, padded", fixed, option(name, []byte("swap")), nil, transmits, 10 + zeroesSize},
		{"fixed newstyle, not padded", fixed | nozeros, option(name, []byte("swap")), nil, transmits, 10},
		{"client flag not offered", 4 | fixed, option(optList), nil, closes, 0},
		{"highest client flag", 1<<31 | fixed, option(optList), nil, closes, 0},
		{"all client flags", 1<<32 - 1, nil, nil, closes, 0},
		{"plain newstyle takes no GO", 0, option(optGo, infoData("swap")), nil, closes, 0},
		{"plain newstyle takes no LIST", nozeros, option(optList), nil, closes, 0},
		{"plain newstyle takes no ABORT", 0, option(optAbort), nil, closes, 0},

		// Framing.
		{"no option magic", fixed, filled(16), nil, closes, 0},
		{"zeros instead of an option", fixed, make([]byte, 16), nil, closes, 0},
		{"oldstyle magic", fixed, join(be64(protocol.NEGOTIATION_MAGIC_OLDSTYLE), be32(optList), be32(0)), nil, closes, 0},
		{"reply magic", fixed, join(be64(protocol.NEGOTIATION_MAGIC_REPLY), be32(optList), be32(0)), nil, closes, 0},
		{"a transmission request before GO", fixed, requestBytes(0, wireRead, 1, 0, 16), nil, closes, 0},
		{"magic wrong after a good option", fixed, join(option(optList), filled(16)),
			[]wantReply{{optList, repServer}, {optList, repServer}, {optList, repAck}}, closes, 0},

		// Options that are not known, or not here.
		{"option 0", fixed, option(0), unsupported(0), goesOn, 0},
		{"PEEK_EXPORT", fixed, option(4, []byte("swap")), unsupported(4), goesOn, 0},
		{"STARTTLS", fixed, option(5), unsupported(5), goesOn, 0},
		{"STARTTLS with data", fixed, option(5, filled(7)), unsupported(5), goesOn, 0},
		{"highest option", fixed, option(1<<32-1, filled(5000)), unsupported(1<<32 - 1), goesOn, 0},
		{"data that looks like an option", fixed, option(77, option(optAbort)), unsupported(77), goesOn, 0},
		{"unknown option, 64 KiB and a byte", fixed, option(77, filled(64<<10+1)), unsupported(77), goesOn, 0},
		{"unknown option, 1 MiB", fixed, option(77, filled(1<<20)), unsupported(77), goesOn, 0},
		{"unknown option, over 1 MiB", fixed, optionHeader(77, 1<<20+1), nil, closes, 0},
		{"unknown option, 4 GiB announced", fixed, optionHeader(77, 1<<32-1), nil, closes, 0},

		// ABORT.
		{"ABORT", fixed, option(optAbort), one(optAbort, repAck), closes, 0},
		{"ABORT with data", fixed, option(optAbort, filled(100)), one(optAbort, repAck), closes, 0},
		{"ABORT with 1 MiB of data", fixed, option(optAbort, filled(1<<20)), one(optAbort, repAck), closes, 0},
		{"nothing is answered after ABORT", fixed, join(option(optAbort), option(optList)), one(optAbort, repAck), closes, 0},

		// LIST.
		{"LIST", fixed, option(optList), []wantReply{{optList, repServer}, {optList, repServer}, {optList, repAck}}, goesOn, 0},
		{"LIST with data", fixed, option(optList, filled(4)), invalid(optList), goesOn, 0},
		{"LIST with 70 KiB of data", fixed, option(optList, filled(70<<10)), invalid(optList), goesOn, 0},
		{"LIST with data, then LIST", fixed, join(option(optList, filled(1)), option(optList)),
			[]wantReply{{optList, replyErrInvalid}, {optList, repServer}, {optList, repServer}, {optList, repAck}}, goesOn, 0},

		// EXPORT_NAME.
		{"EXPORT_NAME of the default export", fixed | nozeros, option(name), nil, transmits, 10},
		{"EXPORT_NAME of another export", fixed | nozeros, option(name, []byte("zweite Auslagerung")), nil, transmits, 10},
		{"EXPORT_NAME unknown", fixed, option(name, []byte("tape")), nil, closes, 0},
		{"EXPORT_NAME is a prefix", fixed, option(name, []byte("swa")), nil, closes, 0},
		{"EXPORT_NAME goes on", fixed, option(name, []byte("swap2")), nil, closes, 0},
		{"EXPORT_NAME in capitals", fixed, option(name, []byte("SWAP")), nil, closes, 0},
		{"EXPORT_NAME with NUL", fixed, option(name, []byte("swap\x00")), nil, closes, 0},
		{"EXPORT_NAME is not UTF-8", fixed, option(name, []byte("sw\xffap")), nil, closes, 0},
		{"EXPORT_NAME of 4096 bytes", fixed, option(name, bytes.Repeat([]byte("n"), 4096)), nil, closes, 0},
		{"EXPORT_NAME of 4097 bytes", fixed, option(name, bytes.Repeat([]byte("n"), 4097)), nil, closes, 0},
		{"EXPORT_NAME, 4 GiB announced", fixed, optionHeader(name, 1<<32-1), nil, closes, 0},
		{"EXPORT_NAME after a refused GO", fixed | nozeros, join(option(optGo, infoData("tape")), option(name, []byte("swap"))),
			one(optGo, repUnknown), transmits, 10},
	}
	for _, o := range []struct {
		id    uint32
		label string
		done  ending // of one that succeeds
	}{{optInfo, "INFO", goesOn}, {optGo, "GO", transmits}} {
		id := o.id
		for _, c := range []handshakeCase{
			{"", fixed, option(id, infoData("swap")), infoAck(id, 1), o.done, 0},
			{" of the default export", fixed, option(id, infoData("")), infoAck(id, 1), o.done, 0},
			{" with all information", fixed, option(id, infoData("swap", 0, 1, 2, 3)), infoAck(id, 4), o.done, 0},
			{" with information asked twice", fixed, option(id, infoData("swap", 3, 3, 3)), infoAck(id, 2), o.done, 0},
			{" with unknown information", fixed, option(id, infoData("swap", 4, 0x8000, 65535)), infoAck(id, 1), o.done, 0},
			{" with 30000 information requests", fixed, option(id, infoData("swap", make([]uint16, 30000)...)), infoAck(id, 1), o.done, 0},
			{" over 64 KiB", fixed, option(id, infoData("swap", make([]uint16, 40000)...)), one(id, replyErrTooBig), goesOn, 0},
			{" unknown", fixed, option(id, infoData("tape")), one(id, repUnknown), goesOn, 0},
			{" unknown with information", fixed, option(id, infoData("tape", 1, 3)), one(id, repUnknown), goesOn, 0},
			{" without data", fixed, option(id), invalid(id), goesOn, 0},
			{" of 1 byte", fixed, option(id, filled(1)), invalid(id), goesOn, 0},
			{" of 5 bytes", fixed, option(id, be32(0), filled(1)), invalid(id), goesOn, 0},
			{" without a count", fixed, option(id, be32(4), []byte("swap")), invalid(id), goesOn, 0},
			{" with half a count", fixed, option(id, be32(4), []byte("swap"), filled(1)), invalid(id), goesOn, 0},
			{" with a name a byte too long", fixed, option(id, be32(5), []byte("swap"), be16(0)), invalid(id), goesOn, 0},
			{" with a name a byte too short", fixed, option(id, be32(3), []byte("swap"), be16(0)), invalid(id), goesOn, 0},
			{" with a name of 4 GiB announced", fixed, option(id, be32(1<<32-1), []byte("swap"), be16(0)), invalid(id), goesOn, 0},
			{" with a name of 2 GiB announced", fixed, option(id, be32(1<<31), []byte("swap"), be16(0)), invalid(id), goesOn, 0},
			{" with a count too high", fixed, option(id, be32(4), []byte("swap"), be16(2), be16(3)), invalid(id), goesOn, 0},
			{" with a count too low", fixed, option(id, be32(4), []byte("swap"), be16(1), be16(3), be16(3)), invalid(id), goesOn, 0},
			{" with an odd byte behind", fixed, option(id, infoData("swap"), filled(1)), invalid(id), goesOn, 0},
			{" with the highest count", fixed, option(id, be32(4), []byte("swap"), be16(65535)), invalid(id), goesOn, 0},
			{" with a name of 4096 bytes", fixed, option(id, infoData(strings.Repeat("n", 4096))), one(id, repUnknown), goesOn, 0},
			{" with a name of 4097 bytes", fixed, option(id, infoData(strings.Repeat("n", 4097))), invalid(id), goesOn, 0},
			{" with NUL in the name", fixed, option(id, infoData("swap\x00")), invalid(id), goesOn, 0},
			{" with a name not in UTF-8", fixed, option(id, infoData("\xc3\x28")), invalid(id), goesOn, 0},
			{", 4 GiB announced", fixed, optionHeader(id, 1<<32-1), nil, closes, 0},
			{" refused twice, then good", fixed, join(option(id, infoData("tape")), option(id), option(id, infoData("swap"))),
				append([]wantReply{{id, repUnknown}, {id, replyErrInvalid}}, infoAck(id, 1)...), o.done, 0},
		} {
			c.name = o.label + c.name
			cases = append(cases, c)
		}
	}
	cases = append(cases,
		handshakeCase{"a good INFO does not help a bad GO", fixed,
			join(option(optInfo, infoData("swap")), option(optGo, infoData("tape"))),
			append(infoAck(optInfo, 1), wantReply{optGo, repUnknown}), goesOn, 0},
		handshakeCase{"INFO of one export, GO to another", fixed,
			join(option(optInfo, infoData("zweite Auslagerung")), option(optGo, infoData("swap"))),
			append(infoAck(optInfo, 1), infoAck(optGo, 1)...), transmits, 0},
	)
	cases = append(cases, framingCases()...)
	var many []byte
	var replies []wantReply
	for range maxOptions {
		many = append(many, option(77)...)
		replies = append(replies, wantReply{77, repUnsup})
	}
	return append(cases,
		handshakeCase{"32 options are the last", fixed, join(many, option(77)), replies, closes, 0},
		handshakeCase{"the 32nd option may be GO", fixed, join(many[len(option(77)):], option(optGo, infoData("swap"))),
			append(replies[:maxOptions-1:maxOptions-1], infoAck(optGo, 1)...), transmits, 0},
	)
}

// twoExports is a server of "swap" and another export.
func twoExports(t testing.TB) (*testServer, *memoryDevice) {
	device := newMemoryDevice(1 << 20)
	return startServer(t, Config{Exports: []Export{
		{Name: "swap", Description: "compressed swap of build host 7", Device: device},
		{Name: "zweite Auslagerung", Device: newMemoryDevice(64 << 10), ReadOnly: true},
	}}), device
}

func TestHandshake(t *testing.T) {
	s, device := twoExports(t)
	cases := handshakeCases()
	if len(cases) < 60 {
		t.Fatalf("%d cases", len(cases))
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			c := s.greeted(t, test.flags)
			c.sendLoose(test.send)
			for _, w := range test.want {
				c.expectReply(w.id, w.kind)
			}
			c.read(test.raw)
			switch test.ending {
			case closes:
				c.expectClosed()
			case goesOn:
				c.send(option(optAbort))
				c.expectReply(optAbort, repAck)
				c.expectClosed()
			case transmits:
				if test.name != "EXPORT_NAME of another export" && !bytes.Equal(c.readBack(4096, 512), device.data[4096:4096+512]) {
					t.Error("read the wrong bytes")
				}
				c.send(requestBytes(0, wireDisconnect, 0, 0, 0))
				c.expectClosed()
			}
			// The server is none the worse for it.
			if !bytes.Equal(s.attached(t, "swap").readBack(0, 16), device.data[:16]) {
				t.Error("another client reads the wrong bytes")
			}
		})
	}
}

// Each prefix of a good conversation, with the connection closed after it.
func TestHandshakeCut(t *testing.T) {
	s, device := twoExports(t)
	whole := join(be32(3), option(optList), option(optInfo, infoData("swap", 1, 2, 3)), option(optGo, infoData("swap")))
	for n := range whole {
		c := s.dial(t)
		c.greeting()
		c.send(whole[:n])
		c.Close()
	}
	eventually(t, "all connections are gone", func() bool { return s.Stats().Connections.Now == 0 })
	if got := s.Stats().HandshakeFailures[failedGone]; got != uint64(len(whole)) {
		t.Errorf("%d handshakes failed because the client was gone, want %d", got, len(whole))
	}
	if !bytes.Equal(s.attached(t, "swap").readBack(0, 16), device.data[:16]) {
		t.Error("the server reads the wrong bytes")
	}
}

func TestHandshakeByteByByte(t *testing.T) {
	s, device := twoExports(t)
	c := s.dial(t)
	c.greeting()
	for _, b := range join(be32(1), option(77, filled(3)), option(optGo, infoData("swap", 3))) {
		c.send([]byte{b})
	}
	c.expectReply(77, repUnsup)
	c.expectReply(optGo, repInfo)
	c.expectReply(optGo, repInfo)
	c.expectReply(optGo, repAck)
	if !bytes.Equal(c.readBack(8, 8), device.data[8:16]) {
		t.Error("read the wrong bytes")
	}
}

// A client may send requests before it has seen GO's answer.
func TestHandshakePipelined(t *testing.T) {
	s, device := twoExports(t)
	c := s.dial(t)
	c.send(be32(1), option(optGo, infoData("swap")), requestBytes(0, wireRead, 9, 64, 32))
	c.greeting()
	c.expectReply(optGo, repInfo)
	c.expectReply(optGo, repAck)
	if !bytes.Equal(c.expect(9, 0, 32), device.data[64:96]) {
		t.Error("read the wrong bytes")
	}
}

func TestHandshakeInformation(t *testing.T) {
	s, device := twoExports(t)
	const writable = transmissionHasFlags | transmissionFlush | transmissionFUA | transmissionTrim |
		transmissionWriteZeroes | transmissionMultiConn | transmissionCache | transmissionFastZero
	const readOnly = transmissionHasFlags | transmissionReadOnly | transmissionFlush | transmissionFUA | transmissionMultiConn |
		transmissionCache
	for _, test := range []struct {
		asked, name, description string
		size                     int
		flags                    uint16
	}{
		{"swap", "swap", "compressed swap of build host 7", len(device.data), writable},
		{"", "swap", "compressed swap of build host 7", len(device.data), writable},
		{"zweite Auslagerung", "zweite Auslagerung", "", 64 << 10, readOnly},
	} {
		c := s.greeted(t, 1)
		for _, id := range []uint32{optInfo, optGo} {
			c.send(option(id, infoData(test.asked, 3, 2, 1)))
			for _, want := range [][]byte{
				join(be16(0), be64(uint64(test.size)), be16(test.flags)),
				join(be16(1), []byte(test.name)),
				join(be16(2), []byte(test.description)),
				join(be16(3), be32(1), be32(4096), be32(32<<20)),
			} {
				if got := c.expectReply(id, repInfo); !bytes.Equal(got, want) {
					t.Errorf("option %d for %q: information % x, want % x", id, test.asked, got, want)
				}
			}
			c.expectReply(id, repAck)
		}
		old := s.greeted(t, 3)
		old.send(option(optionExportName, []byte(test.asked)))
		want := join(be64(uint64(test.size)), be16(test.flags))
		if got := old.read(10); !bytes.Equal(got, want) {
			t.Errorf("EXPORT_NAME %q: % x, want % x", test.asked, got, want)
		}
	}
}

func TestHandshakeList(t *testing.T) {
	var exports []Export
	for i := range 40 {
		exports = append(exports, Export{
			Name:        fmt.Sprintf("%s-%d", strings.Repeat("n", 250), i),
			Description: strings.Repeat("d", maxExportDescription-i),
			Device:      newMemoryDevice(4096),
		})
	}
	c := startServer(t, Config{Exports: exports}).greeted(t, 1)
	c.send(option(optList))
	for _, e := range exports {
		want := join(be32(uint32(len(e.Name))), []byte(e.Name), []byte(e.Description))
		got := c.expectReply(optList, repServer)
		if !bytes.Equal(got, want) {
			t.Fatalf("listed %q, want %q", got, want)
		}
		if len(got) >= 4096 {
			t.Fatalf("a reply of %d bytes", len(got))
		}
	}
	c.expectReply(optList, repAck)
}

func TestHandshakeWithoutExports(t *testing.T) {
	s := startServer(t, Config{})
	c := s.greeted(t, 1)
	c.send(option(optList), option(optGo, infoData("")), option(optInfo, infoData("swap")), option(optionExportName))
	c.expectReply(optList, repAck)
	c.expectReply(optGo, repUnknown)
	c.expectReply(optInfo, repUnknown)
	c.expectClosed()
	eventually(t, "the failure is counted", func() bool { return s.Stats().HandshakeFailures[failedExport] == 1 })
}

// Without a client's answer, and in the middle of everything else, the deadline
// ends a handshake; transmission has none.
func TestHandshakeTimeout(t *testing.T) {
	s := startServer(t, Config{
		Exports:          []Export{{Name: "swap", Device: newMemoryDevice(4096)}},
		HandshakeTimeout: 50 * time.Millisecond,
	})
	attached := s.attached(t, "swap")
	silent := s.dial(t)
	silent.greeting()
	half := s.greeted(t, 1)
	half.send(optionHeader(optGo, 10), filled(3))
	chatty := s.greeted(t, 1)
	chatty.send(option(77))
	chatty.expectReply(77, repUnsup)
	for _, c := range []*testClient{silent, half, chatty} {
		c.expectClosed()
	}
	eventually(t, "the failures are counted", func() bool { return s.Stats().HandshakeFailures[failedTimeout] == 3 })
	attached.readBack(0, 8)
}

// A client that asks and does not read is cut by the same deadline.
func TestHandshakeUnreadReplies(t *testing.T) {
	var exports []Export
	for i := range 300 {
		exports = append(exports, Export{
			Name: fmt.Sprint("export ", i), Description: strings.Repeat("d", 2000), Device: newMemoryDevice(4096),
		})
	}
	s := startServer(t, Config{Exports: exports, HandshakeTimeout: 200 * time.Millisecond})
	c := s.greeted(t, 1)
	c.send(option(optList), option(optList), option(optList))
	eventually(t, "the handshake timed out", func() bool { return s.Stats().HandshakeFailures[failedTimeout] == 1 })
}

func TestHandshakeLimits(t *testing.T) {
	s := startServer(t, Config{
		Exports:        []Export{{Name: "swap", Device: newMemoryDevice(4096)}},
		MaxHandshakes:  3,
		MaxConnections: 5,
	})
	var attached []*testClient
	for range 3 {
		attached = append(attached, s.attached(t, "swap"))
	}
	half := []*testClient{s.greeted(t, 1), s.greeted(t, 1)}
	s.dial(t).expectClosed() // the sixth connection
	if got := s.Stats().Connections; got.Refused[refusedConnections] != 1 || got.Now != 5 || got.Handshaking != 2 || got.Total != 5 {
		t.Errorf("connections: %+v", got)
	}
	attached[0].Close()
	attached[1].Close()
	eventually(t, "two clients are gone", func() bool { return s.Stats().Connections.Now == 3 })
	s.greeted(t, 1)
	s.dial(t).expectClosed() // the fourth handshake
	if got := s.Stats().Connections; got.Refused[refusedHandshakes] != 1 {
		t.Errorf("connections: %+v", got)
	}
	half[0].goTo("swap") // makes room
	s.attached(t, "swap")
	attached[2].readBack(0, 8)
}

func TestExports(t *testing.T) {
	device := newMemoryDevice(8192)
	for _, test := range []struct {
		name   string
		export Export
	}{
		{"no name", Export{Device: device}},
		{"NUL", Export{Name: "a\x00b", Device: device}},
		{"not UTF-8", Export{Name: "\xff", Device: device}},
		{"long name", Export{Name: strings.Repeat("n", 257), Device: device}},
		{"long description", Export{Name: "a", Description: strings.Repeat("d", 2049), Device: device}},
		{"no device", Export{Name: "a"}},
		{"odd size", Export{Name: "a", Device: newMemoryDevice(4095)}},
		{"empty", Export{Name: "a", Device: newMemoryDevice(0)}},
		{"negative", Export{Name: "a", Device: vastDevice{device, -4096}}},
	} {
		if s, err := NewServer(Config{Exports: []Export{test.export}}); err == nil {
			t.Errorf("%s: accepted: %v", test.name, s)
		}
	}
	s := startServer(t, Config{Exports: []Export{{Name: "a", Device: device}}})
	if err := s.AddExport(Export{Name: "a", Device: device}); err == nil {
		t.Error("a second export of the same name was accepted")
	}
	if err := s.AddExport(Export{Name: "b", Device: device}); err != nil {
		t.Fatal(err)
	}
	c := s.attached(t, "b")
	if err := s.RemoveExport("b"); err == nil {
		t.Error("an export with a client was removed")
	}
	if err := s.RemoveExport("c"); err == nil {
		t.Error("an unknown export was removed")
	}
	c.readBack(0, 4096)
	if err := s.RemoveExport("a"); err != nil {
		t.Fatal(err)
	}
	// Now the default is the other one, and the first is gone.
	d := s.greeted(t, 1)
	d.send(option(optGo, infoData("a")), option(optInfo, infoData("", 1)))
	d.expectReply(optGo, repUnknown)
	d.expectReply(optInfo, repInfo)
	if got := string(d.expectReply(optInfo, repInfo)[2:]); got != "b" {
		t.Errorf("the default export is %q", got)
	}
	c.Close()
	eventually(t, "the export is free", func() bool { return s.RemoveExport("b") == nil })
	stats := s.Stats()
	if len(stats.Exports) != 0 || stats.Commands[CommandRead].Bytes != 4096 {
		t.Errorf("after removal: %+v", stats)
	}
}

// The hand-written codec agrees with go-nbd's structures.
// TestResizeExport: each connection keeps the size that it was told, and the
// books of an export are one, whatever sizes it had.
func TestResizeExport(t *testing.T) {
	s := startServer(t, Config{Exports: []Export{{Name: "other", Device: newMemoryDevice(4096)}, {Name: "a", Device: newMemoryDevice(16384)}}})
	told := func(want uint64) {
		t.Helper()
		c := s.greeted(t, 1)
		c.send(option(optInfo, infoData("a")))
		if got := binary.BigEndian.Uint64(c.expectReply(optInfo, repInfo)[2:]); got != want {
			t.Errorf("a new client is told %d bytes, want %d", got, want)
		}
		c.Close()
	}
	resize := func(size int64, want error) {
		t.Helper()
		if err := s.ResizeExport("a", size); !errors.Is(err, want) {
			t.Errorf("resize to %d: %v, want %v", size, err, want)
		}
	}
	resize(8192, nil)
	told(8192)
	first := s.attached(t, "a")
	resize(16384, nil)
	told(16384)
	second := s.attached(t, "a")
	resize(12288, ErrExportInUse)
	told(16384)
	for _, test := range []struct {
		client *testClient
		at     uint64
		want   uint32
	}{
		{first, 4096, 0}, {first, 8192, errnoInvalid}, {second, 8192, 0}, {second, 16384, errnoInvalid},
	} {
		test.client.send(requestBytes(0, wireRead, 7, test.at, 4096))
		reply := test.client.read(16)
		if got := binary.BigEndian.Uint32(reply[4:]); got != test.want {
			t.Errorf("read at %d: errno %d, want %d", test.at, got, test.want)
		}
		if test.want == 0 {
			test.client.read(4096)
		}
	}
	if x := s.Stats().Exports; len(x) != 2 || x[1].Clients != 2 || x[1].Size != 16384 || x[1].Commands[CommandRead].Requests != 4 || x[0].Commands[CommandRead].Requests != 0 {
		t.Errorf("stats: %+v", x)
	}
	if err := s.RemoveExport("a"); !errors.Is(err, ErrExportInUse) {
		t.Errorf("removed under two clients: %v", err)
	}
	second.Close()
	eventually(t, "the second client is gone", func() bool { return s.Stats().Exports[1].Clients == 1 })
	resize(8192, ErrExportInUse) // the first would not be hurt, but nobody asks that closely
	first.Close()
	eventually(t, "the first client is gone", func() bool { return s.Stats().Exports[1].Clients == 0 })
	resize(4096, nil)
	told(4096)
	if x := s.Stats().Exports[1]; x.Commands[CommandRead].Requests != 4 || x.Commands[CommandRead].Errors != 2 {
		t.Errorf("the books after all are gone: %+v", x.Commands[CommandRead])
	}
	for _, size := range []int64{0, -4096, 4095} {
		if err := s.ResizeExport("a", size); err == nil {
			t.Errorf("resized to %d bytes", size)
		}
	}
	if err := s.ResizeExport("b", 4096); !errors.Is(err, ErrExportUnknown) {
		t.Errorf("resize of an unknown export: %v", err)
	}
}

func TestWireStructures(t *testing.T) {
	header := protocol.TransmissionRequestHeader{
		RequestMagic: protocol.TRANSMISSION_MAGIC_REQUEST, CommandFlags: 0x1234, Type: 0x5678,
		Handle: 0x1122334455667788, Offset: 0x99aabbccddeeff00, Length: 0xdeadbeef,
	}
	b, err := binary.Append(nil, binary.BigEndian, header)
	if err != nil {
		t.Fatal(err)
	}
	want := request{0x1234, 0x5678, 0x1122334455667788, 0x99aabbccddeeff00, 0xdeadbeef}
	if got, ok := framingSimple.parse(b); !ok || got != want || len(b) != requestSize {
		t.Errorf("parsed %+v, %v", got, ok)
	}
	b[0]++
	if _, ok := framingSimple.parse(b); ok {
		t.Error("took a wrong magic")
	}
	reply := make([]byte, replySize)
	putSimple(reply, 22, 0x0102030405060708)
	b, err = binary.Append(nil, binary.BigEndian, protocol.TransmissionReplyHeader{
		ReplyMagic: protocol.TRANSMISSION_MAGIC_REPLY, Error: 22, Handle: 0x0102030405060708,
	})
	if err != nil || !bytes.Equal(b, reply) {
		t.Errorf("encoded % x, want % x (%v)", reply, b, err)
	}
}
