package nbd

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBufferClasses(t *testing.T) {
	for _, test := range []struct {
		n    int
		want int64
	}{
		{1, 16 << 10}, {4096, 16 << 10}, {16 << 10, 16 << 10}, {16<<10 + 1, 32 << 10},
		{1280 << 10, 2 << 20}, {16<<20 + 1, 32 << 20}, {MaxPayload, 32 << 20},
	} {
		if got := classBytes(bufferClass(test.n)); got != test.want {
			t.Errorf("%d bytes take %d, want %d", test.n, got, test.want)
		}
	}
}

// Whatever is asked for and given back, the pool holds what it says, never more
// than its limit, and no two buffers overlap.
func TestBufferPoolModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newBufferPool(MaxPayload+rapid.Int64Range(0, 3).Draw(t, "extra MiB")<<20, false)
		defer p.close()
		type loan struct {
			b    []byte
			mark byte
		}
		var loans []loan
		var lent int64
		verify := func() {
			for _, l := range loans {
				if l.b[0] != l.mark || l.b[len(l.b)-1] != l.mark {
					t.Fatalf("a buffer of %d bytes was written by somebody else", len(l.b))
				}
			}
			mapped, have := p.usage()
			if have != lent || mapped < have || mapped > p.limit {
				t.Fatalf("mapped %d, lent %d; lent by the model %d, limit %d", mapped, have, lent, p.limit)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { verify() },
			"get": func(t *rapid.T) {
				n := rapid.IntRange(1, MaxPayload>>rapid.IntRange(0, 15).Draw(t, "shift")).Draw(t, "bytes")
				b, err := p.tryGet(n)
				if err != nil {
					t.Fatal(err)
				}
				fits := lent+classBytes(bufferClass(n)) <= p.limit
				if (b != nil) != fits {
					t.Fatalf("%d bytes with %d lent: got %v", n, lent, b != nil)
				}
				if b == nil {
					return
				}
				if len(b) != n {
					t.Fatalf("got %d bytes, want %d", len(b), n)
				}
				mark := byte(len(loans) + 1)
				b[0], b[n-1] = mark, mark
				loans = append(loans, loan{b, mark})
				lent += int64(cap(b))
			},
			"put": func(t *rapid.T) {
				if len(loans) == 0 {
					return
				}
				i := rapid.IntRange(0, len(loans)-1).Draw(t, "loan")
				lent -= int64(cap(loans[i].b))
				p.put(loans[i].b)
				loans = append(loans[:i], loans[i+1:]...)
			},
		})
		for _, l := range loans {
			p.put(l.b)
		}
	})
}

// Waiters are served in their order, and nobody overtakes a large one.
func TestBufferPoolWaiters(t *testing.T) {
	p := newBufferPool(MaxPayload, false)
	defer p.close()
	first, err := p.get(4096)
	if err != nil {
		t.Fatal(err)
	}
	order := make(chan int, 3)
	for i, n := range []int{MaxPayload, MaxPayload / 2, MaxPayload / 4} {
		go func() {
			b, err := p.get(n)
			if err != nil {
				t.Error(err)
			}
			order <- n
			p.put(b)
		}()
		eventually(t, "it waits", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.mu.waiters.Len() == i+1
		})
	}
	if b, err := p.tryGet(1); b != nil || err != nil {
		t.Errorf("overtook the waiters: %v", err)
	}
	if !p.contended() {
		t.Error("not contended")
	}
	p.put(first)
	if got := <-order; got != MaxPayload {
		t.Errorf("first served: %d bytes", got)
	}
	<-order
	<-order
	eventually(t, "all is back", func() bool { _, lent := p.usage(); return lent == 0 })
	if b, err := p.tryGet(MaxPayload); b == nil || err != nil {
		t.Errorf("after all that: %v", err)
	} else {
		p.put(b)
	}
}

func TestLimitedLog(t *testing.T) {
	l := newLimitedLog(nil)
	now := l.mu.refilled
	admitted := 0
	for range 1000 {
		if _, ok := l.admit(now); ok {
			admitted++
		}
	}
	if admitted != logBurst {
		t.Errorf("%d lines at once", admitted)
	}
	if dropped, ok := l.admit(now.Add(logInterval)); !ok || dropped != 1000-logBurst {
		t.Errorf("a second later: %v, %d dropped", ok, dropped)
	}
	if _, ok := l.admit(now.Add(logInterval + time.Millisecond)); ok {
		t.Error("a second line in the same second")
	}
	if _, ok := l.admit(now.Add(3 * logInterval)); !ok {
		t.Error("no line two seconds later")
	}
}
