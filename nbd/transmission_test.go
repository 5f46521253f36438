package nbd

import (
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// devices are the ways in which a request may be served: in place, or by a
// worker because the device refused.
func devices(size int) map[string]*memoryDevice {
	inPlace, refusing := newMemoryDevice(size), newMemoryDevice(size)
	refusing.refuse = always
	return map[string]*memoryDevice{"in place": inPlace, "handed over": refusing}
}

func TestReadWrite(t *testing.T) {
	const size = 40 << 20
	for way, device := range devices(size) {
		s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}})
		c := s.attached(t, "swap")
		mirror := device.bytes()
		for i, length := range []int{
			1, 511, 512, 4096, 4097, 64 << 10, 1280 << 10, inPlaceLimit - 1, inPlaceLimit, inPlaceLimit + 1, 5<<20 + 3, MaxPayload,
		} {
			t.Run(fmt.Sprint(way, " ", length), func(t *testing.T) {
				c.t = t
				offset := (size - length) * i / 11
				payload := patterned(length, uint64(length))
				flags := uint16(i % 2) // FUA on every other one
				c.send(requestBytes(flags, wireRead, 7, uint64(offset), uint32(length)))
				if !bytes.Equal(c.expect(7, 0, length), mirror[offset:offset+length]) {
					t.Fatal("read the wrong bytes")
				}
				syncs := device.syncs.Load()
				c.send(requestBytes(flags, wireWrite, 8, uint64(offset), uint32(length), payload...))
				c.expect(8, 0, 0)
				if got := device.syncs.Load() - syncs; got != int64(flags) {
					t.Errorf("%d syncs with flags %d", got, flags)
				}
				copy(mirror[offset:], payload)
				if !bytes.Equal(c.readBack(uint64(offset), length), payload) {
					t.Fatal("read something else than was written")
				}
			})
		}
		if !bytes.Equal(device.bytes(), mirror) {
			t.Errorf("%s: the device differs from what was written", way)
		}
	}
}

func TestTrimAndZeroes(t *testing.T) {
	device := newMemoryDevice(1 << 20)
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}})
	c := s.attached(t, "swap")
	mirror := device.bytes()
	for i, test := range []struct {
		command, flags uint16
		punched, syncs int64
	}{
		{wireTrim, 0, 0, 0},
		{wireTrim, commandFUA, 0, 1},
		{wireWriteZeroes, 0, 1, 0},
		{wireWriteZeroes, commandNoHole, 0, 0},
		{wireWriteZeroes, commandFUA | commandNoHole, 0, 1},
		{wireWriteZeroes, commandFastZero, 1, 0},
	} {
		offset, length := 100000*i, 70001
		punched, syncs := device.punched.Load(), device.syncs.Load()
		c.send(requestBytes(test.flags, test.command, 5, uint64(offset), uint32(length)))
		c.expect(5, 0, 0)
		if device.punched.Load()-punched != test.punched || device.syncs.Load()-syncs != test.syncs {
			t.Errorf("command %d, flags %d: %d punched and %d syncs", test.command, test.flags,
				device.punched.Load()-punched, device.syncs.Load()-syncs)
		}
		clear(mirror[offset : offset+length])
		if !bytes.Equal(c.readBack(0, len(mirror)), mirror) {
			t.Errorf("command %d, flags %d: the wrong bytes are zero", test.command, test.flags)
		}
	}
}

