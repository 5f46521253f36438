package nbd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

// encode writes a request as a client of that framing does.
func (f framing) encode(q request, payload ...byte) []byte {
	if f == framingExtended {
		return join(be32(magicExtendedRequest), be16(q.flags), be16(q.wire), be64(q.cookie), be64(q.offset), be64(q.length), payload)
	}
	return requestBytes(q.flags, q.wire, q.cookie, q.offset, uint32(q.length), payload...)
}

// framed connects to the export in a framing, with all contexts chosen.
func (s *testServer) framed(t testing.TB, f framing, name string) *testClient {
	t.Helper()
	c := s.greeted(t, 3)
	switch f {
	case framingStructured:
		c.send(option(optionStructuredReply))
		c.expectReply(optionStructuredReply, repAck)
	case framingExtended:
		c.send(option(optionExtendedHeaders))
		c.expectReply(optionExtendedHeaders, repAck)
	}
	if f != framingSimple {
		c.send(option(optionSetMetaContext, metaData(name, "base:allocation", "tmem:owner")))
		c.expectReply(optionSetMetaContext, replyMetaContext)
		c.expectReply(optionSetMetaContext, replyMetaContext)
		c.expectReply(optionSetMetaContext, repAck)
	}
	c.goTo(name)
	return c
}

// metaData is the data of LIST and SET_META_CONTEXT.
func metaData(name string, queries ...string) []byte {
	b := join(be32(uint32(len(name))), []byte(name), be32(uint32(len(queries))))
	for _, q := range queries {
		b = join(b, be32(uint32(len(q))), []byte(q))
	}
	return b
}

// ask sends one request and takes its answer.
func (c *testClient) ask(f framing, q request, payload ...byte) answer {
	c.t.Helper()
	c.send(f.encode(q, payload...))
	a, err := readAnswer(c, f, func(cookie uint64) (request, bool) { return q, cookie == q.cookie })
	if err != nil {
		c.t.Fatalf("answer to %+v: %v", q, err)
	}
	return a
}

var framings = map[string]framing{"simple": framingSimple, "structured": framingStructured, "extended": framingExtended}

// punctured zeroes pages of a device, as the seed says.
func punctured(device *memoryDevice, seed uint64) {
	for page := range len(device.data) / pageSize {
		if seed>>(page%64)&1 != 0 {
			clear(device.data[page*pageSize:][:pageSize])
		}
	}
}

// What a read brings does not depend on the framing, on who serves it, or on
// where holes lie; and holes are told exactly where whole pages are zero.
func TestReadFraming(t *testing.T) {
	const size = 6 << 20
	config := func(d Device) Config {
		return Config{Exports: []Export{{Name: "swap", Device: d}}, OwnerContext: "tmem:owner"}
	}
	for way, device := range devices(size) {
		punctured(device, 0xf0c3_0000_ffff_5516)
		s := startServer(t, config(device))
		for name, f := range framings {
			c := s.framed(t, f, "swap")
			t.Run(way+" "+name, func(t *testing.T) {
				c.t = t
				cookie := uint64(0)
				rapid.Check(t, func(t *rapid.T) {
					cookie++
					q := request{wire: wireRead, cookie: cookie}
					q.length = 1 + uint64(rapid.IntRange(0, 5<<20>>rapid.IntRange(0, 12).Draw(t, "shift")).Draw(t, "length"))
					q.offset = uint64(rapid.IntRange(0, size-int(q.length)).Draw(t, "offset"))
					if rapid.Bool().Draw(t, "aligned") {
						q.offset &^= pageSize - 1
					}
					if f != framingSimple && rapid.IntRange(0, 3).Draw(t, "DF") == 0 {
						q.flags = commandDF
					}
					a := c.ask(f, q)
					want := device.data[q.offset : q.offset+q.length]
					if a.errno != 0 || !bytes.Equal(a.data, want) {
						t.Fatalf("%+v: errno %d or the wrong bytes", q, a.errno)
					}
					holes := 0
					for at := -q.offset & (pageSize - 1); at+pageSize <= q.length; at += pageSize {
						if isZero(want[at : at+pageSize]) {
							holes += pageSize
						}
					}
					if f == framingSimple || q.flags == commandDF {
						holes = 0
					}
					if a.holes != holes || q.flags == commandDF && a.chunks != 1 {
						t.Fatalf("%+v: %d bytes of holes in %d chunks, want %d", q, a.holes, a.chunks, holes)
					}
				})
			})
		}
	}
}

