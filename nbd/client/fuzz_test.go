package client

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"
)

// peer answers with fixed bytes and swallows what it is told.
type peer struct{ io.Reader }

func (peer) Write(p []byte) (int, error) { return len(p), nil }

// hello is what a server sends to open an export of a size.
func hello(size uint64) []byte {
	b := []byte("NBDMAGICIHAVEOPT\x00\x03")
	for _, info := range [][]byte{{0, 0}, nil} {
		b = binary.BigEndian.AppendUint64(b, 0x3e889045565a9)
		b = binary.BigEndian.AppendUint32(b, 7)
		if info == nil {
			return binary.BigEndian.AppendUint64(b, 1<<32) // ACK without data
		}
		b = binary.BigEndian.AppendUint32(b, 3)
		b = binary.BigEndian.AppendUint32(b, 12)
		b = append(b, info...)
		b = binary.BigEndian.AppendUint64(b, size)
		b = append(b, 0, 1)
	}
	return b
}

func TestNegotiate(t *testing.T) {
	good := hello(12345)
	if info, err := negotiate(peer{bytes.NewReader(good)}, "x"); info != (information{12345, 1}) || err != nil {
		t.Errorf("%+v, error %v", info, err)
	}
	for i := range good {
		if _, err := negotiate(peer{bytes.NewReader(good[:i])}, "x"); err == nil {
			t.Errorf("no error after %d of %d bytes", i, len(good))
		}
	}
	withoutInfo := append(bytes.Clone(good[:18]), good[len(good)-20:]...)
	if _, err := negotiate(peer{bytes.NewReader(withoutInfo)}, "x"); err == nil {
		t.Error("no error without a size")
	}
}

func FuzzNegotiate(f *testing.F) {
	f.Add(hello(4096))
	f.Add([]byte("NBDMAGICIHAVEOPT\x00\x00"))
	f.Add(append([]byte("NBDMAGICIHAVEOPT\x00\x03"), 0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9, 0, 0, 0, 7, 0x80, 0, 0, 6, 0, 0, 0, 2, 'n', 'o'))
	f.Fuzz(func(t *testing.T, answers []byte) {
		_, _ = negotiate(peer{bytes.NewReader(answers)}, "export")
	})
}

// FuzzReplies feeds bytes to a connection with two reads and a write
// outstanding. What is believed of them must be those (C3).
func FuzzReplies(f *testing.F) {
	reply := func(cookie uint64, errno uint32, data int) []byte {
		b := binary.BigEndian.AppendUint32(nil, 0x67446698)
		b = binary.BigEndian.AppendUint32(b, errno)
		b = binary.BigEndian.AppendUint64(b, cookie)
		return append(b, make([]byte, data)...)
	}
	f.Add(append(reply(1<<32, 0, 16), reply(3<<32|2, 0, 0)...))
	f.Add(reply(2<<32|1, 5, 0))
	f.Add(append(reply(1<<32, 0, 16), reply(1<<32, 0, 16)...))
	f.Add(reply(2<<32|1, 0, 3))
	f.Fuzz(func(t *testing.T, replies []byte) {
		c := &Conn{
			in: replies, received: len(replies), out: make([]byte, sendBytes),
			slots: make([]slot, 4), free: []uint32{3, 2, 1, 0}, result: new(Result),
		}
		q := &requests{left: []Request{{Read, 0, 16, nil, nil}, {Read, 16, 16, make([]byte, 16), nil}, {Write, 0, 16, make([]byte, 16), nil}}}
		if err := c.issue(q, 0); err != nil {
			t.Fatal(err)
		}
		err := c.settle(q, 1)
		if q.done > 3 || len(c.free) != 1+q.done || c.result.Requests() != uint64(q.done) {
			t.Errorf("C1: %d of 3 requests are done, %d slots are free", q.done, len(c.free))
		}
		if c.parsed > c.received {
			t.Errorf("parsed %d of %d bytes", c.parsed, c.received)
		}
		if err == nil && c.received-c.parsed >= replySize+16 {
			t.Errorf("%d bytes are left, more than an incomplete reply", c.received-c.parsed)
		}
	})
}
