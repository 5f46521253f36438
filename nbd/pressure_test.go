package nbd

import (
	"bytes"
	"io"
	"testing"
	"time"
)

// flood sends reads for ever without reading a reply, and returns when the
// server has stopped taking them. The sender ends with the connection.
func flood(t *testing.T, c *testClient, length uint32) {
	t.Helper()
	stuck := make(chan struct{})
	var requests []byte
	for i := range 1000 {
		requests = append(requests, requestBytes(0, wireRead, uint64(i), 0, length)...)
	}
	go func() {
		defer close(stuck)
		_, _ = c.Write(requests)
	}()
	<-stuck // 28 KB fit into the socket, whatever the server does
}

// A client with 1000 reads under way that takes no reply costs nothing but what
// it holds, whether it was served in place, by workers, or with large buffers.
func TestClientThatDoesNotRead(t *testing.T) {
	fast, slow := newMemoryDevice(8<<20), newMemoryDevice(8<<20)
	slow.refuse = always
	s := startServer(t, Config{
		Exports: []Export{{Name: "fast", Device: fast}, {Name: "slow", Device: slow}},
		Workers: 4,
	})
	for _, dead := range []struct {
		export string
		length uint32
	}{
		{"fast", 4096}, {"fast", 1 << 20}, {"fast", 4 << 20},
		{"slow", 4096}, {"slow", 1 << 20}, {"slow", 4 << 20},
	} {
		flood(t, s.attached(t, dead.export), dead.length)
	}
	for _, export := range []string{"fast", "slow"} {
		c := s.attached(t, export)
		for i := range uint64(200) {
			if !bytes.Equal(c.readBack(i*4096, 4096), fast.data[i*4096:(i+1)*4096]) {
				t.Fatal("read the wrong bytes")
			}
		}
		c.send(requestBytes(0, wireFlush, 1, 0, 0))
		c.expect(1, 0, 0)
		c.send(requestBytes(0, wireTrim, 1, 7<<20, 1<<20))
		c.expect(1, 0, 0)
		c.readBack(0, inPlaceLimit)
		c.readBack(0, 7<<20)
	}
}

// Dead clients that hold the whole pool are cut when somebody else needs it.
func TestStalledClientsAreCut(t *testing.T) {
	device := newMemoryDevice(MaxPayload)
	s := startServer(t, Config{
		Exports:      []Export{{Name: "swap", Device: device}},
		BufferBytes:  MaxPayload,
		StallTimeout: 100 * time.Millisecond,
	})
	reader, writer := s.attached(t, "swap"), s.attached(t, "swap")
	flood(t, reader, 4<<20)
	eventually(t, "the pool is lent out", func() bool { return s.Stats().Buffers.PoolLent == MaxPayload })
	// This one waits for memory until the first is cut, and then stops sending.
	go func() { _, _ = writer.Write(requestBytes(0, wireWrite, 1, 0, MaxPayload, filled(100)...)) }()
	eventually(t, "the writer has its buffer", func() bool {
		return s.Stats().Connections.Now == 1 && s.Stats().Buffers.PoolLent == MaxPayload
	})
	third := s.attached(t, "swap")
	if !bytes.Equal(third.readBack(0, 20<<20), device.data[:20<<20]) {
		t.Error("read the wrong bytes")
	}
	eventually(t, "the dead clients are gone", func() bool { return s.Stats().Connections.Now == 1 })
}

// Nobody is cut while nobody else waits.
func TestStalledClientsStay(t *testing.T) {
	device := newMemoryDevice(MaxPayload)
	s := startServer(t, Config{
		Exports:      []Export{{Name: "swap", Device: device}},
		StallTimeout: time.Millisecond,
	})
	c := s.attached(t, "swap")
	go func() { _, _ = c.Write(requestBytes(0, wireRead, 1, 0, MaxPayload)) }()
	eventually(t, "the reply is stuck", func() bool { return s.Stats().Buffers.PoolLent == MaxPayload })
	time.Sleep(50 * time.Millisecond)
	if !bytes.Equal(c.expect(1, 0, MaxPayload), device.data) {
		t.Error("read the wrong bytes")
	}
}

