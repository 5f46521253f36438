package nbd

import (
	"bytes"
	"fmt"
	"testing"
)

// A connection that is cut at any byte of a request has asked for nothing: what
// was not sent whole is not done, in any framing, and nobody else notices.
func TestRequestCut(t *testing.T) {
	for way, device := range devices(1 << 20) {
		s := startServer(t, Config{OwnerContext: "tmem:owner", Exports: []Export{{Name: "swap", Device: device}}})
		other := s.attached(t, "swap")
		before := device.bytes()
		for name, f := range framings {
			for _, q := range []request{
				{wire: wireWrite, length: 300},
				{wire: wireWrite, flags: commandFUA, offset: 4000, length: 5000},
				{wire: wireTrim, length: 8192},
				{wire: wireWriteZeroes, length: 1 << 20},
				{wire: wireRead, length: 4096},
				{wire: wireFlush},
				{wire: wireBlockStatus, length: 4096},
			} {
				whole := f.encode(q)
				if q.wire == wireWrite {
					whole = f.encode(q, filled(int(q.length))...)
				}
				t.Run(fmt.Sprint(way, " ", name, " command ", q.wire, " of ", q.length), func(t *testing.T) {
					for n := 0; n < len(whole); n += 1 + n/200*97 {
						c := s.framed(t, f, "swap")
						c.send(whole[:n])
						c.Close()
					}
					other.t = t
					if !bytes.Equal(other.readBack(0, 4096), before[:4096]) {
						t.Error("another client reads something else")
					}
				})
			}
		}
		eventually(t, "all connections but one are gone", func() bool { return s.Stats().Connections.Now == 1 })
		if !bytes.Equal(device.bytes(), before) {
			t.Errorf("%s: a part of a request was applied", way)
		}
	}
}

// A client that goes at any byte of the replies loses them, and nothing else.
func TestReplyCut(t *testing.T) {
	for way, device := range devices(1 << 20) {
		s := startServer(t, Config{OwnerContext: "tmem:owner", Exports: []Export{{Name: "swap", Device: device}}})
		want := device.bytes()
		copy(want[100:], filled(400))
		for name, f := range framings {
			requests := join(
				f.encode(request{wire: wireWrite, cookie: 1, offset: 100, length: 400}, filled(400)...),
				f.encode(request{wire: wireFlush, cookie: 2}),
				f.encode(request{wire: wireRead, cookie: 3, offset: 8192, length: 512}),
			)
			for n := range 3*extendedChunkSize + 8 + 512 {
				if f == framingSimple && n > 3*replySize+512 || f == framingStructured && n > 2*replySize+chunkSize+8+512 {
					break
				}
				c := s.framed(t, f, "swap")
				c.send(requests)
				c.read(n)
				c.Close()
			}
			eventually(t, "the clients are gone", func() bool { return s.Stats().Connections.Now == 0 })
			if !bytes.Equal(device.bytes(), want) {
				t.Fatalf("%s, %s: what was written whole is not there, or more is", way, name)
			}
		}
		if lent := s.Stats().Buffers.PoolLent; lent != 0 {
			t.Errorf("%s: %d bytes are still lent", way, lent)
		}
	}
}
