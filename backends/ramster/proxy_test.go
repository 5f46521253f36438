package ramster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tmemd/tmemd/backends/ramster/wire"
)

// fault is what a message meets on its way.
type fault int

const (
	passes     fault = iota
	dropped          // it does not arrive
	duplicated       // it arrives twice
	reordered        // the next one arrives before it
	delayed          // it arrives later, as all after it
	flooded          // nothing for longer than deadlines, and then all at once
	cutBefore        // the connection ends before it
	cutWithin        // the connection ends in the middle of it
	cutAfter         // it arrives, and the connection ends
	halfOpen         // from now on nothing arrives in this direction
	faultKinds
)

// gentle faults let the connection go on.
func (f fault) gentle() bool { return f == passes || f == delayed || f == flooded }

// weather is what becomes of messages between the owner and one donor. Zero: nothing.
type weather struct {
	every  uint64       // one message in so many meets a fault, on average; 0: none does
	budget atomic.Int64 // how many may end a connection: each makes the owner wait longer before the next
	away   bool         // the network is gone: nobody connects, and no message arrives
	// alter changes a reply that belongs to a request, or returns false to have it
	// left out; more is sent behind it. May be nil.
	alter func(wire.Request, *frame) (more []frame, keep bool)
}

// frame is one message: a request or a reply.
type frame struct {
	request wire.Request
	reply   wire.Reply
	payload []byte
}

func (f frame) encode(toDonor bool) []byte {
	if toDonor {
		b := make([]byte, wire.RequestSize, wire.RequestSize+len(f.payload))
		f.request.Encode(b)
		return append(b, f.payload...)
	}
	b := make([]byte, wire.ReplySize, wire.ReplySize+len(f.payload))
	f.reply.Encode(b)
	return append(b, f.payload...)
}

func readFrame(from net.Conn, toDonor bool) (f frame, err error) {
	header, length := make([]byte, wire.ReplySize), uint32(0)
	if toDonor {
		header = make([]byte, wire.RequestSize)
	}
	if _, err := io.ReadFull(from, header); err != nil {
		return f, err
	}
	if toDonor {
		f.request, err = wire.DecodeRequest(header)
		length = f.request.Length
	} else {
		f.reply, err = wire.DecodeReply(header)
		length = f.reply.Length
	}
	if err != nil {
		return f, errors.Join(errNoFrame, err)
	}
	f.payload = make([]byte, length)
	_, err = io.ReadFull(from, f.payload)
	return f, err
}

// errNoFrame is for bytes of one of ours that are not of the protocol.
var errNoFrame = errors.New("what was sent is not a message")

// line is the network between the owner and one donor.
type line struct {
	testing.TB
	name    string
	now     atomic.Pointer[weather]
	direct  atomic.Bool         // connections have no test between them
	connect func(net.Conn) bool // gives the donor a connection; false if it is not there
	saw     func(frame)         // each request of the owner's; may be nil
	count   [faultKinds]atomic.Int64
	mu      sync.Mutex
	random  *rand.Rand
	links   map[*link]bool
	pumps   sync.WaitGroup
}

// link is one connection, in two parts with the test between them.
type link struct {
	*line
	owner, donor net.Conn
	done         chan struct{}
	once         sync.Once

	mu    sync.Mutex
	asked []wire.Request // that a reply is due for
	told  sync.Mutex     // held to write to the owner
}

func newLine(t testing.TB, name string, seed uint64, connect func(net.Conn) bool) *line {
	l := &line{TB: t, name: name, connect: connect, links: map[*link]bool{}}
	l.random = rand.New(rand.NewPCG(seed, uint64(name[0])))
	l.now.Store(&weather{})
	return l
}

func (l *line) set(w *weather) { l.now.Store(w) }

// pair is two ends of a connection that buffers as a network does.
func pair() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		c, e := net.FileConn(file)
		err = errors.Join(err, e, file.Close())
		ends[i] = c
	}
	return ends[0], ends[1], err
}

var errAway = errors.New("no route")