// CACHE reaches the device, and a device whose zeroes are slow is not offered as one
// that has fast ones.
func TestCacheAndSlowZeroes(t *testing.T) {
	device := newMemoryDevice(1 << 20)
	s := startServer(t, Config{Exports: []Export{{Name: "disk", Device: device, SlowZeroes: true}}})
	c := s.attached(t, "disk")
	c.send(requestBytes(0, wireCache, 5, 4096, 1<<19))
	c.expect(5, 0, 0)
	if n := device.prefetches.Load(); n != 1 {
		t.Errorf("the device was asked to prefetch %d times", n)
	}
	c.send(requestBytes(0, wireCache, 6, 4096, 0))
	c.expect(6, 0, 0)
	c.send(requestBytes(commandFastZero, wireWriteZeroes, 7, 0, 4096))
	c.expect(7, errnoInvalid, 0)
	if p, z := device.prefetches.Load(), device.zeroes.Load(); p != 1 || z != 0 {
		t.Errorf("the device saw %d prefetches and %d zeroes, want 1 and none", p, z)
	}
	e := &export{Export: Export{SlowZeroes: true}}
	if flags := e.transmissionFlags(framingSimple); flags&transmissionFastZero != 0 || flags&transmissionWriteZeroes == 0 {
		t.Errorf("the flags are %#x", flags)
	}
}

