package donor

import (
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/arena"
	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// script is requests, as an owner would send them.
func script(requests ...wire.Request) (b []byte) {
	hello := make([]byte, wire.RequestSize+wire.HelloSize)
	wire.Request{Operation: wire.Hello, Generation: 1, Number: 1, Length: wire.HelloSize}.Encode(hello)
	someone.EncodeHello(hello[wire.RequestSize:])
	b = hello
	for i, r := range requests {
		r.Number = uint64(i + 2)
		frame := make([]byte, wire.RequestSize+r.Length)
		r.Encode(frame)
		b = append(b, frame...)
	}
	return b
}

// repair makes the bytes requests with the right numbers and lengths in bounds, so that
// what else they say is acted on.
func repair(b []byte) []byte {
	number := uint64(0)
	for at := 0; at+wire.RequestSize <= len(b); {
		number++
		header := b[at : at+wire.RequestSize]
		header[0] = 1 + (header[0]-1)%9
		wire.PutNumber(header, number)
		clear(header[36:])
		length := binary.LittleEndian.Uint32(header[4:]) % (wire.MaxBlob + 1)
		for try := range 4 { // fields that the operation does not have
			if _, err := wire.DecodeRequest(header); err == nil {
				break
			}
			switch try {
			case 0:
				header[21], header[22], header[23] = 0, 0, 0
				binary.LittleEndian.PutUint32(header[4:], length)
			case 1:
				header[1] &= 1
				if wire.Operation(header[0]) == wire.Get {
					header[2], header[3] = 1+header[2]%64, 0
				}
				if wire.Operation(header[0]) != wire.Put {
					clear(header[4:8])
				}
			case 2:
				switch wire.Operation(header[0]) {
				case wire.Get, wire.List, wire.Pool, wire.Destroy, wire.Stats:
					clear(header[24:32])
				default:
					header[24] |= 1
				}
			case 3:
				clear(header[1:4])
				if wire.Operation(header[0]) == wire.Pool || wire.Operation(header[0]) == wire.Destroy {
					clear(header[16:24])
				}
			}
		}
		at += wire.RequestSize + int(binary.LittleEndian.Uint32(header[4:]))
	}
	return b
}

// FuzzRequests gives a donor any bytes for a connection: it does not panic, what it
// answers is of the protocol, and its memory stays bounded.
func FuzzRequests(f *testing.F) {
	all := script(
		wire.Request{Operation: wire.Pool, Pool: 1},
		wire.Request{Operation: wire.Pool, Pool: 2, Flags: wire.Ephemeral},
		wire.Request{Operation: wire.Put, Pool: 1, Page: 5, Generation: 3, Length: 100},
		wire.Request{Operation: wire.Put, Pool: 2, Page: 5, Generation: 3, Length: wire.MaxBlob},
		wire.Request{Operation: wire.Put, Pool: 1, Page: wire.MaxPages - 1, Generation: 4, Length: 1},
		wire.Request{Operation: wire.Get, Pool: 1, Page: 4, Count: 64},
		wire.Request{Operation: wire.Get, Pool: 2, Page: 5, Count: 1, Flags: wire.Exclusive},
		wire.Request{Operation: wire.List, Pool: 1, Count: 256},
		wire.Request{Operation: wire.Flush, Pool: 1, Page: 5, Count: 65535, Generation: 1 << 63},
		wire.Request{Operation: wire.FlushObject, Pool: 1, Page: wire.MaxPages - 1024, Generation: 9},
		wire.Request{Operation: wire.Stats},
		wire.Request{Operation: wire.Destroy, Pool: 1},
		wire.Request{Operation: wire.Pool, Pool: 1},
	)
	f.Add(all, false)
	f.Add(all, true)
	f.Add(all[:200], false)
	f.Add(script(), true)
	f.Add([]byte{}, false)

	const limit, quota = 2 << 20, 1 << 20
	dir := tempDir(f, "/dev/shm")
	pl := makePlace(f, filepath.Clean(dir), Config{Limit: limit, Capacity: 4 << 20, Clients: map[string]Grant{"a": {Quota: quota}}})
	f.Cleanup(func() { pl.close(f) })
	f.Fuzz(func(t *testing.T, b []byte, repaired bool) {
		if repaired {
			b = repair(append(script(), b...))
		}
		ours, theirs := socketPair(t)
		defer ours.Close()
		pl.donor.serve(theirs)
		done := make(chan struct{})
		go func() {
			defer close(done)
			readReplies(t, ours)
		}()
		ours.SetDeadline(time.Now().Add(30 * time.Second))
		ours.Write(b)
		ours.CloseWrite()
		<-done
		s := pl.donor.Stats()
		if s.HeldBytes > limit+arena.ChunkSize || s.Clients[0].Used > quota+6*4096 || s.Clients[0].Pools > maxPoolsOfClient {
			t.Errorf("%d bytes held, %+v", s.HeldBytes, s.Clients[0])
		}
		// The next one begins without a past.
		pl.donor.SetClients(nil)
		if err := pl.donor.Forget("a"); err == nil {
			if s := pl.donor.Stats(); s.UsedBytes != 0 {
				t.Errorf("%d bytes charged to nobody", s.UsedBytes)
			}
		}
		pl.donor.SetClients(pl.config.Clients)
	})
}

// readReplies reads until the connection ends.
func readReplies(t *testing.T, conn net.Conn) {
	p := &peer{conn: conn}
	for {
		_, _, err := p.receive()
		if err == nil {
			continue
		}
		if isBounds(err) {
			t.Errorf("a reply that is none: %v", err)
		}
		return
	}
}

func socketPair(t *testing.T) (ours *net.UnixConn, theirs net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := [2]net.Conn{}
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		if conns[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	return conns[0].(*net.UnixConn), conns[1]
}