// A device that hangs takes all workers with it; clients of others go on.
func TestHungDevice(t *testing.T) {
	hung, fine := newMemoryDevice(1<<20), newMemoryDevice(4<<20)
	hung.refuse, fine.refuse = always, always
	hung.gate = make(chan struct{})
	s := startServer(t, Config{
		Exports: []Export{{Name: "hung", Device: hung}, {Name: "fine", Device: fine}},
		Workers: 3,
	})
	open := hung.opener(t)
	stuck := s.attached(t, "hung")
	for i := range uint64(3) {
		stuck.send(requestBytes(0, wireRead, i, 0, 4096))
	}
	eventually(t, "all workers are taken", func() bool { return hung.waiting.Load() == 3 })
	c := s.attached(t, "fine")
	for range 50 {
		if !bytes.Equal(c.readBack(8192, 4096), fine.data[8192:12288]) {
			t.Fatal("read the wrong bytes")
		}
	}
	c.readBack(0, 3<<20)
	c.send(requestBytes(0, wireFlush, 1, 0, 0))
	c.expect(1, 0, 0)
	open()
	for range 3 {
		cookie, errno := stuck.nextReply()
		if errno != 0 || cookie > 2 || !bytes.Equal(stuck.read(4096), hung.data[:4096]) {
			t.Error("a wrong reply after the device came back")
		}
	}
}

// A request that waits for the device does not hold up the ones behind it, and
// at most MaxOutstanding of a connection wait.
func TestOutOfOrder(t *testing.T) {
	device := newMemoryDevice(1 << 20)
	device.gate = make(chan struct{})
	refuse := true
	device.refuse = func() bool { defer func() { refuse = false }(); return refuse }
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}, MaxOutstanding: 4})
	open := device.opener(t)
	c := s.attached(t, "swap")
	c.send(requestBytes(0, wireRead, 1, 0, 4096), requestBytes(0, wireRead, 2, 4096, 4096))
	if !bytes.Equal(c.expect(2, 0, 4096), device.data[4096:8192]) {
		t.Error("read the wrong bytes")
	}
	for i := range uint64(10) {
		c.send(requestBytes(0, wireFlush, 100+i, 0, 0))
	}
	eventually(t, "four requests wait", func() bool { return device.waiting.Load() == 4 })
	time.Sleep(20 * time.Millisecond)
	if n := device.waiting.Load(); n != 4 {
		t.Errorf("%d requests wait for the device", n)
	}
	open()
	seen := map[uint64]bool{}
	for range 11 {
		cookie, errno := c.nextReply()
		if errno != 0 || seen[cookie] {
			t.Fatalf("reply to %d with errno %d", cookie, errno)
		}
		seen[cookie] = true
		if cookie == 1 && !bytes.Equal(c.read(4096), device.data[:4096]) {
			t.Error("read the wrong bytes")
		}
	}
}

// More connections than anybody needs, all but one idle.
func TestIdleConnections(t *testing.T) {
	device := newMemoryDevice(1 << 20)
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}, MaxConnections: 1001})
	for range 1000 {
		s.attached(t, "swap")
	}
	c := s.attached(t, "swap")
	for i := range uint64(100) {
		if !bytes.Equal(c.readBack(i*100, 4096), device.data[i*100:i*100+4096]) {
			t.Fatal("read the wrong bytes")
		}
	}
	s.dial(t).expectClosed()
	if got := s.Stats().Exports[0].Clients; got != 1001 {
		t.Errorf("%d clients", got)
	}
	if got := len(s.Clients()); got != 1001 {
		t.Errorf("%d clients listed", got)
	}
}

// A flood of handshakes that lead nowhere does not hurt who is there.
func TestHandshakeFlood(t *testing.T) {
	device := newMemoryDevice(1 << 20)
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}, MaxHandshakes: 8})
	c := s.attached(t, "swap")
	for range 300 {
		s.dial(t)
	}
	for range 100 {
		c.readBack(0, 4096)
	}
	eventually(t, "all were answered", func() bool {
		got := s.Stats().Connections
		return got.Handshaking <= 8 && got.Total+got.Refused[refusedHandshakes]+got.Refused[refusedConnections] == 301
	})
}

// A client whose buffers are all full in both directions still gets everything.
func TestDeepPipeline(t *testing.T) {
	device := newMemoryDevice(8 << 20)
	n := 0
	device.refuse = func() bool { n++; return n%3 == 0 }
	s := startServer(t, Config{Exports: []Export{{Name: "swap", Device: device}}})
	c := s.attached(t, "swap")
	const reads = 400
	go func() {
		for i := range uint64(reads) {
			if _, err := c.Write(requestBytes(0, wireRead, i, i*16384, 100000)); err != nil {
				t.Error(err)
			}
		}
	}()
	for range reads {
		cookie, errno := c.nextReply()
		if errno != 0 || !bytes.Equal(c.read(100000), device.data[cookie*16384:cookie*16384+100000]) {
			t.Fatalf("reply to %d with errno %d", cookie, errno)
		}
	}
	if n, err := c.Write(requestBytes(0, wireDisconnect, 0, 0, 0)); err != nil {
		t.Fatal(n, err)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Error(err)
	}
}
