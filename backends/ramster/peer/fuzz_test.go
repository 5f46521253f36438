package peer

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// FuzzReplies is a donor that sends anything at all. Nothing panics, everything ends once,
// and only pages that were asked for come. The first byte says how the rest is sent; a
// header's operation, number and page are made right where a bit of it says so, so that most
// of what is sent gets far.
func FuzzReplies(f *testing.F) {
	for _, o := range wire.Operations() {
		reply := make([]byte, wire.ReplySize)
		wire.Reply{Operation: o, Number: 3, Page: 5, Flags: wire.More}.Encode(reply)
		for how := range byte(8) {
			f.Add(append([]byte{how}, append(reply, reply...)...))
		}
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 || len(script) > 1<<16 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			d := newDonor(t)
			how, bytes := script[0], script[1:]
			scripted := false
			p, _ := d.start(t, func(c *Config) {
				c.Dial = func(ctx context.Context) (net.Conn, error) {
					if scripted {
						return d.dial(ctx)
					}
					scripted = true
					here, there := net.Pipe()
					d.serving.Go(func() { anything(there, how, bytes) })
					return here, nil
				}
			})
			p.OpenPool(1, false)
			var puts []*ending
			var basins []*basin
			for range 10 {
				e, b := newEnding(), newBasin()
				if p.Put(1, 9, 1, []byte("sealed"), e) {
					puts = append(puts, e)
				}
				p.Flush(1, 9, 1, 1)
				if p.Fetch(1, 5, 3, b) == nil {
					basins = append(basins, b)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				into := make([]wire.Listed, 4)
				if n, next, err := p.List(ctx, 1, 5, into); err == nil && (n > 4 || next <= 5 || n > 0 && into[0].Page < 5) {
					t.Errorf("the list has %v, %d", into[:n], next)
				}
				cancel()
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(time.Minute)
			for _, e := range puts {
				<-e.done
				if e.err != nil || e.calls.Load() != 1 {
					t.Errorf("a put ends with %v, %d times", e.err, e.calls.Load())
				}
			}
			for _, b := range basins {
				pages, err := b.wait(t)
				if err != nil && err != ErrDown && err != ErrDeadline {
					t.Error(err)
				}
				for page, v := range pages {
					if page < 5 || page > 7 || v.generation == 0 || len(v.blob) == 0 || len(v.blob) > wire.MaxBlob {
						t.Errorf("page %d of generation %d came with %d bytes", page, v.generation, len(v.blob))
					}
				}
			}
			if s := p.Stats(); s.Waiting != 0 || s.Fetching != 0 {
				t.Errorf("%+v", s)
			}
		})
	})
}

// anything reads all that comes, and answers with the script: bit 0 greets first, bit 1
// mends each header's number and operation, bit 2 its page.
func anything(c net.Conn, how byte, script []byte) {
	defer c.Close()
	requests := make(chan wire.Request, 1000)
	go func() {
		defer close(requests)
		for b := make([]byte, wire.RequestSize); ; {
			if _, err := io.ReadFull(c, b); err != nil {
				return
			}
			r, err := wire.DecodeRequest(b)
			if err != nil {
				return
			}
			if _, err := io.ReadFull(c, make([]byte, r.Length)); err != nil {
				return
			}
			select {
			case requests <- r:
			default:
			}
		}
	}()
	if how&1 != 0 {
		for _, length := range []int{wire.WelcomeSize, wire.StatsSize} {
			r := <-requests
			b := make([]byte, wire.ReplySize+length)
			wire.Reply{Operation: r.Operation, Number: r.Number, Length: uint32(length)}.Encode(b)
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
	page := uint64(5)
	for len(script) >= wire.ReplySize {
		a, err := wire.DecodeReply(script)
		n := wire.ReplySize
		if err == nil {
			n = min(n+int(a.Length), len(script))
		}
		frame := append([]byte{}, script[:n]...)
		if err == nil && how&2 != 0 {
			r := <-requests
			a.Operation, a.Number = r.Operation, r.Number
			if how&4 != 0 && r.Operation == wire.Get {
				a.Page = page
				if page++; page < 8 {
					a.Flags |= wire.More
				}
			}
			a.Encode(frame)
		}
		if _, err := c.Write(frame); err != nil {
			return
		}
		script = script[n:]
	}
	c.Write(script)
	time.Sleep(time.Second)
}