// Pages of nearly zeros are no holes.
func TestZeroPages(t *testing.T) {
	for at := range pageSize {
		page := make([]byte, pageSize)
		if !isZero(page) {
			t.Fatal("a page of zeros is none")
		}
		page[at] = 1
		if isZero(page) {
			t.Fatalf("a page with byte %d set is zero", at)
		}
	}
}

// Errors come in the framing's own form, and the stream stays in step.
func TestChunkErrors(t *testing.T) {
	const size = 1 << 20
	device := newMemoryDevice(size)
	failing := newMemoryDevice(size)
	failing.refuse, failing.fail = always, func() error { return syscall.ENOSPC }
	s := startServer(t, Config{OwnerContext: "tmem:owner", Exports: []Export{
		{Name: "swap", Device: device}, {Name: "failing", Device: failing}, {Name: "sealed", Device: device, ReadOnly: true},
	}})
	before := device.bytes()
	type errorCase struct {
		q     request
		errno uint32
	}
	both := []errorCase{
		{request{wire: wireRead, offset: size, length: 1}, errnoInvalid},
		{request{wire: wireRead, offset: math.MaxUint64, length: 4096}, errnoInvalid},
		{request{wire: wireRead, flags: commandReqOne, length: 4096}, errnoInvalid},
		{request{wire: wireRead, length: 0}, 0},
		{request{wire: wireRead, flags: commandDF, length: 0}, 0},
		{request{wire: wireBlockStatus, offset: size, length: 1}, errnoInvalid},
		{request{wire: wireBlockStatus, length: 0}, errnoInvalid},
		{request{wire: wireBlockStatus, flags: commandDF, length: 4096}, errnoInvalid},
		{request{wire: wireCache, offset: 0, length: size}, 0},
		{request{wire: wireCache, flags: commandFUA, offset: 4096, length: 1}, 0},
		{request{wire: wireCache, offset: size, length: 1}, errnoInvalid},
		{request{wire: wireTrim, offset: size, length: 1}, errnoInvalid},
		{request{wire: wireTrim, flags: commandFastZero, length: 1}, errnoInvalid},
		{request{wire: wireWriteZeroes, flags: commandFastZero | commandNoHole, offset: size, length: 4096}, errnoNoSpace},
		{request{wire: wireFlush}, 0},
		{request{wire: 99, length: 1 << 30}, errnoInvalid},
	}
	extended := []errorCase{
		{request{wire: wireTrim, offset: 4096, length: 1 << 40}, errnoInvalid},
		{request{wire: wireWriteZeroes, length: math.MaxUint64}, errnoNoSpace},
		{request{wire: wireRead, length: 1 << 33}, errnoInvalid},
		{request{wire: wireBlockStatus, length: 1 << 50}, errnoInvalid},
		{request{wire: wireRead, flags: commandPayloadLen, length: 4096}, errnoInvalid},
		{request{wire: wireTrim, flags: commandPayloadLen, length: 100_000}, errnoInvalid},
		{request{wire: wireBlockStatus, flags: commandPayloadLen, length: 12}, errnoInvalid},
		{request{wire: wireBlockStatus, flags: commandPayloadLen, length: 3 << 20}, errnoInvalid},
		{request{wire: 99, flags: commandPayloadLen, length: 77}, errnoInvalid},
		{request{wire: wireWrite, flags: commandPayloadLen, offset: size, length: 77}, errnoNoSpace},
		{request{wire: wireWrite, flags: commandPayloadLen | commandDF, length: 77}, errnoInvalid},
	}
	for _, f := range []framing{framingStructured, framingExtended} {
		cases := both
		if f == framingExtended {
			cases = append(cases[:len(cases):len(cases)], extended...)
		}
		c := s.framed(t, f, "swap")
		for i, test := range cases {
			t.Run(fmt.Sprintf("framing %d, %+v", f, test.q), func(t *testing.T) {
				c.t = t
				test.q.cookie = uint64(i)
				var payload []byte
				if f.hasPayload(test.q) {
					// Full of requests that would be served if it were not swallowed.
					trim := f.encode(request{wire: wireTrim, length: size})
					payload = bytes.Repeat(trim, int(test.q.length)/len(trim)+1)[:test.q.length]
				}
				a := c.ask(f, test.q, payload...)
				if a.errno != test.errno || a.chunks > 1 {
					t.Fatalf("errno %d, want %d (%d chunks)", a.errno, test.errno, a.chunks)
				}
				back := c.ask(f, request{wire: wireRead, cookie: 77, offset: 512, length: 100})
				if !bytes.Equal(back.data, before[512:612]) {
					t.Fatal("the stream is out of step")
				}
			})
		}
		bad := s.framed(t, f, "failing")
		for _, wire := range []uint16{wireRead, wireFlush, wireTrim} {
			q := request{wire: wire, length: 4096}
			if wire == wireFlush {
				q.length = 0
			}
			if a := bad.ask(f, q); a.errno != errnoNoSpace {
				t.Errorf("framing %d: a failing command %d: errno %d", f, wire, a.errno)
			}
		}
		sealed := s.framed(t, f, "sealed")
		if a := sealed.ask(f, request{wire: wireWrite, length: 5}, filled(5)...); a.errno != errnoPerm {
			t.Errorf("framing %d: a write to a read-only export: errno %d", f, a.errno)
		}
	}
	if !bytes.Equal(device.bytes(), before) {
		t.Error("a refused request changed the device")
	}
}

