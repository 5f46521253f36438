package mover

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func numbers(values ...any) []byte {
	var b []byte
	for _, v := range values {
		b, _ = binary.Append(b, binary.BigEndian, v) // fixed sizes
	}
	return b
}

var greeting = numbers(uint64(serverMagic), uint64(optionMagic), uint16(fixedNewstyle|noZeroes))

func optionReply(kind uint32, body ...byte) []byte {
	return append(numbers(uint64(replyOption), uint32(optionGo), kind, uint32(len(body))), body...)
}

var accepted = append(optionReply(replyInfo, numbers(uint16(infoExport), uint64(1<<20), uint16(flagFlush|flagZeroes))...), optionReply(replyAck)...)

// target says what it is given, takes whatever comes, and hangs up when said is all out and
// the other side has hung up.
func target(t *testing.T, said ...byte) net.Conn {
	t.Helper()
	here, there := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, there) // until the other side hangs up
	}()
	go func() {
		_, _ = there.Write(said) // or the other side has heard enough
	}()
	t.Cleanup(func() {
		here.Close()
		there.Close()
		<-done
	})
	return here
}

// TestHandshakeWithAnybody: whatever a target says, there is a connection or an error.
func TestHandshakeWithAnybody(t *testing.T) {
	for name, test := range map[string]struct {
		said []byte
		want string
	}{
		"good":            {bytes.Join([][]byte{greeting, accepted}, nil), ""},
		"not NBD":         {[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), "no NBD server"},
		"refused":         {append(bytes.Clone(greeting), optionReply(2|1<<31, []byte("moved to x")...)...), `error 2, "moved to x"`},
		"wants TLS":       {append(bytes.Clone(greeting), optionReply(replyTLSWanted)...), ErrTLS.Error()},
		"endless replies": {append(bytes.Clone(greeting), bytes.Repeat(optionReply(replyInfo, 0, 9), 100)...), "without an end"},
		"no size":         {append(bytes.Clone(greeting), optionReply(replyAck)...), "it refuses"},
		"huge reply":      {append(bytes.Clone(greeting), numbers(uint64(replyOption), uint32(optionGo), uint32(replyInfo), uint32(1<<31))...), "makes no sense"},
		"other option":    {append(bytes.Clone(greeting), numbers(uint64(replyOption), uint32(3), uint32(replyAck), uint32(0))...), "makes no sense"},
		"huge size":       {append(bytes.Clone(greeting), optionReply(replyInfo, numbers(uint16(0), uint64(1<<63), uint16(0))...)...), "it says"},
	} {
		c, err := Connect(t.Context(), target(t, test.said...), "vm1", nil)
		if test.want == "" {
			if err != nil || c.Export.Size != 1<<20 {
				t.Errorf("%s: %v", name, err)
				continue
			}
			c.Close()
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := errors.New("enough")
	time.AfterFunc(10*time.Millisecond, func() { cancel(ended) })
	if _, err := Connect(ctx, target(t), "vm1", nil); err == nil {
		t.Error("connected to somebody who says nothing")
	}
}

// TestRepliesOfAnybody: requests are answered, or there is an error; nothing hangs.
func TestRepliesOfAnybody(t *testing.T) {
	good := numbers(uint32(replyMagic), uint32(0), uint64(1))
	for name, test := range map[string]struct {
		replies []byte
		writes  int
		want    error // nil: any
		fails   bool
	}{
		"answered":   {bytes.Repeat(good, 40), 40, nil, false},
		"full":       {append(numbers(uint32(replyMagic), uint32(28), uint64(1)), bytes.Repeat(good, 3)...), 4, unix.ENOSPC, true},
		"bad magic":  {numbers(uint32(1), uint32(0), uint64(1)), 4, nil, true},
		"unasked":    {bytes.Repeat(good, 3), 0, nil, true},
		"cut within": {good[:7], 1, nil, true},
	} {
		here, there := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if _, err := there.Write(greeting); err != nil {
				t.Error(err)
			}
			hello := make([]byte, 4+16+4+3+2+2)
			if _, err := io.ReadFull(there, hello); err != nil {
				t.Error(err)
			}
			if _, err := there.Write(accepted); err != nil {
				t.Error(err)
			}
			// Each reply after its request, as long as there are requests.
			request, rest := make([]byte, 28+100), test.replies
			for range test.writes {
				if _, err := io.ReadFull(there, request); err != nil {
					break // the other side has hung up
				}
				n := min(16, len(rest))
				_, _ = there.Write(rest[:n])
				rest = rest[n:]
				if test.fails && n < 16 {
					break
				}
			}
			_, _ = there.Write(rest)
			if test.fails {
				there.Close()
			}
		}()
		c, err := Connect(t.Context(), here, "vm1", nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for range test.writes {
			if err = c.Write(0, make([]byte, 100)); err != nil {
				break
			}
		}
		if err == nil && test.fails && test.writes == 0 {
			<-c.ended
		}
		if waited := c.Wait(); err == nil {
			err = waited
		}
		if (err != nil) != test.fails || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
		there.Close()
		c.Close()
		<-done
	}
}
