package nbd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"

	"github.com/pojntfx/go-nbd/pkg/backend"
	oracle "github.com/pojntfx/go-nbd/pkg/server"
	"pgregory.net/rapid"
)

// modelRequest is a request of the model test with what it must bring.
type modelRequest struct {
	request
	payload []byte // of a write
	want    uint32 // errno, unless the device fails it
}

// modelClient is a connection with a part of the device to itself, and what
// must be there.
type modelClient struct {
	conn    net.Conn
	framing framing
	start   int
	content []byte
	unknown []bool // bytes that a failed request may have changed
}

const modelPart = 9 << 18 // bytes of the device for each client

// drawBatch draws requests that are in flight together. They do not overlap,
// because overlapping ones have no defined order.
func (m *modelClient) drawBatch(t *rapid.T, seed *uint64) []modelRequest {
	pieces := 1 << rapid.IntRange(0, 6).Draw(t, "log2 requests")
	size := modelPart / pieces
	var batch []modelRequest
	for i := range pieces {
		*seed++
		q := modelRequest{request: request{cookie: *seed<<32 | uint64(i)}}
		q.wire = rapid.SampledFrom([]uint16{
			wireRead, wireRead, wireRead, wireWrite, wireWrite, wireWrite, wireTrim, wireWriteZeroes, wireFlush, wireCache, wireBlockStatus, 8, 77,
		}).Draw(t, "command")
		if q.wire != wireFlush {
			from := rapid.IntRange(0, size).Draw(t, "from")
			q.offset = uint64(m.start + i*size + from)
			q.length = uint64(rapid.IntRange(0, (size-from)>>rapid.IntRange(0, 8).Draw(t, "shift")).Draw(t, "length"))
		}
		if rapid.IntRange(0, 3).Draw(t, "FUA") == 0 {
			q.flags = commandFUA
		}
		m.spoil(t, &q)
		if q.wire == wireWrite {
			q.payload = patterned(int(q.length), *seed)
		}
		batch = append(batch, q)
	}
	return batch
}

// spoil makes some of the requests wrong.
func (m *modelClient) spoil(t *rapid.T, q *modelRequest) {
	if q.wire > 7 || q.wire == wireBlockStatus && (m.framing == framingSimple || q.length == 0) {
		q.want = errnoInvalid
	}
	if m.framing == framingExtended && q.wire == wireWrite {
		q.flags |= commandPayloadLen
	}
	switch rapid.IntRange(0, 15).Draw(t, "spoil") {
	case 0:
		q.flags |= 1 << rapid.IntRange(6, 15).Draw(t, "flag")
		q.want = errnoInvalid
	case 1:
		if q.wire == wireFlush || q.want != 0 || q.length == 0 {
			return
		}
		q.offset = rapid.SampledFrom([]uint64{1 << 40, 1 << 63, 1<<64 - 1, -uint64(q.length)}).Draw(t, "far")
		q.want = errnoInvalid
		if q.wire == wireWrite || q.wire == wireWriteZeroes {
			q.want = errnoNoSpace
		}
	}
}

// exchange sends the batch as one stream and takes the replies in any order.
func (m *modelClient) exchange(batch []modelRequest, failing bool) error {
	sent := make(chan error, 1)
	go func() {
		var stream []byte
		for _, q := range batch {
			stream = append(stream, m.framing.encode(q.request, q.payload...)...)
		}
		_, err := m.conn.Write(stream)
		sent <- err
	}()
	open := map[uint64]modelRequest{}
	for _, q := range batch {
		open[q.cookie] = q
	}
	for range batch {
		if err := m.takeReply(open, failing); err != nil {
			return err
		}
	}
	return <-sent
}

func (m *modelClient) takeReply(open map[uint64]modelRequest, failing bool) error {
	a, err := readAnswer(m.conn, m.framing, func(cookie uint64) (request, bool) {
		q, ok := open[cookie]
		return q.request, ok
	})
	if err != nil {
		return err
	}
	q, errno := open[a.cookie], a.errno
	delete(open, a.cookie)
	if errno != q.want && (!failing || q.want != 0 || errno != errnoIO) {
		return fmt.Errorf("%+v: errno %d, want %d", q.request, errno, q.want)
	}
	at := int(q.offset) - m.start
	changes := q.wire == wireWrite || q.wire == wireTrim || q.wire == wireWriteZeroes
	if errno != 0 {
		if q.want == 0 && changes {
			for i := range int(q.length) {
				m.unknown[at+i] = true
			}
		}
		return nil
	}
	if q.wire != wireRead && !changes {
		return nil
	}
	part, unknown := m.content[at:at+int(q.length)], m.unknown[at:at+int(q.length)]
	if q.wire != wireRead {
		clear(part)
		copy(part, q.payload)
		clear(unknown)
		return nil
	}
	got := a.data
	if !bytes.Equal(got, part) && !sameKnown(got, part, unknown) {
		return fmt.Errorf("%+v: read something that was never written there", q.request)
	}
	return nil
}

// sameKnown says whether a and b are equal where they have to be.
func sameKnown(a, b []byte, unknown []bool) bool {
	for i := range a {
		if a[i] != b[i] && !unknown[i] {
			return false
		}
	}
	return true
}