// Requests that no device sees, each with the errno that the protocol asks for;
// afterwards the connection goes on.
func TestRequestErrors(t *testing.T) {
	const size = 1 << 20
	const top = math.MaxUint64
	type errorCase struct {
		name           string
		flags, command uint16
		offset         uint64
		length         uint32
		errno          uint32
	}
	cases := []errorCase{
		{"READ behind the end", 0, wireRead, size, 1, errnoInvalid},
		{"READ across the end", 0, wireRead, size - 1, 2, errnoInvalid},
		{"READ far behind", 0, wireRead, 1 << 40, 4096, errnoInvalid},
		{"READ at 2^63", 0, wireRead, 1 << 63, 1, errnoInvalid},
		{"READ that ends at 2^63", 0, wireRead, 1<<63 - 4096, 4096, errnoInvalid},
		{"READ that wraps around", 0, wireRead, top, 1, errnoInvalid},
		{"READ that wraps to 0", 0, wireRead, top - 4095, 4096, errnoInvalid},
		{"READ that wraps into the export", 0, wireRead, top - 4095, 8192, errnoInvalid},
		{"READ of 4 GiB", 0, wireRead, 0, 1<<32 - 1, errnoInvalid},
		{"READ with DF", 1 << 2, wireRead, 0, 16, errnoInvalid},
		{"READ with NO_HOLE", commandNoHole, wireRead, 0, 16, errnoInvalid},
		{"READ with all flags", 1<<16 - 1, wireRead, 0, 16, errnoInvalid},
		{"WRITE behind the end", 0, wireWrite, size, 1, errnoNoSpace},
		{"WRITE across the end", 0, wireWrite, size - 4095, 4096, errnoNoSpace},
		{"WRITE of 3 MiB across the end", 0, wireWrite, 4096, 3 << 20, errnoNoSpace},
		{"WRITE of 32 MiB across the end", 0, wireWrite, 4096, MaxPayload, errnoNoSpace},
		{"WRITE at 2^63", 0, wireWrite, 1 << 63, 1, errnoNoSpace},
		{"WRITE that wraps around", 0, wireWrite, top - 1, 4096, errnoNoSpace},
		{"WRITE with NO_HOLE", commandNoHole, wireWrite, 0, 4096, errnoInvalid},
		{"WRITE with an unknown flag", 1 << 15, wireWrite, 0, 5000, errnoInvalid},
		{"WRITE with an unknown flag and FUA, across the end", 1<<5 | 1, wireWrite, size - 1, 5000, errnoInvalid},
		{"FLUSH with an offset", 0, wireFlush, 4096, 0, errnoInvalid},
		{"FLUSH with a length", 0, wireFlush, 0, 4096, errnoInvalid},
		{"FLUSH with NO_HOLE", commandNoHole, wireFlush, 0, 0, errnoInvalid},
		{"TRIM behind the end", 0, wireTrim, size, 1, errnoInvalid},
		{"TRIM of 4 GiB", 0, wireTrim, 0, 1<<32 - 1, errnoInvalid},
		{"TRIM that wraps around", 0, wireTrim, top, 1 << 20, errnoInvalid},
		{"TRIM with NO_HOLE", commandNoHole, wireTrim, 0, 4096, errnoInvalid},
		{"WRITE_ZEROES behind the end", 0, wireWriteZeroes, size, 1, errnoNoSpace},
		{"WRITE_ZEROES of 4 GiB", 0, wireWriteZeroes, 4096, 1<<32 - 4096, errnoNoSpace},
		{"WRITE_ZEROES that wraps around", 0, wireWriteZeroes, top - 4095, 4096, errnoNoSpace},
		{"WRITE_ZEROES with REQ_ONE", commandReqOne, wireWriteZeroes, 0, 4096, errnoInvalid},
		{"WRITE_ZEROES with FAST_ZERO behind the end", commandFastZero, wireWriteZeroes, size, 4096, errnoNoSpace},
		{"CACHE behind the end", 0, wireCache, size, 4096, errnoInvalid},
		{"CACHE with DF", commandDF, wireCache, 0, 4096, errnoInvalid},
		{"BLOCK_STATUS, not negotiated", 0, 7, 0, 4096, errnoInvalid},
		{"RESIZE", 0, 8, 0, 4096, errnoInvalid},
		{"unknown command", 0, 99, 0, 1 << 20, errnoInvalid},
		{"unknown command with FUA", commandFUA, 9, 0, 28, errnoInvalid},
		{"highest command", 0, 1<<16 - 1, top, 1<<32 - 1, errnoInvalid},
	}
	device := newMemoryDevice(size)
	s := startServer(t, Config{Exports: []Export{
		{Name: "swap", Device: device},
		{Name: "sealed", Device: device, ReadOnly: true},
	}})
	before := device.bytes()
	run := func(c *testClient, test errorCase) {
		var payload []byte
		if test.command == wireWrite {
			// Full of requests that would be served if the payload were not swallowed.
			payload = bytes.Repeat(requestBytes(0, wireTrim, 666, 0, size), int(test.length)/requestSize+1)[:test.length]
		}
		c.send(requestBytes(test.flags, test.command, 0xc00c1e, test.offset, test.length, payload...))
		c.expect(0xc00c1e, test.errno, 0)
		if !bytes.Equal(c.readBack(512, 100), before[512:612]) {
			c.t.Fatal("the stream is out of step")
		}
	}
	c := s.attached(t, "swap")
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) { c.t = t; run(c, test) })
	}
	sealed := s.attached(t, "sealed")
	for _, test := range []errorCase{
		{"WRITE", 0, wireWrite, 0, 4096, errnoPerm},
		{"WRITE with FUA", commandFUA, wireWrite, 0, 3 << 20, errnoPerm},
		{"TRIM", 0, wireTrim, 0, 4096, errnoPerm},
		{"WRITE_ZEROES", 0, wireWriteZeroes, 0, 4096, errnoPerm},
		{"WRITE_ZEROES with an unknown flag", 1 << 9, wireWriteZeroes, 0, 4096, errnoInvalid},
		{"FLUSH", 0, wireFlush, 0, 0, 0},
		{"READ with FUA", commandFUA, wireRead, 0, 0, 0},
	} {
		t.Run("read-only "+test.name, func(t *testing.T) { sealed.t = t; run(sealed, test) })
	}
	if !bytes.Equal(device.bytes(), before) {
		t.Error("a refused request changed the device")
	}
	if got := s.Stats().Commands; got[CommandWrite].Errors != 11 || got[CommandOther].Errors != 4 {
		t.Errorf("counted %d errors of writes and %d of unknown commands", got[CommandWrite].Errors, got[CommandOther].Errors)
	}
}

