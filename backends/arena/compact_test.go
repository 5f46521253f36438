package arena

import (
	"math/rand/v2"
	"testing"
)

// TestChurn replaces objects by others of other sizes until the chunks are full
// of holes, and expects that Compact leaves less than 4 % beyond data: headers,
// padding, the tails of chunks, and less than two pages for each class.
func TestChurn(t *testing.T) {
	a := newArena(t, 128<<20)
	random := rand.New(rand.NewPCG(1, 7))
	data := object(1, MaxData).Data
	put := func(i uint64) Ref {
		length := int(min(max(random.NormFloat64()*700+1500, 60), 3584))
		return mustPut(t, a, Object{Page: i, Codec: 1, Data: data[:length]})
	}
	refs := make([]Ref, 16_384)
	for i := range refs {
		refs[i] = put(uint64(i))
	}
	for range 3 * len(refs) {
		i := random.IntN(len(refs))
		mustFree(t, a, refs[i])
		refs[i] = put(uint64(i))
	}
	before := a.Stats()
	move := func(ref Ref) bool {
		o, ok := a.Get(ref)
		if !ok {
			t.Fatalf("Get(%#x) found nothing", uint64(ref))
		}
		refs[o.Page] = mustPut(t, a, o)
		return a.Free(ref)
	}
	for passes := 0; a.Compact(1<<20, move) > 0; passes++ {
		if passes == 10 {
			t.Fatal("Compact finds work again and again with nothing changed")
		}
	}
	s := a.Stats()
	t.Logf("held beyond data: %.1f %%, after compaction %.1f %%, of %d bytes",
		100*float64(before.HeldBytes-before.DataBytes)/float64(before.HeldBytes),
		100*float64(s.HeldBytes-s.DataBytes)/float64(s.HeldBytes), s.HeldBytes)
	if float64(s.HeldBytes-s.DataBytes) > 0.05*float64(s.HeldBytes) {
		t.Errorf("%d bytes held for %d bytes of data", s.HeldBytes, s.DataBytes)
	}
	if resident := a.Usage()[0].Resident; resident > s.HeldBytes || resident < s.HeldBytes*99/100 {
		t.Errorf("%d bytes resident, %d held", resident, s.HeldBytes)
	}
	consistent(t, a)
}

// TestShrink lowers the limit below what is held: nothing is lost, nothing new
// is taken until enough is gone, and what goes is given back at once.
func TestShrink(t *testing.T) {
	a, err := New("test arena", 8<<20, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var refs []Ref
	for i := uint64(0); ; i++ {
		ref, ok := a.Put(object(i, 1000))
		if !ok {
			break
		}
		refs = append(refs, ref)
	}
	if err := a.SetLimit(2 << 20); err != nil {
		t.Fatal(err)
	}
	if a.Room() >= 0 {
		t.Errorf("room for %d chunks with 4 times the limit held", a.Room())
	}
	kept := len(refs) / 5
	for i, ref := range refs {
		mustGet(t, a, ref, object(uint64(i), 1000))
		if i >= kept {
			mustFree(t, a, ref)
		}
		if _, ok := a.Put(object(1, MaxData)); ok && a.Stats().HeldBytes > 2<<20 {
			t.Fatal("Put found room beyond the limit")
		}
	}
	if held := a.Stats().HeldBytes; held > 2<<20 || a.Room() < 0 {
		t.Errorf("%d bytes held, room for %d chunks", held, a.Room())
	}
	for _, limit := range []int64{0, ChunkSize - 1, 16<<20 + 1} {
		if a.SetLimit(limit) == nil {
			t.Errorf("SetLimit(%d) succeeded", limit)
		}
	}
	if err := a.SetLimit(16 << 20); err != nil {
		t.Fatal(err)
	}
	for i := range refs {
		mustPut(t, a, object(uint64(i), 1000))
	}
	consistent(t, a)
}