// Random requests, right and wrong, pipelined on several connections, against
// byte slices; the device serves in place, refuses, or fails as it pleases. No
// error costs a connection.
func TestModel(t *testing.T) {
	const clients = 3
	rapid.Check(t, func(t *rapid.T) {
		refusals := rapid.SampledFrom([]int{0, 1, 50, 99}).Draw(t, "percent refused")
		failures := rapid.SampledFrom([]int{0, 0, 0, 20}).Draw(t, "percent failed")
		device := newMemoryDevice(clients * modelPart)
		device.refuse = func() bool { return rand.IntN(100) < refusals }
		device.fail = func() error {
			if rand.IntN(100) < failures {
				return syscall.EIO
			}
			return nil
		}
		s, err := NewServer(Config{
			Exports:        []Export{{Name: "swap", Device: device}},
			Workers:        rapid.IntRange(1, 8).Draw(t, "workers"),
			MaxOutstanding: rapid.IntRange(1, 8).Draw(t, "outstanding"),
			BufferBytes:    MaxPayload,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var all []*modelClient
		for i := range clients {
			ours, theirs := net.Pipe()
			if rapid.Bool().Draw(t, "socket") {
				ours, theirs = socketPair(t)
			}
			defer theirs.Close()
			s.admit(ours)
			f := rapid.SampledFrom([]framing{framingSimple, framingStructured, framingExtended}).Draw(t, "framing")
			if err := attachQuietly(theirs, "swap", f); err != nil {
				t.Fatal(err)
			}
			all = append(all, &modelClient{
				conn: theirs, framing: f, start: i * modelPart,
				content: append([]byte(nil), device.data[i*modelPart:(i+1)*modelPart]...), unknown: make([]bool, modelPart),
			})
		}
		seed := uint64(1)
		for range rapid.IntRange(1, 3).Draw(t, "rounds") {
			batches := make([][]modelRequest, clients)
			for i, m := range all {
				batches[i] = m.drawBatch(t, &seed)
			}
			var wait sync.WaitGroup
			errors := make([]error, clients)
			for i, m := range all {
				wait.Go(func() { errors[i] = m.exchange(batches[i], failures > 0) })
			}
			wait.Wait()
			for i, err := range errors {
				if err != nil {
					t.Fatalf("client %d: %v", i, err)
				}
			}
		}
		stored := device.bytes()
		for _, m := range all {
			part := stored[m.start : m.start+modelPart]
			if !bytes.Equal(part, m.content) && !sameKnown(part, m.content, m.unknown) {
				t.Fatalf("the device holds something else than was written at %d", m.start)
			}
		}
	})
}

// attachQuietly does a handshake up to the acknowledged GO, against any server
// that has the framing.
func attachQuietly(c net.Conn, name string, f framing) error {
	if _, err := io.CopyN(io.Discard, c, 18); err != nil {
		return err
	}
	if _, err := c.Write(be32(1)); err != nil {
		return err
	}
	var options [][]byte
	switch f {
	case framingStructured:
		options = append(options, option(optionStructuredReply))
	case framingExtended:
		options = append(options, option(optionExtendedHeaders))
	}
	if f != framingSimple {
		options = append(options, option(optionSetMetaContext, metaData(name, allocationName)))
	}
	for _, o := range append(options, option(optGo, infoData(name))) {
		if _, err := c.Write(o); err != nil {
			return err
		}
		if err := skipReplies(c); err != nil {
			return err
		}
	}
	return nil
}

// skipReplies reads the replies to an option up to its acknowledgement.
func skipReplies(c net.Conn) error {
	for {
		header := make([]byte, 20)
		if _, err := io.ReadFull(c, header); err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(header[16:]))); err != nil {
			return err
		}
		switch kind := binary.BigEndian.Uint32(header[12:]); {
		case kind == repAck:
			return nil
		case kind != repInfo && kind != replyMetaContext:
			return fmt.Errorf("reply of type %#x", kind)
		}
	}
}

// go-nbd's server over a device of the same content gives the same answers to
// what it knows: reads and writes within the export, one at a time.
func TestAgainstGoNBD(t *testing.T) {
	const size = 3 << 20
	rapid.Check(t, func(t *rapid.T) {
		device := newMemoryDevice(size)
		device.refuse = func() bool { return rand.IntN(2) == 0 }
		theirDevice := device.bytes()
		s, err := NewServer(Config{Exports: []Export{{Name: "swap", Device: device}}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ours, toOurs := socketPair(t)
		theirs, toTheirs := socketPair(t)
		s.admit(ours)
		ended := make(chan error, 1)
		go func() {
			ended <- oracle.Handle(theirs, []*oracle.Export{{Name: "swap", Backend: backend.NewMemoryBackend(theirDevice)}}, nil)
		}()
		defer func() {
			toOurs.Close()
			toTheirs.Close()
			<-ended
			theirs.Close()
		}()
		both := []net.Conn{toOurs, toTheirs}
		for _, c := range both {
			if err := attachQuietly(c, "swap", framingSimple); err != nil {
				t.Fatal(err)
			}
		}
		for i := range rapid.IntRange(1, 10).Draw(t, "requests") {
			// Not at the end: go-nbd's memory then hangs with its lock held.
			from := rapid.IntRange(0, size-1).Draw(t, "from")
			length := rapid.IntRange(0, (size-from)>>rapid.IntRange(0, 10).Draw(t, "shift")).Draw(t, "length")
			q, answer := requestBytes(0, wireRead, uint64(i), uint64(from), uint32(length)), replySize+length
			if rapid.Bool().Draw(t, "write") {
				q = requestBytes(0, wireWrite, uint64(i), uint64(from), uint32(length), patterned(length, uint64(i))...)
				answer = replySize
			}
			var answers [2][]byte
			for k, c := range both {
				if _, err := c.Write(q); err != nil {
					t.Fatal(err)
				}
				answers[k] = make([]byte, answer)
				if _, err := io.ReadFull(c, answers[k]); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(answers[0], answers[1]) {
				t.Fatalf("the answers to request %d differ: % x and % x", i, answers[0][:replySize], answers[1][:replySize])
			}
		}
		toTheirs.Close()
		if !bytes.Equal(device.bytes(), theirDevice) {
			t.Fatal("the devices differ")
		}
	})
}