// Lengths of 0 succeed and reach no device.
func TestEmptyRequests(t *testing.T) {
	for way, device := range devices(8192) {
		c := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}}).attached(t, "swap")
		for _, command := range []uint16{wireRead, wireWrite, wireTrim, wireWriteZeroes} {
			for _, offset := range []uint64{0, 4097, 8192} {
				c.send(requestBytes(0, command, offset, offset, 0))
				c.expect(offset, 0, 0)
			}
		}
		if n := device.tries.Load() + device.trims.Load() + device.zeroes.Load() + device.writes.Load(); n != 0 {
			t.Errorf("%s: the device was asked %d times", way, n)
		}
	}
}

func TestVastRanges(t *testing.T) {
	device := vastDevice{newMemoryDevice(4096), 1 << 50}
	c := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}}).attached(t, "swap")
	for i, command := range []uint16{wireTrim, wireWriteZeroes, wireTrim, wireWriteZeroes} {
		c.send(requestBytes(0, command, uint64(i), 1<<50-1<<32, 1<<32-1))
		c.expect(uint64(i), 0, 0)
	}
	if device.trims.Load() != 2 || device.zeroes.Load() != 2 {
		t.Error("4 GiB less a byte were not trimmed and zeroed")
	}
	c.send(requestBytes(0, wireRead, 1, 0, MaxPayload+1))
	c.expect(1, errnoOverflow, 0)
	c.send(requestBytes(0, wireRead, 2, 0, 1<<32-1))
	c.expect(2, errnoOverflow, 0)
	c.send(requestBytes(0, wireFlush, 3, 0, 0))
	c.expect(3, 0, 0)
}

// What ends a connection, after the replies that are due.
func TestFatalRequests(t *testing.T) {
	device := newMemoryDevice(1 << 20)
	device.refuse = always
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}})
	for _, test := range []struct {
		name string
		send []byte
	}{
		{"bad magic", filled(requestSize)},
		{"a reply's magic", join(be32(0x67446698), make([]byte, requestSize-4))},
		{"an option", option(optGo, infoData("swap"))},
		{"WRITE beyond the limit", requestBytes(0, wireWrite, 3, 0, MaxPayload+1)},
		{"WRITE of 4 GiB", requestBytes(0, wireWrite, 3, 0, 1<<32-1)},
		{"WRITE of 4 GiB with a bad flag", requestBytes(8, wireWrite, 3, 1<<63, 1<<32-1)},
		{"DISC", requestBytes(0, wireDisconnect, 3, 0, 0)},
		{"DISC with flags, offset and length", requestBytes(0xffff, wireDisconnect, 3, 1<<63, 1<<32-1)},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := s.attached(t, "swap")
			// The read is with a worker when the connection ends; what comes
			// behind the end is not looked at.
			c.send(requestBytes(0, wireRead, 1, 8, 100000), test.send, requestBytes(0, wireRead, 9, 0, 16))
			if !bytes.Equal(c.expect(1, 0, 100000), device.data[8:100008]) {
				t.Error("read the wrong bytes")
			}
			c.expectClosed()
		})
	}
	c := s.attached(t, "swap")
	c.readBack(0, 1)
}

// A client that closes its direction still gets what it asked for.
func TestHalfClose(t *testing.T) {
	device := newMemoryDevice(1 << 20)
	device.gate = make(chan struct{})
	device.refuse = always
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}})
	open := device.opener(t)
	c := s.attached(t, "swap")
	c.send(requestBytes(0, wireRead, 1, 0, 5000), requestBytes(0, wireWrite, 2, 0, 5000, filled(4999)...))
	if err := c.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	open()
	if !bytes.Equal(c.expect(1, 0, 5000), device.data[:5000]) {
		t.Error("read the wrong bytes")
	}
	c.expectClosed()
}

// N1: a WRITE that is cut off anywhere is not applied, whichever way it goes.

