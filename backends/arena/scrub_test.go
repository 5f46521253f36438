package arena

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
)

// TestScrub: after objects of an export came, went and were moved, nothing of them is in
// the memory, and what others have is whole; while others put and free at the same time.
func TestScrub(t *testing.T) {
	for _, touch := range []bool{false, true} {
		a := newArena(t, 40*ChunkSize)
		if touch {
			if err := a.Touch(); err != nil {
				t.Fatal(err)
			}
		}
		marker := []byte("secret of one")
		random := rand.New(rand.NewPCG(5, 6))
		var mine []Ref
		theirs := map[Ref]Object{}
		for n := range uint64(3000) {
			o := object(n, 1+random.IntN(MaxData))
			o.Export = 2
			if n%2 == 0 {
				o.Export = 1
				o.Data = bytes.Repeat(marker, 1+len(o.Data)/len(marker))
				o.Data = o.Data[:min(len(o.Data), MaxData)]
			}
			ref, ok := a.Put(o)
			switch {
			case !ok || n%2 == 0 && random.IntN(4) > 0:
				// Full, or it is freed at some time before the last.
				if ok {
					a.Free(ref)
				}
				if len(mine) > 0 && random.IntN(2) == 0 {
					a.Free(mine[len(mine)-1])
					mine = mine[:len(mine)-1]
				}
			case n%2 == 0:
				mine = append(mine, ref)
			default:
				theirs[ref] = o
			}
		}
		if !bytes.Contains(a.memory, marker) {
			t.Fatal("there is nothing to be scrubbed")
		}
		for _, ref := range mine[:len(mine)*3/4] { // the last ones somebody has yet to free
			a.Free(ref)
		}
		var others sync.WaitGroup
		stop := make(chan struct{})
		others.Go(func() {
			for n := uint64(0); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				o := object(n, 1+int(n*37)%MaxData)
				o.Export = 3
				if ref, ok := a.Put(o); ok {
					if got, ok := a.Get(ref); !ok || !same(got, o) {
						t.Error("an object that was put meanwhile is not what it was")
						return
					}
					a.Free(ref)
				}
			}
		})
		a.Scrub(func(o Object) bool { return o.Export == 1 })
		close(stop)
		others.Wait()
		if at := bytes.Index(a.memory, marker[:8]); at >= 0 {
			t.Errorf("kept memory %v: bytes of the export at %d of chunk %d", touch, at%ChunkSize, at/ChunkSize)
		}
		for ref, o := range theirs {
			mustGet(t, a, ref, o)
			a.Free(ref)
		}
		for _, ref := range mine[len(mine)*3/4:] {
			a.Free(ref)
		}
		consistent(t, a)
	}
}

// TestWipe: the data is gone with the object, and what is beside it stays.
func TestWipe(t *testing.T) {
	a := newArena(t, 1<<20)
	first, _ := a.Put(object(1, 100))
	other, _ := a.Put(object(2, 100))
	data := func(ref Ref) []byte { return a.memory[int64(ref)*RefUnit+headerSize:][:100] }
	if !a.Wipe(first) || a.Wipe(first) || a.Wipe(Ref(1)<<RefBits) {
		t.Error("Wipe frees once what there is")
	}
	if !bytes.Equal(data(first), make([]byte, 100)) {
		t.Error("the object was not overwritten")
	}
	mustGet(t, a, other, object(2, 100))
	consistent(t, a)
}