// What ends a connection with extended headers.
func TestExtendedFatal(t *testing.T) {
	s := startServer(t, Config{OwnerContext: "tmem:owner", Exports: []Export{{Name: "swap", Device: newMemoryDevice(8192)}}})
	for name, send := range map[string][]byte{
		"compact magic":           requestBytes(0, wireRead, 1, 0, 16, 0, 0, 0, 0),
		"payload beyond all":      framingExtended.encode(request{wire: wireTrim, flags: commandPayloadLen, length: MaxPayload + 1}),
		"payload of 2^63":         framingExtended.encode(request{wire: wireWrite, flags: commandPayloadLen, length: 1 << 63}),
		"payload of 2^64-1":       framingExtended.encode(request{wire: wireWrite, length: math.MaxUint64}),
		"half a header, then end": framingExtended.encode(request{wire: wireDisconnect}),
	} {
		t.Run(name, func(t *testing.T) {
			c := s.framed(t, framingExtended, "swap")
			c.send(send)
			c.expectClosed()
		})
	}
	// An extended header to a server that was not asked for them is no request.
	c := s.framed(t, framingStructured, "swap")
	c.send(framingExtended.encode(request{wire: wireRead, length: 16}))
	c.expectClosed()
	// EXPORT_NAME goes with structured replies and contexts.
	c = s.greeted(t, 3)
	c.send(option(optionStructuredReply), option(optionSetMetaContext, metaData("swap", allocationName)), option(optionExportName, []byte("swap")))
	c.expectReply(optionStructuredReply, repAck)
	c.expectReply(optionSetMetaContext, replyMetaContext)
	c.expectReply(optionSetMetaContext, repAck)
	if got := c.read(10); binary.BigEndian.Uint16(got[8:])&transmissionDF == 0 {
		t.Errorf("EXPORT_NAME after structured replies: % x", got)
	}
	if a := c.ask(framingStructured, request{wire: wireBlockStatus, length: 1}); a.errno != 0 {
		t.Errorf("BLOCK_STATUS after EXPORT_NAME: errno %d", a.errno)
	}
	// It is too old for extended headers.
	c = s.greeted(t, 3)
	c.send(option(optionExtendedHeaders))
	c.expectReply(optionExtendedHeaders, repAck)
	c.send(option(optionExportName, []byte("swap")))
	c.expectClosed()
}