// The same for payloads that go through borrowed memory, which has to come back.
func TestLargeWriteCut(t *testing.T) {
	device := newMemoryDevice(8 << 20)
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}})
	before := device.bytes()
	whole := requestBytes(0, wireWrite, 1, 0, 3<<20, filled(3<<20)...)
	for _, n := range []int{requestSize, requestSize + 1, 4096, 100000, inPlaceLimit, inPlaceLimit + requestSize, len(whole) - 1} {
		c := s.attached(t, "swap")
		c.send(whole[:n])
		c.Close()
	}
	eventually(t, "all connections are gone", func() bool { return s.Stats().Connections.Now == 0 })
	if !bytes.Equal(device.bytes(), before) {
		t.Error("a part of a write was applied")
	}
	if lent := s.Stats().Buffers.PoolLent; lent != 0 {
		t.Errorf("%d bytes are still lent", lent)
	}
}

// Errors of a device become errnos, and the connection goes on.
func TestDeviceErrors(t *testing.T) {
	for _, test := range []struct {
		err   error
		errno uint32
	}{
		{syscall.ENOSPC, errnoNoSpace},
		{fmt.Errorf("write page 7: %w", &fs.PathError{Op: "write", Path: "swap.img", Err: syscall.EDQUOT}), errnoNoSpace},
		{syscall.ENOMEM, errnoNoMemory},
		{fmt.Errorf("checksum of page 12 is wrong"), errnoIO},
	} {
		device := newMemoryDevice(8 << 20)
		device.refuse = always
		device.fail = func() error { return test.err }
		s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}})
		c := s.attached(t, "swap")
		for _, q := range [][]byte{
			requestBytes(0, wireRead, 1, 0, 4096),
			requestBytes(0, wireRead, 1, 0, 4<<20),
			requestBytes(0, wireWrite, 1, 0, 4096, filled(4096)...),
			requestBytes(commandFUA, wireWrite, 1, 0, 4096, filled(4096)...),
			requestBytes(0, wireWrite, 1, 0, 4<<20, filled(4<<20)...),
			requestBytes(0, wireFlush, 1, 0, 0),
			requestBytes(0, wireTrim, 1, 0, 4096),
			requestBytes(commandFUA, wireWriteZeroes, 1, 0, 4096),
		} {
			c.send(q)
			c.expect(1, test.errno, 0)
		}
		eventually(t, "every error is counted", func() bool {
			got := s.Stats().Commands
			return got[CommandRead].Errors == 2 && got[CommandWrite].Errors == 3 &&
				got[CommandFlush].Errors == 1 && got[CommandTrim].Errors == 1 && got[CommandWriteZeroes].Errors == 1
		})
	}
}

// A device that panics costs the request (N6).
func TestDevicePanics(t *testing.T) {
	device := panickyDevice{newMemoryDevice(1 << 20)}
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}})
	c := s.attached(t, "swap")
	for _, q := range [][]byte{
		requestBytes(0, wireRead, 1, 0, 4096),
		requestBytes(0, wireWrite, 1, 0, 4096, filled(4096)...),
		requestBytes(commandFUA, wireWrite, 1, 0, 4096, filled(4096)...),
		requestBytes(0, wireFlush, 1, 0, 0),
		requestBytes(0, wireTrim, 1, 0, 4096),
		requestBytes(0, wireWriteZeroes, 1, 0, 4096),
		requestBytes(0, wireCache, 1, 0, 4096),
	} {
		c.send(q)
		c.expect(1, errnoIO, 0)
	}
	if got := s.Stats().Panics; got != 7 {
		t.Errorf("%d panics counted", got)
	}
}

// shortDevice breaks the contract: fewer bytes than asked, and no error.
type shortDevice struct{ *memoryDevice }

func (d shortDevice) ReadAt(p []byte, off int64) (int, error)  { return len(p) - 1, nil }
func (d shortDevice) WriteAt(p []byte, off int64) (int, error) { return 0, nil }