// dial is for the owner.
func (l *line) dial(context.Context) (net.Conn, error) {
	if l.now.Load().away {
		return nil, errAway
	}
	ours, toOwner, err := pair()
	if err != nil {
		return nil, err
	}
	if l.direct.Load() {
		if !l.connect(toOwner) {
			return nil, errors.Join(errAway, ours.Close(), toOwner.Close())
		}
		return ours, nil
	}
	theirs, toDonor, err := pair()
	if err != nil {
		return nil, errors.Join(err, ours.Close(), toOwner.Close())
	}
	if !l.connect(theirs) {
		return nil, errors.Join(errAway, ours.Close(), toOwner.Close(), theirs.Close(), toDonor.Close())
	}
	k := &link{line: l, owner: toOwner, donor: toDonor, done: make(chan struct{})}
	l.mu.Lock()
	l.links[k] = true
	l.mu.Unlock()
	l.pumps.Go(func() { k.pump(k.owner, k.donor, true) })
	l.pumps.Go(func() { k.pump(k.donor, k.owner, false) })
	return ours, nil
}

// cut ends all connections.
func (l *line) cut() {
	l.mu.Lock()
	links := make([]*link, 0, len(l.links))
	for k := range l.links {
		links = append(links, k)
	}
	l.mu.Unlock()
	for _, k := range links {
		k.end()
	}
}

// close ends all connections and waits for their goroutines.
func (l *line) close() {
	l.set(&weather{away: true})
	l.cut()
	l.pumps.Wait()
}

func (k *link) end() {
	k.once.Do(func() {
		close(k.done)
		k.owner.Close()
		k.donor.Close()
		k.line.mu.Lock()
		delete(k.line.links, k)
		k.line.mu.Unlock()
	})
}

// meets says what the next message meets.
func (l *line) meets(w *weather) (fault, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	pause := time.Duration(l.random.IntN(20)) * time.Millisecond
	if w.every == 0 || l.random.Uint64N(w.every) != 0 {
		return passes, pause
	}
	f := fault(1 + l.random.IntN(int(faultKinds)-1))
	if !f.gentle() && w.budget.Add(-1) < 0 {
		f = delayed
	}
	l.count[f].Add(1)
	return f, pause
}

// sleep returns false if the connection ends meanwhile.
func (k *link) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-k.done:
		return false
	}
}

// pump carries messages in one direction, until the connection ends.
func (k *link) pump(from, to net.Conn, toDonor bool) {
	defer k.end()
	var held []byte // was overtaken
	for {
		f, err := readFrame(from, toDonor)
		if errors.Is(err, errNoFrame) {
			k.Errorf("donor %s, to it %v: %v", k.name, toDonor, err)
		}
		if err != nil {
			return
		}
		w := k.now.Load()
		for w.away { // also what was under way when it went
			if !k.sleep(time.Millisecond) {
				return
			}
			w = k.now.Load()
		}
		if toDonor && k.saw != nil {
			k.saw(f)
		}
		all, keep := k.change(w, &f, toDonor)
		var out []byte
		if keep {
			out = f.encode(toDonor)
		}
		for _, more := range all {
			out = append(out, more.encode(toDonor)...)
		}
		meets, pause := k.meets(w)
		switch meets {
		case delayed:
			if !k.sleep(pause) {
				return
			}
		case flooded:
			if !k.sleep(20 * pause) {
				return
			}
		case cutBefore:
			return
		case dropped:
			out = nil
		case duplicated:
			out = slices.Concat(out, out)
		case reordered:
			held, out = append(held, out...), nil
		case cutWithin:
			out = out[:len(out)*int(pause/time.Millisecond)/20]
		}
		if out != nil && meets != reordered {
			out, held = append(out, held...), nil
		}
		if !k.write(to, out, toDonor) || meets == cutWithin || meets == cutAfter {
			return
		}
		if meets == halfOpen {
			_, _ = io.Copy(io.Discard, from)
			return
		}
	}
}

func (k *link) write(to net.Conn, b []byte, toDonor bool) bool {
	if !toDonor {
		k.told.Lock()
		defer k.told.Unlock()
	}
	_, err := to.Write(b)
	return err == nil
}

// change has the weather's functions look at a message.
func (k *link) change(w *weather, f *frame, toDonor bool) (more []frame, keep bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if toDonor {
		k.asked = append(k.asked, f.request)
		return nil, true
	}
	at := slices.IndexFunc(k.asked, func(r wire.Request) bool { return r.Number == f.reply.Number })
	if at < 0 {
		k.Errorf("donor %s answers what it was not asked: %+v", k.name, f.reply)
		return nil, true
	}
	asked := k.asked[at]
	k.asked = k.asked[at:]
	if w.alter == nil {
		return nil, true
	}
	return w.alter(asked, f)
}

// seed returns what a test's events follow from, and how to repeat them.
func seedOf(t testing.TB) uint64 {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("again: SEED=%d", seed)
		}
	})
	return seed
}