// Writes do not need the payload flag: the server takes them as qemu's does.
func TestExtendedWrite(t *testing.T) {
	for way, device := range devices(4 << 20) {
		s := startServer(t, Config{OwnerContext: "tmem:owner", Exports: []Export{{Name: "swap", Device: device}}})
		c := s.framed(t, framingExtended, "swap")
		for i, length := range []int{1, 4096, 100_000, 3 << 20} {
			q := request{wire: wireWrite, cookie: 1<<63 | uint64(i), offset: 4095, length: uint64(length)}
			if i%2 == 0 {
				q.flags = commandPayloadLen
			}
			payload := patterned(length, uint64(length))
			if a := c.ask(framingExtended, q, payload...); a.errno != 0 || a.chunks != 1 {
				t.Fatalf("%s: write of %d bytes: errno %d", way, length, a.errno)
			}
			if !bytes.Equal(device.bytes()[4095:4095+length], payload) {
				t.Fatalf("%s: %d bytes did not arrive", way, length)
			}
		}
	}
	vast := vastDevice{newMemoryDevice(4096), 1 << 50}
	c := startServer(t, Config{OwnerContext: "tmem:owner", Exports: []Export{{Name: "swap", Device: vast}}}).framed(t, framingExtended, "swap")
	for _, wire := range []uint16{wireTrim, wireWriteZeroes} {
		if a := c.ask(framingExtended, request{wire: wire, length: 1 << 50}); a.errno != 0 {
			t.Errorf("command %d for 2^50 bytes: errno %d", wire, a.errno)
		}
	}
	a := c.ask(framingExtended, request{wire: wireBlockStatus, length: 1 << 49})
	if got := a.extents[contextAllocation.id()]; len(got) != 1 || got[0] != (extent{statusSpan, 3}) {
		t.Errorf("the status of 2^49 bytes of nothing: %v", got)
	}
	if vast.trims.Load() != 1 || vast.zeroes.Load() != 1 {
		t.Error("the device was not asked")
	}
}

// The order of chunks' fields is the protocol's: byte by byte, once.
func TestChunkBytes(t *testing.T) {
	q := request{cookie: 0x1122334455667788, offset: 0x10000, wire: wireRead, length: 3 * pageSize}
	data := make([]byte, 3*pageSize)
	data[0], data[2*pageSize] = 0xaa, 0xbb
	var header [headerRoom]byte
	h, m := framingStructured.putRead(&header, q, data)
	got := join(header[:h], data[:m])
	page := func(b byte) []byte { return append([]byte{b}, make([]byte, pageSize-1)...) }
	want := join(
		be32(0x668e33ef), be16(0), be16(1), be64(q.cookie), be32(8+pageSize), be64(0x10000), page(0xaa),
		be32(0x668e33ef), be16(0), be16(2), be64(q.cookie), be32(12), be64(0x11000), be32(pageSize),
		be32(0x668e33ef), be16(1), be16(1), be64(q.cookie), be32(8+pageSize), be64(0x12000), page(0xbb),
	)
	if !bytes.Equal(got, want) {
		t.Errorf("structured chunks are % x", got)
	}
	data = make([]byte, 2*pageSize)
	q.length = 2 * pageSize
	h, m = framingExtended.putRead(&header, q, data)
	want = join(be32(0x6e8a278c), be16(1), be16(2), be64(q.cookie), be64(0x10000), be64(12), be64(0x10000), be32(2*pageSize))
	if m != 0 || !bytes.Equal(header[:h], want) {
		t.Errorf("an extended hole is % x and %d bytes", header[:h], m)
	}
	n := framingExtended.putReply(header[:], q, errnoNoSpace)
	want = join(be32(0x6e8a278c), be16(1), be16(0x8001), be64(q.cookie), be64(0x10000), be64(6), be32(28), be16(0))
	if !bytes.Equal(header[:n], want) {
		t.Errorf("an extended error is % x", header[:n])
	}
	if got := binary.BigEndian.Uint16(header[6:]); got != 0x8001 {
		t.Errorf("error type %#x", got)
	}
}