func TestShortDevice(t *testing.T) {
	device := shortDevice{newMemoryDevice(1 << 20)}
	device.refuse = always
	c := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}}).attached(t, "swap")
	c.send(requestBytes(0, wireRead, 1, 0, 4096), requestBytes(0, wireRead, 1, 0, 4096))
	c.expect(1, errnoIO, 0)
	c.expect(1, errnoIO, 0)
	c.send(requestBytes(0, wireWrite, 1, 0, 4096, filled(4096)...))
	c.expect(1, errnoIO, 0)
}

// FLUSH on one connection covers what was written on another.
func TestFlushAcrossConnections(t *testing.T) {
	device := newMemoryDevice(1 << 20)
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}})
	a, b := s.attached(t, "swap"), s.attached(t, "swap")
	a.send(requestBytes(0, wireWrite, 1, 4096, 4096, filled(4096)...))
	a.expect(1, 0, 0)
	if !bytes.Equal(b.readBack(4096, 4096), filled(4096)) {
		t.Error("the other connection reads something older")
	}
	b.send(requestBytes(0, wireFlush, 2, 0, 0))
	b.expect(2, 0, 0)
	if device.syncs.Load() != 1 {
		t.Errorf("%d syncs", device.syncs.Load())
	}
}

// faultyDevice reads from memory that is not there.
type faultyDevice struct {
	*memoryDevice
	gone []byte
}

func (d faultyDevice) TryReadAt(p []byte, off int64) bool {
	copy(p, d.gone)
	return true
}

func (d faultyDevice) ReadAt(p []byte, off int64) (int, error)  { return copy(p, d.gone), nil }
func (d faultyDevice) TryWriteAt(p []byte, off int64) int       { return 0 }
func (d faultyDevice) WriteAt(p []byte, off int64) (int, error) { return copy(d.gone, p), nil }

// Memory of a device that the system cannot provide costs the request, not the
// process: shared memory that is full behaves like this.
func TestDeviceMemoryFault(t *testing.T) {
	gone, err := unix.Mmap(-1, 0, 8192, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(gone)
	device := faultyDevice{newMemoryDevice(8192), gone}
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}, TouchBuffers: true})
	c := s.attached(t, "swap")
	c.send(requestBytes(0, wireRead, 1, 0, 4096))
	c.expect(1, errnoIO, 0)
	c.send(requestBytes(0, wireWrite, 2, 0, 4096, filled(4096)...))
	c.expect(2, errnoIO, 0)
	c.send(requestBytes(0, wireFlush, 3, 0, 0))
	c.expect(3, 0, 0)
	if n := s.Stats().Panics; n != 2 {
		t.Errorf("%d panics counted", n)
	}
}

// brokenSocket panics where the server's own code does not.
type brokenSocket struct {
	net.Conn
	left int // reads before it does
}

func (b *brokenSocket) Read(p []byte) (int, error) {
	if b.left--; b.left < 0 {
		panic("socket")
	}
	return b.Conn.Read(p)
}

// A panic of the server itself costs the connection, wherever it happens.
func TestServerPanics(t *testing.T) {
	device := newMemoryDevice(8 << 20)
	device.refuse = always
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}})
	other := s.attached(t, "swap")
	stream := join(be32(1), option(optGo, infoData("swap")),
		requestBytes(0, wireRead, 1, 0, 4096), requestBytes(0, wireWrite, 2, 0, 4<<20, filled(4<<20)...))
	// Flags, the option's header, name length, name and count, then requests:
	// the last one panics in the middle of a large payload.
	for i, reads := range []int{0, 1, 3, 5, 6} {
		ours, theirs := socketPair(t)
		go func() { _, _ = theirs.Write(stream) }()
		s.admit(&brokenSocket{ours, reads})
		eventually(t, "the connection is gone", func() bool {
			got := s.Stats()
			return got.Connections.Now == 1 && got.Panics == uint64(i+1) && got.Buffers.PoolLent == 0
		})
		theirs.Close()
		other.readBack(0, 4096)
	}
}
